"""Results of benchmarks: printed as tables, and written as JSON, which docs/benchmarks.md shows.

A command defines its flags and `results.define_flags()`, measures, and ends with

    results.report(
        results.Result(
            benchmark="sample",
            tables=[results.Table(["", "ours, tokens/s", "ratio"], [["10M", "1,623", "1.86"]])],
            figures={"ours": [1590.1, 1623.4]},          # all numbers as measured, for JSON
            options=results.given() | {"allocator": "glibc's default"},
            sides={"ours": {"threads": "2"}, "PyTorch": {"threads": "2"}},
            versions={"torch": "2.13.0"},
            notes=["Compilation is not counted."],
        )
    )

which adds the date, the commit, the command, versions and the machine, prints the tables, and
writes the file of `--json`. With `--json=docs/benchmarks/sample-10m.json` the result is kept:
`python -m benchmarks.write` shows every file there in docs/benchmarks.md, in the order of their
names, between the marks `<!-- benchmarks.sample -->` and `<!-- /benchmarks.sample -->` of its
benchmark. Those of a new one are added to the page by hand, below a heading and its method. A
package of its own, benchmarks/NAME with a `__main__.py`, is run by `python -m`.

Beside this file: turns.py (sides turn about), workers.py (a side in another process), machine.py
(memory). Cells are Markdown, so that a figure that counts may be **bold**.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from rich.table import Table as Printed

from benchmarks import machine, pages
from data.atomic import write_atomically
from printable import SafeConsole
from train.runtime import strict_json
from train.terminal.console import columns, console
from train.terminal.text import wrap

KEPT = pages.DOCS / "benchmarks"


class Table(NamedTuple):
    """A table of ready cells.

    Attributes:
      columns: their heads. rows: the cells of each, as many as there are columns.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Result:
    """A benchmark's result.

    Attributes:
      benchmark: name of the command's module in benchmarks/, such as `sample` or `ppo.toy`.
      tables: what is shown. figures: all that was measured, for JSON.
      options: settings of all sides. sides: {side: {setting: its value}}, where they may differ.
      versions: {package: version}, beside those of Python, JAX and Seedpod.
      notes: sentences below the tables.
    """

    benchmark: str
    tables: Sequence[Table]
    figures: Mapping[str, Any]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sides: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()


def define_flags() -> None:
    """Defines --json."""
    flags.DEFINE_string(
        "json", "", "File for the result; one in docs/benchmarks is shown by benchmarks.write."
    )


def given() -> dict[str, Any]:
    """{flag: value} of the flags that the command itself defines, paths and empty ones aside."""
    own = flags.FLAGS.flags_by_module_dict().get(sys.argv[0], [])
    values = {flag.name: flag.value for flag in own}
    return {n: v for n, v in values.items() if v not in ("", None, []) and "/" not in str(v)}


def record(result: Result) -> dict[str, Any]:
    """The content of a result's JSON."""
    facts = machine.facts()
    return {
        "benchmark": result.benchmark,
        **facts,
        "versions": facts["versions"] | dict(result.versions),
        "options": dict(result.options),
        "sides": {side: dict(settings) for side, settings in result.sides.items()},
        "tables": [table._asdict() for table in result.tables],
        "notes": list(result.notes),
        "figures": machine.shortened(dict(result.figures)),
    }


def report(result: Result) -> None:
    """Prints a result, and writes it to the file of --json."""
    content = record(result)
    show(content)
    if flags.FLAGS.json:
        path = Path(flags.FLAGS.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, strict_json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        console.print(f"written to {path}")


def show(content: Mapping[str, Any]) -> None:
    """Prints the content of a result's JSON, as wide as the terminal is; in a pipe, unbroken."""
    _say(head(content))
    for table in tables(content):
        printed = Printed(box=None, pad_edge=False, header_style="dim")
        for number, column in enumerate(table.columns):
            cells = [row[number] for row in table.rows]
            numbers = number and all(re.match(r"[*+−–-]*\d|$", cell) for cell in cells)
            printed.add_column(
                _plain(column), justify="right" if numbers else "left", overflow="fold"
            )
        for cells in table.rows:
            printed.add_row(*map(_plain, cells))
        console.print()
        SafeConsole(width=columns()).print(printed)
    for note in content["notes"]:
        console.print()
        _say(note)


def _say(text: str) -> None:
    console.print("\n".join(wrap(_plain(text), columns())))


def head(content: Mapping[str, Any]) -> str:
    """The command of a result, its date, machine, versions and options."""
    made = content["machine"]
    cores = "one core" if made["cores"] == 1 else f"{made['cores']} cores"
    parts = [f"{cores} of {made['processor']}"]
    if made.get("memory_gib"):
        parts.append(f"{made['memory_gib']} GiB of memory")
    if made.get("devices"):
        parts.append(made["devices"])
    if made.get("load") is not None:
        parts.append(f"a load of {made['load']} before it")
    versions = ", ".join(f"{name} {value}" for name, value in content["versions"].items())
    where = f", commit {content['commit'][:10]}" if content.get("commit") else ""
    text = f"`{content['command']}`, {content['date']}{where}: {', '.join(parts)}; {versions}."
    if content["options"]:
        options = ", ".join(f"{name} {_text(value)}" for name, value in content["options"].items())
        text += f" Options: {options}."
    return text


def _plain(text: str) -> str:
    """Markdown without its marks."""
    return re.sub(r"\*\*|`", "", text)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def tables(content: Mapping[str, Any]) -> list[Table]:
    """The tables of a result: first the settings of both sides, then its own."""
    own = [Table(table["columns"], table["rows"]) for table in content["tables"]]
    sides = content["sides"]
    if not sides:
        return own
    names = list(dict.fromkeys(name for settings in sides.values() for name in settings))
    rows = [[name, *(str(side.get(name, "")) for side in sides.values())] for name in names]
    return [Table(["", *sides], rows), *own]


def section(content: Mapping[str, Any]) -> str:
    """A result as Markdown."""
    parts = [head(content)]
    parts += [pages.table(table.columns, table.rows) for table in tables(content)]
    return "\n\n".join([*parts, *content["notes"]])


def kept(folder: Path = KEPT) -> dict[str, list[dict[str, Any]]]:
    """{benchmark: the results of the JSON files in a folder, by name}."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        found.setdefault(content["benchmark"], []).append(content)
    return found


def written(page: str, folder: Path = KEPT) -> str:
    """A page with the results of a folder between its marks.

    Raises:
      ValueError: a benchmark has no marks on the page.
    """
    for benchmark, contents in kept(folder).items():
        page = pages.replaced(page, f"benchmarks.{benchmark}", "\n\n".join(map(section, contents)))
    return page
