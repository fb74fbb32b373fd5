"""Prices of chip-hours: a TOML file with the user's own numbers and their date.

    date = 2026-11-01

    [v5e]
    spot = 0.5
    reserved = 0.75

Seedpod ships no prices: they differ by contract and region, and change.
"""

from __future__ import annotations

import datetime
import math
import re
import tomllib
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from data.errors import DataError
from suggestions import did_you_mean, nearest
from tpu import chips

CAPACITIES = ("spot", "on_demand", "reserved")
OLD = 180  # days from which on a file is said to be old
EXAMPLE = "docs/prices.toml"
MOST_BYTES = 1 << 20


class Prices(NamedTuple):
    """The content of a price file.

    Attributes:
      date: on which the prices held. dollars: {kind of chip: {capacity: dollars a chip-hour}}.
    """

    path: str
    date: datetime.date
    dollars: Mapping[str, Mapping[str, float]]

    def of(self, kind: str) -> Mapping[str, float]:
        """{capacity: dollars a chip-hour} of a kind of chip.

        Raises:
          DataError: the file has no price of it.
        """
        if kind not in self.dollars:
            raise DataError(
                f"{self.path} has no price of {kind}; it has {', '.join(self.dollars)}. Add "
                f"[{_toml_key(kind)}] with one of {', '.join(CAPACITIES)}"
            )
        return self.dollars[kind]

    def described(self, today: datetime.date | None = None) -> str:
        """The file, its date and its age, for the terminal."""
        days = ((today or datetime.date.today()) - self.date).days
        age = f"{days} day{'s' * (days != 1)} old" if days else "of today"
        text = f"{self.path} of {self.date.isoformat()}, {age}"
        return f"{text}: check that they still hold" if days >= OLD else text


def kinds() -> list[str]:
    """The kinds of chips that a file may name: generations of TPUs, JAX's names of other devices,
    and cpu, a device of this machine."""
    others = [name for name in chips.PEAK_FLOPS if not name.startswith("TPU")]
    return [*dict.fromkeys(chips.GENERATIONS.values()), *others, "cpu"]


def read(path: str, today: datetime.date | None = None) -> Prices:
    """The prices of a file.

    Raises:
      DataError: it cannot be read, or is no price file; the message names the line where known.
    """
    text = _text(path)
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason, _, place = str(error).partition(" (at ")
        number = re.match(r"line (\d+)", place)
        line = int(number[1]) if number else len(text.splitlines())
        raise DataError(f"{path}:{line} is no TOML: {reason}. {EXAMPLE} is an example") from None
    date = _date(path, content.pop("date", None), today or datetime.date.today())
    dollars = {kind: _table(path, text, kind, table) for kind, table in content.items()}
    if not dollars:
        raise DataError(f"{path} has no prices; {EXAMPLE} is an example")
    return Prices(path, date, dollars)


def _text(path: str) -> str:
    file = epath.Path(path)
    try:
        if file.stat().length > MOST_BYTES:
            raise DataError(f"{path} is too large for a price file; {EXAMPLE} is an example")
        return file.read_bytes().decode()
    except OSError as error:
        reason = error.strerror or error
        raise DataError(
            f"--price={path} cannot be read: {reason}; {EXAMPLE} is an example"
        ) from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text in UTF-8; {EXAMPLE} is an example") from None


def _date(path: str, value: Any, today: datetime.date) -> datetime.date:
    if isinstance(value, datetime.datetime):
        value = value.date()
    if not isinstance(value, datetime.date):
        raise DataError(
            f"{path} needs the date of its prices, above all else and without quotes: date = "
            f"{today.isoformat()}"
        )
    if value > today:
        raise DataError(f"{path}: its date, {value.isoformat()}, is in the future")
    return value


def _table(path: str, text: str, kind: str, table: Any) -> dict[str, float]:
    """{capacity: dollars} of a kind."""
    known = kinds()
    if kind not in known:
        hint = did_you_mean(nearest(kind, known))
        place = _place(path, text, kind)
        raise DataError(f"{place}: {kind!r:.60} is no kind of chip ({', '.join(known)}){hint}")
    if not isinstance(table, dict) or not table:
        raise DataError(
            f"{_place(path, text, kind)}: write [{_toml_key(kind)}] and below it one of "
            f"{', '.join(f'{capacity} = DOLLARS' for capacity in CAPACITIES)}"
        )
    for capacity, value in table.items():
        place = f"{_place(path, text, kind, capacity)}: {kind}.{capacity}"
        if capacity not in CAPACITIES:
            hint = did_you_mean(nearest(capacity, CAPACITIES))
            raise DataError(f"{place}: the capacities are {', '.join(CAPACITIES)}{hint}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            raise DataError(
                f"{place} is {value!r:.60}; write the dollars of a chip-hour, a number above 0"
            )
    return {capacity: float(table[capacity]) for capacity in CAPACITIES if capacity in table}


def _place(path: str, text: str, kind: str, capacity: str = "") -> str:
    """path:line of a table, or of a key in it; the path alone where that is not found."""
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"\s*\[\s*[\"']?(.*?)[\"']?\s*\]", line):
            table = match[1]
            if table == kind and not capacity:
                return f"{path}:{number}"
        key = line.partition("=")[0].strip(" \t\"'")
        if (table, key) == ((kind, capacity) if capacity else ("", kind)):
            return f"{path}:{number}"
    return path


def _toml_key(kind: str) -> str:
    return kind if re.fullmatch(r"[\w-]+", kind) else f'"{kind}"'
