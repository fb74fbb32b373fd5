"""Settings as text for the terminal: those of a recipe, or those that a word finds."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from model.config import TransformerConfig
from model.sizes import SIZES
from ranges import ConfigError
from suggestions import did_you_mean, nearest
from train.config import names
from train.config.fields import Group, Setting, groups, value_text
from train.config.run import default
from train.terminal.text import wrap

_SIZELESS = {field.name: field.default for field in dataclasses.fields(TransformerConfig)}


def listing(recipe: Mapping | None, query: str, width: int) -> str:
    """The settings that a query finds, all of them if it is empty, with a recipe's values.

    Args:
      recipe: a recipe, with `stages` that of a chain; None shows defaults.
      query: a group, such as `optimizer.`; a setting; words in names, in meanings or in other
        libraries' names; `stages.NAME.` before any of them picks a stage.

    Returns:
      "" if nothing is found.

    Raises:
      ConfigError: the query names a stage that is not in the chain.
    """
    recipe = recipe or default().to_dict()
    stages = recipe.get("stages")
    if stages:
        order = [name for name in recipe.get("order", ()) if name in stages]
        stages = {name: stages[name] for name in dict.fromkeys([*order, *stages])}
    runs, prefix = dict(stages or {"": recipe}), ""
    if stages:
        prefix = "stages.NAME."
        if match := re.match(r"stages\.([^.]+)\.?", query):
            query = query[match.end() :]
            if match[1] != "NAME":
                if match[1] not in stages:
                    near = did_you_mean(nearest(match[1], stages))
                    known = ", ".join(stages)
                    raise ConfigError(f"there is no stage {match[1]}; it has {known}{near}")
                runs, prefix = {"": stages[match[1]]}, match[0].rstrip(".") + "."
    lines = [f"{query}: {note}"] if (note := names.note(query)) else []
    for group, chosen in _found(query, runs):
        lines += ["", f"{prefix}{group.key}".strip(".") or "The run"]
        for setting in chosen:
            lines += _entry(setting, runs, prefix, width)
        if group.same_as is not None and not query:
            text = f"The others have their defaults; --help={group.key}. lists them"
            lines += wrap(text, width, 2, 2)
    return "\n".join(lines).strip("\n")


def _found(query: str, runs: Mapping[str, Mapping]) -> list[tuple[Group, Sequence[Setting]]]:
    """[(group, its settings that the query finds)]; of a group with the settings of another, those
    that a recipe changes."""
    every = groups()
    name = query.strip().rstrip(".")
    found: list[tuple[Group, Sequence[Setting]]] = [
        (group, group.settings)
        for group in every
        if name and f"{group.key}.".startswith(f"{name}.")
    ]
    found = found or [(g, [s]) for g in every for s in g.settings if s.key == name]
    if found:
        return found
    for group in every:
        chosen = [s for s in group.settings if names.matches(query, s.key, s.meaning)]
        if group.same_as is not None:
            chosen = [s for s in chosen if any(_changed(s, run) for run in runs.values())]
        if chosen:
            found.append((group, chosen))
    return found


def _value(setting: Setting, recipe: Mapping) -> Any:
    """The recipe's value of a setting; MISSING where it has none, as of a new entry of `evals`."""
    value: Any = recipe
    for name in setting.key.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return dataclasses.MISSING
        value = value[name]
    if isinstance(value, Mapping):
        return {key: inner for key, inner in value.items() if inner != ""}
    return tuple(value) if isinstance(value, list) else value


def _changed(setting: Setting, recipe: Mapping) -> bool:
    return _value(setting, recipe) not in (setting.default, dataclasses.MISSING)


def _entry(setting: Setting, runs: Mapping[str, Mapping], prefix: str, width: int) -> list[str]:
    """A setting with its value, default, type and meaning."""
    changed = {name: run for name, run in runs.items() if _changed(setting, run)}
    kind = setting.type
    if setting.allowed:
        kind += f" {setting.allowed}" if setting.allowed[0] in "[(≥>" else f": {setting.allowed}"
    head = f"{'*' if changed else ' '} {prefix}{setting.key}"
    if setting.default is not dataclasses.MISSING:
        shown = value_text(setting.default)
        if changed and "" in runs:
            value = _value(setting, runs[""])
            head, kind = f"{head} = {value_text(value)}", f"{kind}; default {shown}"
        elif "" in runs:
            head += f" = {shown}"
        else:
            kind = f"{kind}; default {shown}"
        if "" in runs and (of_size := _of_size(setting, runs[""])):
            kind += of_size
    lines = wrap(f"{head}  ({kind})", width, 0, 6)
    if setting.meaning:
        lines += wrap(setting.meaning, width, 6, 6)
    if "" not in runs and changed:
        values = [f"{name} {value_text(_value(setting, run))}" for name, run in changed.items()]
        lines += wrap(f"here {', '.join(values)}", width, 6, 6)
    return lines


def _of_size(setting: Setting, recipe: Mapping) -> str:
    """The value that a size gives to a setting of the model that is None."""
    group, _, leaf = setting.key.rpartition(".")
    size = recipe.get("model", {}).get("size", "")
    if group != "model" or size not in SIZES or _value(setting, recipe) is not None:
        return ""
    value = SIZES[size].get(leaf, _SIZELESS.get(leaf, dataclasses.MISSING))
    return "" if value is dataclasses.MISSING else f"; {value_text(value)} of size {size}"
