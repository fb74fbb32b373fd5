"""The points of a sweep: grids, lists that are zipped, and draws, as the flags name them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ranges import ConfigError

DIGITS = 4  # of a drawn number, which is part of a folder's name
EXAMPLES = {
    "grid": "optimizer.peak_lr=1e-3,3e-3",
    "zip": "optimizer.name=adamw,muon",
    "random": "optimizer.weight_decay=0:0.2",
    "log_uniform": "optimizer.peak_lr=1e-4:1e-2",
}


class Axis(NamedTuple):
    """A setting and the values that it takes, as texts."""

    key: str
    values: tuple[str, ...]


class Draw(NamedTuple):
    """A setting whose value is drawn from [low, high], uniformly or with `log` in its logarithm."""

    key: str
    low: float
    high: float
    log: bool

    def value(self, share: float, integer: bool) -> str:
        """The text of the value below which a `share` of the draws lies."""
        low, high = (math.log(x) if self.log else x for x in (self.low, self.high))
        value = low + share * (high - low)
        return rounded(math.exp(value) if self.log else value, integer)


def rounded(value: float, integer: bool) -> str:
    """A drawn number as the text of a setting."""
    return str(round(value)) if integer else repr(float(f"{value:.{DIGITS}g}"))


class Space(NamedTuple):
    """The points of a sweep.

    Attributes:
      grid: axes that are all combined. zipped: axes that go pairwise. draws: drawn settings.
      trials: number of draws. seed: of the draws.
    """

    grid: tuple[Axis, ...] = ()
    zipped: tuple[Axis, ...] = ()
    draws: tuple[Draw, ...] = ()
    trials: int = 0
    seed: int = 0

    @property
    def keys(self) -> tuple[str, ...]:
        """The settings that vary, in the order of the flags."""
        axes = (*self.grid, *self.zipped)
        return (*(axis.key for axis in axes), *(draw.key for draw in self.draws))

    def points(self, integers: Mapping[str, bool]) -> Iterator[dict[str, str]]:
        """{setting: text} of each point; of the first N of more draws the same N.

        Args:
          integers: {drawn setting: whether it is an int}.
        """
        rows = list(zip(*(axis.values for axis in self.zipped), strict=True)) or [()]
        rng, drawn = np.random.default_rng(self.seed), [dict[str, str]()]
        if self.draws:
            shares = rng.random((self.trials, len(self.draws)))
            drawn = [
                {d.key: d.value(x, integers[d.key]) for d, x in zip(self.draws, row, strict=True)}
                for row in shares
            ]
        for values in itertools.product(*(axis.values for axis in self.grid)):
            fixed = dict(zip((axis.key for axis in self.grid), values, strict=True))
            for row in rows:
                pairs = dict(zip((axis.key for axis in self.zipped), row, strict=True))
                yield from (fixed | pairs | draw for draw in drawn)


def space(flags: Mapping[str, Any], adaptive: bool = False) -> Space:
    """The space that flags name.

    Args:
      flags: `grid`, `zip`, `random` and `log_uniform`, lists of texts; `trials` and `seed`.
      adaptive: whether a search chooses the points.

    Raises:
      ConfigError: a flag that cannot be read, a setting that two name, lists of other lengths,
        draws without their number.
    """
    zipped = tuple(axis("zip", text) for text in flags["zip"])
    found = Space(
        tuple(axis("grid", text) for text in flags["grid"]),
        zipped,
        tuple(draw(flag, text) for flag in ("random", "log_uniform") for text in flags[flag]),
        flags["trials"],
        flags["seed"],
    )
    for key in found.keys:
        if found.keys.count(key) > 1:
            raise ConfigError(f"{key} is varied {found.keys.count(key)} times; name it once")
        if key == "seed":
            raise ConfigError("seeds are not part of the grid; type --seeds=3 for three of each")
    lengths = {axis.key: len(axis.values) for axis in zipped}
    if len(set(lengths.values())) > 1:
        texts = ", ".join(f"{count} of {key}" for key, count in lengths.items())
        raise ConfigError(f"--zip pairs its lists, which differ in length: {texts}")
    if (found.draws or adaptive) and not found.trials:
        raise ConfigError("--trials is missing: the number of draws, as --trials=20")
    if found.trials and not (found.draws or adaptive):
        raise ConfigError(
            f"--trials={found.trials} is the number of draws, and nothing is drawn; type "
            f"--log_uniform={EXAMPLES['log_uniform']}"
        )
    return found


def axis(flag: str, text: str) -> Axis:
    """KEY=VALUE,VALUE as an Axis."""
    key, _, values = _divided(flag, text)
    parts = split_values(values)
    if not all(parts):
        raise ConfigError(f"--{flag}={text} has an empty value; type --{flag}={EXAMPLES[flag]}")
    if twice := [part for part in parts if parts.count(part) > 1 and flag == "grid"]:
        raise ConfigError(f"--{flag}={text} has {twice[0]} twice")
    return Axis(key, tuple(parts))


def draw(flag: str, text: str) -> Draw:
    """KEY=LOW:HIGH as a Draw."""
    key, _, bounds = _divided(flag, text)
    low, _, high = bounds.partition(":")
    try:
        found = Draw(key, float(low), float(high), flag == "log_uniform")
    except ValueError:
        raise ConfigError(
            f"--{flag}={text}: write KEY=LOW:HIGH, as --{flag}={EXAMPLES[flag]}"
        ) from None
    if not (math.isfinite(found.low) and math.isfinite(found.high) and found.low < found.high):
        raise ConfigError(f"--{flag}={text}: LOW must be below HIGH, and both finite")
    if found.log and found.low <= 0:
        raise ConfigError(f"--{flag}={text}: LOW must be above 0, as its logarithm is drawn")
    return found


def _divided(flag: str, text: str) -> tuple[str, str, str]:
    key, equals, values = text.partition("=")
    if not key or not equals or not values:
        raise ConfigError(f"--{flag}={text} names no values; type --{flag}={EXAMPLES[flag]}")
    return key, equals, values


def split_values(text: str) -> Sequence[str]:
    """The values between the commas that are outside of brackets and quotes."""
    parts = re.findall(
        r"""(?:[^,(\[{"']|\([^)]*\)|\[[^\]]*\]|\{[^}]*\}|"[^"]*"|'[^']*')+|,""", text
    )
    values, after_comma = list[str](), True
    for part in parts:
        if part == "," and after_comma:
            values.append("")
        elif part != ",":
            values.append(part.strip())
        after_comma = part == ","
    return values + [""] * after_comma
