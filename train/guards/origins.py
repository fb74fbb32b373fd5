"""The rows of a batch and the files and lines that they are from."""

from __future__ import annotations

from typing import NamedTuple

from data.loader import Loader
from data.pipeline import Data


class BatchOrigin(NamedTuple):
    """The rows of a batch, for a message.

    Attributes:
      kind: of data: `batch`, `prompts`, `text`. number: of the batch among those of its kind, from
        0; for the first two as in `python -m data.inspect --step`.
      rows: their indices in the data. sources: for each row, where its examples were read.
    """

    kind: str
    number: int
    rows: list[int]
    sources: list[list[str]]

    @classmethod
    def of(cls, kind: str, number: int, loader: Loader, data: Data) -> BatchOrigin:
        """The origin of a loader's batch."""
        rows = loader.rows(number)
        return cls(kind, number, rows, [data.locations(row) for row in rows])
