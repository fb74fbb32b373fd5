"""The page docs/config.md: the type, default, range and meaning of every setting of a run.

Types, defaults and ranges are those of the dataclasses of train/config/run.py, meanings those of
the `Attributes:` of their docstrings; rows of registries that add settings are read in the same
way.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import registry
from data.mixture import SourceConfig
from data.read.readers import READERS
from model.config import RopeScaling, TransformerConfig
from ranges import LARGEST, LARGEST_INT, LARGEST_SIZE, Range, without_none
from registry import Registry
from train.config.model import ModelConfig
from train.config.run import run_class
from train.evals.registry import EVALS, entry_class
from train.objectives import registry as objectives
from train.optimizer import OPTIMIZERS, SCHEDULES
from train.rl.verifiers import VERIFIERS

_INTRODUCTION = """\
# Settings

Every setting of a run, written by `python -m train.config.reference > docs/config.md`.

A recipe sets them as `config.KEY = value`, a command line as `--config.KEY=VALUE`, and for a stage
of a chain as `--config.stages.NAME.KEY=VALUE`. An unknown key, a value of another type and a number
outside its range are refused before any training. A range such as `[0, 1)` includes 0 and excludes
1; upper bounds that only prevent overflow are left out.
"""
# Bounds that only prevent overflow.
_UNBOUNDED = (LARGEST, LARGEST_INT, LARGEST_SIZE, 1e12, 10**12)


def page() -> str:
    """The text of docs/config.md."""
    sections: list[str] = [_INTRODUCTION]
    shown: dict[type, str] = {}
    for key, cls, default in _groups(run_class(), "", run_class()()):
        if cls in shown:
            sections.append(f"## {key}\n\nThe settings of `{shown[cls]}`.\n")
        else:
            shown[cls] = key
            sections.append(_section(key, cls, default))
    return "\n".join(sections)


def _groups(cls: type, key: str, default) -> Iterator[tuple[str, type, object]]:
    """(key, dataclass, its default or None) of every group of settings, the run's own first."""
    yield key, cls, default
    for name, kind in typing.get_type_hints(cls).items():
        inner = f"{key}.{name}".strip(".")
        if registry.is_settings(kind):
            yield from _groups(kind, inner, getattr(default, name))
        elif inner == "data.mixture":
            yield f"{inner}.NAME", SourceConfig, None
        elif inner == "evals":
            yield f"{inner}.NAME", entry_class(EVALS), None
        elif inner == "model.rope_scaling":
            yield inner, RopeScaling, None


def _section(key: str, cls: type, default) -> str:
    """One group of settings as a heading, a summary and a table."""
    hints = typing.get_type_hints(cls, include_extras=True)
    meanings = _meanings(cls)
    lines = [f"## {key or 'The run'}", "", _summary(cls.__doc__ or ""), ""]
    lines += ["| setting | type | default | range | meaning |", "|---|---|---|---|---|"]
    for field in dataclasses.fields(cls):
        kind, allowed = _type(hints[field.name])
        if dataclasses.is_dataclass(kind):
            continue
        value = _default(field) if default is None else getattr(default, field.name)
        cells = (
            f"`{key}.{field.name}`" if key else f"`{field.name}`",
            _type_text(kind),
            "" if value is dataclasses.MISSING else f"`{_value_text(value)}`",
            allowed,
            meanings.get(field.name, ""),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _default(field: dataclasses.Field):
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def _summary(doc: str) -> str:
    """A docstring without its attributes, as paragraphs of one line each."""
    text = inspect.cleandoc(doc).partition("Attributes:")[0].strip()
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _meanings(cls: type) -> dict[str, str]:
    """{field: meaning}, of the class and of the registries' rows whose settings it has."""
    fields = [field.name for field in dataclasses.fields(cls)]
    meanings = {}
    if cls is ModelConfig:
        inner = [field.name for field in dataclasses.fields(TransformerConfig)]
        meanings |= attributes(TransformerConfig.__doc__, inner)
    meanings |= {
        name: f"weight of the verifier: {_first_sentence(row.function)}"
        for name, row in VERIFIERS.items()
    }
    tables: tuple[Registry, ...] = (OPTIMIZERS, SCHEDULES, VERIFIERS, EVALS, READERS)
    for table in tables:
        for name in table:
            if settings := table.settings_of(name):
                for field, text in attributes(settings.__doc__, fields).items():
                    meanings[field] = f"of `{name}`: {text}"
    meanings |= attributes(cls.__doc__, fields)
    if "init_from" in fields:
        meanings["init_from"] += f"; the roles are {', '.join(objectives.roles())}"
    for name in [name for name in fields if name not in meanings]:
        near = [other for other, text in meanings.items() if f"`{name}`" in text]
        if near:
            meanings[name] = f"see `{near[0]}`"
    return meanings


def attributes(doc: str | None, fields: Iterable[str]) -> dict[str, str]:
    """{field: meaning} of the `Attributes:` of a docstring.

    An entry begins a sentence or follows a semicolon, and may be of several fields: `b1, b2: of
    AdamW.`
    """
    known = set(fields)
    text = " ".join(inspect.cleandoc(doc or "").partition("Attributes:")[2].split())
    starts = []
    for match in re.finditer(r"(?:^|(?<=[.;:)`] ))((?:\w+, )*\w+): ", text):
        names = match[1].split(", ")
        if known.issuperset(names):
            starts.append((match.start(), match.end(), names))
    meanings = {}
    for (_, start, names), (end, _, _) in zip(starts, [*starts[1:], (len(text), 0, [])]):
        meanings |= dict.fromkeys(names, text[start:end].strip().rstrip(";."))
    return meanings


def _first_sentence(function) -> str:
    text = " ".join((inspect.getdoc(function) or "").split())
    return re.split(r"(?<=\.) (?=[A-Z])", text)[0].rstrip(".")


def _type(hint: Any) -> tuple[Any, str]:
    """(a field's type, its range as text)."""
    hint, _ = without_none(hint)
    if typing.get_origin(hint) is Mapping:
        value_type, allowed = _type(typing.get_args(hint)[1])
        return types.GenericAlias(Mapping, (str, value_type)), allowed
    if typing.get_origin(hint) is not typing.Annotated:
        return hint, ""
    kind, *extras = typing.get_args(hint)
    allowed = next((_range_text(extra) for extra in extras if isinstance(extra, Range)), "")
    return kind, allowed


def _range_text(allowed: Range) -> str:
    """`[0, 1)`, `≥ 1`, `> 0`; with `also`, `> 1, or 0`."""
    low, high = _number(allowed.low), _number(allowed.high)
    if allowed.low in [-bound for bound in _UNBOUNDED]:
        text = ""
    elif allowed.high in _UNBOUNDED:
        text = f"{'≥' if allowed.ends[0] == '[' else '>'} {low}"
    else:
        text = f"{allowed.ends[0]}{low}, {high}{allowed.ends[1]}"
    return text + (f", or {_number(allowed.also)}" if allowed.also is not None else "")


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _type_text(kind) -> str:
    if isinstance(kind, type):
        return kind.__name__
    if typing.get_origin(kind) is Mapping:
        return f"mapping of {_type_text(typing.get_args(kind)[1])}"
    text = str(kind).replace("typing.", "").replace("collections.abc.", "")
    return text.replace("tuple[str, ...]", "tuple of str").replace(" | ", " or ")


def _value_text(value) -> str:
    return repr(dict(value)) if isinstance(value, Mapping) else repr(value).replace("'", '"')
