"""The settings of a run as data: the type, default, range and meaning of each, by group.

Types, defaults and ranges are those of the dataclasses of train/config/run.py, meanings those of
the `Attributes:` of their docstrings; rows of registries that add settings are read in the same
way. docs/config.md and `--help` (train/cli/listing.py) show them.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import registry
from data.mixture import SourceConfig
from data.passages.retrievers import RETRIEVERS
from data.read.readers import READERS
from model.config import RopeScaling, TransformerConfig
from model.sizes import SIZES
from ranges import UNBOUNDED, Range, without_none
from registry import Registry
from train.config.model import ModelConfig
from train.config.run import run_class
from train.evals.registry import EVALS, entry_class
from train.objectives import registry as objectives
from train.optimizer import OPTIMIZERS, SCHEDULES
from train.rl.verifiers import VERIFIERS


class Setting(NamedTuple):
    """One setting.

    Attributes:
      default: MISSING (dataclasses) where there is none. allowed: its range or its values, "" if
        its type says all.
    """

    key: str
    type: str
    default: Any
    allowed: str
    meaning: str


class Group(NamedTuple):
    """A group of settings; the run's own have the key "".

    Attributes:
      same_as: an earlier group with the same settings, or None.
    """

    key: str
    summary: str
    settings: tuple[Setting, ...]
    same_as: str | None


def groups() -> list[Group]:
    """Every group of settings of a run, its own first."""
    shown: dict[type, str] = {}
    listed = []
    for key, cls, default in _classes(run_class(), "", run_class()()):
        settings = tuple(_settings(key, cls, default))
        listed.append(Group(key, _summary(cls.__doc__ or ""), settings, shown.get(cls)))
        shown.setdefault(cls, key)
    return listed


def _classes(cls: type, key: str, default) -> Iterator[tuple[str, type, object]]:
    """(key, dataclass, its default or None) of every group of settings, the run's own first."""
    yield key, cls, default
    for name, kind in typing.get_type_hints(cls).items():
        inner = f"{key}.{name}".strip(".")
        if registry.is_settings(kind):
            yield from _classes(kind, inner, getattr(default, name))
        elif inner == "data.mixture":
            yield f"{inner}.NAME", SourceConfig, None
        elif inner == "evals":
            yield f"{inner}.NAME", entry_class(EVALS), None
        elif inner == "model.rope_scaling":
            yield inner, RopeScaling, None


def _settings(key: str, cls: type, default) -> Iterator[Setting]:
    """The settings of one group, without the groups in it."""
    hints = typing.get_type_hints(cls, include_extras=True)
    meanings = _meanings(cls)
    for field in dataclasses.fields(cls):
        kind, allowed = _type(hints[field.name])
        if not dataclasses.is_dataclass(kind):
            full = f"{key}.{field.name}".strip(".")
            value = _default(field) if default is None else getattr(default, field.name)
            text = _type_text(kind)
            allowed = allowed or _choices(full)
            yield Setting(full, text, value, allowed, meanings.get(field.name, ""))


def _choices(key: str) -> str:
    """The names that a setting chooses from, where they are rows of a table."""
    tables: dict[str, Iterable[str]] = {
        table.key: table for table in (OPTIMIZERS, SCHEDULES, objectives.STAGES, RETRIEVERS)
    }
    tables |= {"model.size": SIZES, "evals.NAME.type": EVALS}
    return ", ".join(tables.get(key.removeprefix("value_"), ()))


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
    tables: tuple[Registry, ...] = (OPTIMIZERS, SCHEDULES, VERIFIERS, EVALS, READERS, RETRIEVERS)
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
    if allowed.low in [-bound for bound in UNBOUNDED]:
        text = ""
    elif allowed.high in UNBOUNDED:
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


def value_text(value: Any) -> str:
    return repr(dict(value)) if isinstance(value, Mapping) else repr(value).replace("'", '"')
