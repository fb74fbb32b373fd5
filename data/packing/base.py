"""The parts of packing that all schemas share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from data.errors import DataError
from data.read.bad_records import BadRecords

ON_LONG = ("error", "cut", "drop")
# A reason with this ending counts examples that were used in part; all others count examples that
# were not used.
CUT = ", cut"
NO_ANSWER = "no token of an answer within the length"


class NothingLeft(DataError):
    """No example is left to make rows of."""


class Packed(NamedTuple):
    """Rows of examples.

    Attributes:
      rows: arrays of data/batch.py. examples: the examples in them. origins: for each row the
        indices of the examples of which it holds at least a part.
    """

    rows: dict[str, np.ndarray]
    examples: list
    origins: list


def too_long(location: str, count: int, length: int) -> DataError:
    """The error for an example of `count` tokens, read at `location`."""
    return DataError(
        f"{location}: {count} tokens, and data.length is {length}. Raise it, or set "
        "--config.data.on_long=cut (keep the beginning) or =drop (leave such examples out)"
    )


def map_examples(
    examples: Iterable[dict], bad: BadRecords | None, function: Callable
) -> Iterator[tuple[dict, Any]]:
    """Yields (example, function(example)); an example that raises ValueError goes to `bad`."""
    bad = bad or BadRecords()
    for example in examples:
        try:
            result = function(example)
        except ValueError as error:  # also of a chat template or a tokenizer
            bad.add(example["where"], error)
        else:
            yield example, result
