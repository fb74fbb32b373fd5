"""The page docs/config.md: every setting of a run (train/config/fields.py) as tables."""

from __future__ import annotations

import dataclasses

from train.config.fields import Group, groups, value_text

_INTRODUCTION = """\
# Settings

Every setting of a run, written by `python -m train.config.reference > docs/config.md`.

A recipe sets them as `config.KEY = value`, a command line as `--config.KEY=VALUE`, and for a stage
of a chain as `--config.stages.NAME.KEY=VALUE`. An unknown key, a value of another type and a number
outside its range are refused before any training. A range such as `[0, 1)` includes 0 and excludes
1; upper bounds that only prevent overflow are left out.
"""


def page() -> str:
    """The text of docs/config.md."""
    return "\n".join([_INTRODUCTION, *map(_section, groups())])


def _section(group: Group) -> str:
    """One group of settings as a heading, a summary and a table."""
    if group.same_as is not None:
        return f"## {group.key}\n\nThe settings of `{group.same_as}`.\n"
    lines = [f"## {group.key or 'The run'}", "", group.summary, ""]
    lines += ["| setting | type | default | allowed | meaning |", "|---|---|---|---|---|"]
    for setting in group.settings:
        value = setting.default
        cells = (
            f"`{setting.key}`",
            setting.type,
            "" if value is dataclasses.MISSING else f"`{value_text(value)}`",
            setting.allowed,
            setting.meaning,
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
