"""The `--config.KEY=VALUE` flags of a command line, checked against the known settings.

The keys of some mappings are the user's choice (`data.filters`, `data.mixture`, …), and
ml_collections sets existing keys only: all flags for one such mapping become one flag for the whole
mapping.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from absl import flags
from flax.traverse_util import flatten_dict
from ml_collections import config_flags

from data.mixture import SourceConfig
from ranges import ConfigError, Number, Range, check_value, split_names, without_none
from registry import is_settings
from train.config import budget, names
from train.config.run import keys, literal, run_class
from train.evals.base import EvalConfig
from train.evals.registry import EVALS, entry_class


class _UnsetParser(flags.ArgumentParser):
    """Parses a flag of a setting that is None, whose type is checked where the run is built."""

    def parse(self, argument):
        return literal(argument)


config_flags.register_flag_parser_for_type(type(None), _UnsetParser())

_FLAG = re.compile(r"--?(?:no)?config\.([^=]*)(?:=(.*))?", re.DOTALL)
_BUDGET = re.compile(r"--?config\.(stages\.[^.=]+\.)?steps=(.*[A-Za-z])", re.DOTALL)
_PLUGINS = re.compile(r"--?config\.(?:stages\.[^.=]+\.)?plugins(?:=(.*))?", re.DOTALL)


def plugins_of(argv: Sequence[str], recipe: Mapping) -> tuple[str, ...]:
    """The plugins that a command line and a recipe, or the stages of a chain, name."""
    words, named = iter(argv[1:]), []
    for word in words:
        if flag := _PLUGINS.fullmatch(word):
            text = next(words, "") if flag[1] is None else flag[1]
            named += re.findall(r"[^\s,()\[\]'\"]+", text)  # a,b or ('a', 'b')
    for run in (recipe, *recipe.get("stages", {}).values()):
        if isinstance(value := run.get("plugins", ()), str | list | tuple):
            named += split_names(value)
    return tuple(named)


def gather(argv: Sequence[str], recipe: Mapping) -> list[str]:
    """A command line with one flag for each mapping that it changes.

    Raises:
      ConfigError: an unknown key, or a value that its setting does not take.
    """
    flat = flatten_dict(recipe, keep_empty_nodes=True)
    known = {".".join(map(str, path)): value for path, value in flat.items()}
    budgets: dict[str, str] = {}  # {prefix: the budget of the last `steps`, "" if that is a number}
    out, changed, words = list(argv[:1]), {}, iter(argv[1:])
    for word in words:
        if word == "--":
            out += [word, *words]
        elif not (flag := _FLAG.fullmatch(word)):
            out.append(word)
        elif match := _BUDGET.fullmatch(word):
            budgets[match[1] or ""] = budget.from_steps(match[2])["budget"]
        else:
            key, text = flag.groups()
            if "" in key.split("."):
                raise ConfigError(f"{word} names no setting; write --config.KEY=VALUE")
            mapping, hint = _locate(key)
            if mapping is None:
                if key not in known:
                    raise ConfigError(_unknown(key, recipe))
                out.append(word)
                if key.removeprefix(_prefix(key)) == "steps":
                    budgets[_prefix(key)] = ""
                continue
            if mapping not in changed:
                changed[mapping] = len(out), _lookup(recipe, mapping, key)
                out.append("")
            text = next(words, "") if text is None else text
            position, tree = changed[mapping]
            inner_key = key.removeprefix(mapping).strip(".")
            value = _value(key, text, hint)
            changed[mapping] = (
                position,
                _set(tree, inner_key.split("."), value) if inner_key else value,
            )
    for mapping, (position, tree) in changed.items():
        out[position] = f"--config.{mapping}={tree!r}"
    end = out.index("--") if "--" in out else len(out)
    out[end:end] = [
        f"--config.{prefix}budget={text}"
        for prefix, text in budgets.items()
        if text or known.get(f"{prefix}budget")
    ]
    return out


def _prefix(key: str) -> str:
    """`stages.NAME.` of a key of a chain (train/workflows/multistage.py), else ""."""
    return match[0] if (match := re.match(r"stages\.[^.]+\.", key)) else ""


def _locate(key: str):
    """(the mapping that a key is in or None, the type of the key's value if it is known)."""
    prefix, hint, mapping = _prefix(key), run_class(), None
    path = prefix[:-1]
    for name in key.removeprefix(prefix).split("."):
        if is_settings(hint):
            hint = typing.get_type_hints(hint, include_extras=True).get(name)
        elif typing.get_origin(hint) is Mapping:
            hint = typing.get_args(hint)[1]
        else:
            hint = None
        hint, _ = without_none(hint)
        # `mixture` and `decontaminate`; the values of the latter are checked where they are read.
        hint = SourceConfig if hint is Mapping else hint
        # An evaluation of any type; `build` checks those of its own type.
        hint = entry_class(EVALS) if hint is EvalConfig else hint
        path = f"{path}.{name}".strip(".")
        if mapping is None and typing.get_origin(hint) is Mapping:
            mapping = path
    return mapping, hint


def _lookup(recipe: Mapping, mapping: str, key: str) -> dict:
    """A copy of a mapping of the recipe."""
    group: Any = recipe
    for name in mapping.split("."):
        group = group.get(name) if isinstance(group, Mapping) else None
    if group is None and mapping.removeprefix(_prefix(mapping)) in keys():
        group = {}  # a setting without entries
    if not isinstance(group, Mapping):
        raise ConfigError(_unknown(key, recipe))
    return dict(group)


def _set(tree: Mapping, path: Sequence[str], value) -> dict:
    """A copy of nested dicts with one value set."""
    name = next((k for k in tree if str(k) == path[0]), path[0])  # 1000 and "1000" are one step
    if len(path) > 1:
        inside = tree.get(name, {})
        value = _set(inside if isinstance(inside, Mapping) else {}, path[1:], value)
    return {**tree, name: value}


def _value(key: str, text: str, hint):
    """The value of a flag's text.

    Raises:
      ConfigError: it does not have the setting's type, or is out of its range.
    """
    kind, *extras = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
    if kind in (int, float):
        try:
            value = int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
        except ValueError:
            raise ConfigError(f"{key}={text!r:.80} is not a number") from None
        for allowed in (e for e in extras if isinstance(e, Range)):
            check_value(key, value, Number(kind, allowed))
        return value
    if kind in (object, bool):
        return literal(text)
    group = typing.get_origin(kind) is Mapping or is_settings(kind)
    several = text[:1] in ("(", "[") and tuple[str, ...] in typing.get_args(kind)
    if not group and not several:
        return text
    value = literal(text)
    if group and not isinstance(value, dict):
        raise ConfigError(
            f"{key}={text!r:.80}; set --config.{key}.NAME=VALUE, or write a Python dict"
        )
    if several and not all(isinstance(v, str) for v in value or [None]):
        raise ConfigError(f"{key}={text!r:.80} is not a list of strings")
    return value


def _unknown(key: str, recipe: Mapping) -> str:
    """The error about a key that is not a setting."""
    prefix = _prefix(key)
    bare = key.removeprefix(prefix)
    stages = recipe.get("stages", {})
    if prefix and not stages:
        return f"unknown config key {key}: the recipe is no chain{names.suggest(bare, keys())}"
    if prefix and prefix.split(".")[1] not in stages:
        return f"unknown config key {key}; its stages are {', '.join(stages)}"
    if bare in keys() and (prefix or not stages):
        return f"{key} is a group of settings; set its fields, as --config.{key}.NAME=VALUE"
    if stages and not prefix:
        text = names.suggest(bare, keys(), "stages.NAME.")
        return f"unknown config key {key}{text}; NAME is {', '.join(stages)}"
    return f"unknown config key {key}{names.suggest(bare, keys(), prefix)}"
