"""Ranges of settings, declared with their types and checked when a dataclass is created; lists of
names in settings.

    keep: Count = 2
    b1: Annotated[float, Range(0, 1, "[)")] = 0.9

    def __post_init__(self):
        ranges.check(self, "checkpoint.")

This file imports nothing of Seedpod, so that model/, data/ and train/ can all use it.
"""

from __future__ import annotations

import dataclasses
import functools
import numbers
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

LARGEST_INT = 2**31 - 1  # of int32, which steps and token ids are
LARGEST_SIZE = 2**24  # of one axis of an array
LARGEST = 1e9  # float32 still holds the sum of many squares of it

# Bounds that only prevent overflow.
UNBOUNDED = (LARGEST, LARGEST_INT, LARGEST_SIZE, 1e12)


class ConfigError(ValueError):
    """A configuration that cannot be run. The message says which key, why, and what to type."""


@dataclasses.dataclass(frozen=True)
class Range:
    """An interval of numbers; NaN and the infinities are in none.

    Attributes:
      low, high: its bounds. ends: whether they belong to it, as in mathematics: "[]", "(]", "[)".
      also: a number outside of it that is allowed too, such as 0 to turn something off.
    """

    low: float
    high: float
    ends: str = "[]"
    also: float | None = None

    def __contains__(self, value) -> bool:
        above = value >= self.low if self.ends[0] == "[" else value > self.low
        below = value <= self.high if self.ends[1] == "]" else value < self.high
        return bool(above and below) or value == self.also

    def __str__(self) -> str:
        text = f"{'at least' if self.ends[0] == '[' else 'above'} {_written(self.low)}"
        if self.high not in UNBOUNDED or -self.low in UNBOUNDED:
            text += f" and {'at most' if self.ends[1] == ']' else 'below'} {_written(self.high)}"
        return text + (f", or {self.also}" if self.also is not None else "")


def _written(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


Count = Annotated[int, Range(1, LARGEST_INT)]
CountOr0 = Annotated[int, Range(0, LARGEST_INT)]
Size = Annotated[int, Range(1, LARGEST_SIZE)]
SizeOr0 = Annotated[int, Range(0, LARGEST_SIZE)]
# JAX makes a key of the lowest 32 bits of a seed.
Seed = Annotated[int, Range(0, 2**32 - 1)]
Positive = Annotated[float, Range(0, LARGEST, "(]")]
NonNegative = Annotated[float, Range(0, LARGEST)]
Signed = Annotated[float, Range(-LARGEST, LARGEST)]
Share = Annotated[float, Range(0, 1)]


def split_names(value: str | Sequence[str]) -> tuple[str, ...]:
    """The names in a setting, which is "a,b" or a sequence of such texts."""
    texts = [value] if isinstance(value, str) else value
    return tuple(name.strip() for text in texts for name in text.split(",") if name.strip())


class Number(NamedTuple):
    """A numeric field.

    Attributes:
      kind: int or float. allowed: None where no range is declared.
      mapping: whether the field is a mapping of names to such numbers. optional: whether it may be
        None.
    """

    kind: type
    allowed: Range | None
    mapping: bool = False
    optional: bool = False


def without_none(hint: object) -> tuple[object, bool]:
    """(the type without None, whether None was part of it)."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
    if len(kinds) == 1 and types.NoneType in typing.get_args(hint):
        return kinds[0], True
    return hint, False


@functools.cache
def fields_of(cls: type) -> dict[str, Number]:
    """The numeric fields of a class by name."""
    fields = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        hint, optional = without_none(hint)
        mapping = typing.get_origin(hint) is Mapping
        if mapping:
            hint = typing.get_args(hint)[1]
        kind, *extras = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
        if kind in (int, float):
            allowed = next((e for e in extras if isinstance(e, Range)), None)
            fields[name] = Number(kind, allowed, mapping, optional)
    return fields


def check_value(key: str, value: object, number: Number) -> None:
    """Raises ConfigError for a value of another type or outside of its range."""
    kind = numbers.Integral if number.kind is int else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        wanted = "an int" if number.kind is int else "a float"
        raise ConfigError(f"{key}={value!r:.80} is a {type(value).__name__}; it must be {wanted}")
    if number.allowed is not None and value not in number.allowed:
        raise ConfigError(f"{key}={value!r:.80}; it must be {number.allowed}")


def check_fields(cls: type, values: Mapping, prefix: str = "") -> None:
    """Raises ConfigError for a number in `values` that its field of `cls` does not allow.

    Args:
      prefix: the part of a key before the field's name, such as `optimizer.`.
    """
    for name, number in fields_of(cls).items():
        if name not in values or number.allowed is None:
            continue
        if number.optional and values[name] is None:
            continue
        if number.mapping:
            if not isinstance(values[name], Mapping):
                raise ConfigError(f"{prefix}{name}={values[name]!r:.80} is not a group of numbers")
            for key, value in values[name].items():
                check_value(f"{prefix}{name}.{key}", value, number)
        else:
            check_value(prefix + name, values[name], number)


def check_steps(key: str, values: Mapping) -> None:
    """Raises ConfigError for a key of the setting {step: value} that is no step after the first."""
    for step in values:
        if not str(step).isdecimal() or not int(step):
            raise ConfigError(f"{key}: {step!r:.80} is no step after 0; write {{1000: VALUE}}")


def check(settings: object, prefix: str = "") -> None:
    """`check_fields` of a dataclass instance."""
    check_fields(type(settings), vars(settings), prefix)
