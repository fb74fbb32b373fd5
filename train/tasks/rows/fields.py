"""The fields of a benchmark's records, and the errors of a record that has others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data.errors import DataError
from data.schemas.templates import wrong_type
from suggestions import did_you_mean, nearest


def value(record: Mapping[str, Any], name: str) -> Any:
    """The value of a field.

    Raises:
      DataError: the record has none of that name.
    """
    if name in record:
        return record[name]
    listed = ", ".join(repr(key)[:40] for key in list(record)[:12] if key != "where")
    raise DataError(
        f"no field {name!r}{did_you_mean(nearest(name, record))} (the record has {listed})",
        "missing_field",
    )


def text(record: Mapping[str, Any], name: str) -> str:
    """A field that is a string.

    Raises:
      DataError: it is not there, or something else.
    """
    found = value(record, name)
    if not isinstance(found, str):
        raise wrong_type(name, "a string", found)
    return found


def texts(record: Mapping[str, Any], name: str) -> list[str]:
    """A field that is a list of strings, which is not empty.

    Raises:
      DataError: it is not there, or something else.
    """
    found = value(record, name)
    if not isinstance(found, list) or not found or not all(isinstance(t, str) for t in found):
        raise wrong_type(name, "a list of strings", found)
    return found


def index(record: Mapping[str, Any], name: str, names: Sequence[Any], base: int = 0) -> int:
    """A field that names one of `names` by its number from `base`.

    Raises:
      DataError: it is not there, or names none.
    """
    found = value(record, name)
    number = int(found) if isinstance(found, str) and found.strip().isdecimal() else found
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if not isinstance(number, int) or not base <= number < base + len(names):
        last = base + len(names) - 1
        raise DataError(
            f"{name!r} is {found!r:.40}; it must be the number of a choice, {base} to {last}",
            "wrong_type",
        )
    return int(number) - base


def has(record: Mapping[str, Any], *names: str) -> bool:
    """Whether the record has all of these fields."""
    return all(name in record for name in names)
