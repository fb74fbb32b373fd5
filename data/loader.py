"""The loader: this host's rows of batch k, a function of the step k alone."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from data.config import DataConfig
from data.errors import DataError
from data.mixture import Mixture
from data.pipeline import Data
from data.ramp import Ramp, cut
from data.rows import Rows, num_rows, row_bytes, take_rows
from data.shuffle import permute

# The size of a block of batches that one thread reads, and the number of threads: with slow storage
# several wait for it at once; with few cores, threads slow each other down.
READ_BYTES, THREADS = 8 << 20, max(1, min(8, (os.cpu_count() or 1) // 2))


class Loader:
    """Batches indexed by step. Row j of global batch k is row n + j of an endless sequence of
    shuffled epochs, or of a mixture of such sequences, where n is the number of rows of the batches
    before (k·B without a ramp). So it depends on (seed, k, j) alone, whichever host reads it.

    Args:
      rows: the rows of all sources. mixture: the order of rows, where there are several sources.
      ramp: the number of rows of each batch, and the pieces that they are cut into.
      local: B -> the rows j of a batch of B rows that this host reads; by default all.
      counts: [R] the number of examples that begin in each row, if known. whole: as of `cut`.

    Attributes:
      steps_per_epoch: with the batches that a ramp ends with.
    """

    def __init__(
        self, rows: Rows, ramp: Ramp, seed: int,
        local: Callable[[int], Sequence[int] | np.ndarray] = np.arange,
        mixture: Mixture | None = None, counts: np.ndarray | None = None, whole: bool = False,
    ):  # fmt: skip
        self._size, self._seed, self._counts, self.ramp = num_rows(rows), seed, counts, ramp
        self._rows, self._mixture, self._whole = rows, mixture, whole
        self._local = functools.cache(lambda size: np.asarray(local(size), np.int64))
        self.steps_per_epoch = self._size / ramp.levels[-1].rows

    def index(self, numbers: np.ndarray) -> np.ndarray:
        """The rows at positions `numbers` [n] of the endless sequence."""
        if self._mixture:
            return self._mixture.index(numbers)
        return permute(numbers, self._size, self._seed)

    def batches(self, steps: range) -> list[dict[str, np.ndarray]]:
        """This host's rows of each of the batches `steps`."""
        batches = []
        for level, part in self.ramp.split(steps):
            starts = level.first_row + (np.asarray(part) - level.start) * level.rows
            numbers = starts[:, None] + self._local(level.rows)
            index = self.index(numbers.reshape(-1)).reshape(numbers.shape)
            for rows in index:
                batches.append(cut(take_rows(self._rows, rows), level.pieces, self._whole))
        return batches

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This host's rows of batch `step`."""
        return self.batches(range(step, step + 1))[0]

    def progress(self, steps: int) -> dict[str, float]:
        """`epochs`, the number of passes over the rows in the first `steps` batches; of a mixture
        `epochs/NAME` and `share/NAME`, the share of the batches, for each source."""
        rows = self.ramp.rows_before(steps)
        if not self._mixture:
            return {"epochs": rows / self._size}
        shares, epochs = self._mixture.shares(rows), self._mixture.epochs(rows)
        return {f"share/{name}": share for name, share in shares.items()} | {
            f"epochs/{name}": passes for name, passes in epochs.items()
        }

    def examples(self, steps: range) -> int | None:
        """The number of examples that begin in the batches `steps`; None if that is unknown."""
        if self._counts is None or not steps:
            return None if self._counts is None else 0
        start, stop = self.ramp.rows_before(steps.start), self.ramp.rows_before(steps.stop)
        if self._mixture:
            return int(np.sum(self._counts[self._mixture.between(start, stop)]))
        return int(np.sum(self._counts[self.index(np.arange(start, stop))]))

    def rows(self, step: int) -> list[int]:
        """The indices of all hosts' rows of batch `step` among the rows of all sources."""
        numbers = np.arange(self.ramp.rows_before(step), self.ramp.rows_before(step + 1))
        return self.index(numbers).tolist()

    def sources(self, step: int) -> list[str]:
        """The name of the source of each of this host's rows of batch `step`; "" without a
        mixture."""
        local = self._local(self.ramp.level(step).rows)
        rows = (self.ramp.rows_before(step) + local).tolist()
        return self._mixture.names_of(rows) if self._mixture else [""] * len(rows)

    def require(self, count: int) -> None:
        """Checks that there are `count` batches.

        Raises:
          DataError: the sources of a mixture are used up before.
        """
        limit = self._mixture.rows if self._mixture else None
        if limit is not None and limit < self.ramp.rows_before(count):
            raise DataError(
                f"data.mixture ends after {self.ramp.steps_within(limit)} batches, and with those "
                f"that are left out the run needs {count}. Raise an `epochs`, or lower "
                "--config.steps"
            )

    def iterate(self, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches start..stop-1, read ahead in threads; several small ones at a time."""
        import grain  # imports Orbax and a server of metrics

        largest = max(level.rows for level in self.ramp.levels)
        size = max(1, len(self._local(largest))) * row_bytes(self._rows)
        several = max(1, READ_BYTES // size)
        firsts = range(start, stop, several)
        blocks = grain.MapDataset.source(firsts).map(
            lambda first: self.batches(range(first, min(first + several, stop)))
        )
        options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=THREADS)
        return itertools.chain.from_iterable(blocks.to_iter_dataset(options))


def make_loader(
    config: DataConfig, data: Data, batch_size: int, seed: int,
    local: Callable[[int], Sequence[int] | np.ndarray] = np.arange, steps: int = 0,
    whole: bool = False,
) -> Loader:  # fmt: skip
    """The loader of the training rows, `batch_size` rows a step, or fewer while a ramp lasts.

    Args:
      local, whole: as of `Loader`. steps: the number of batches that will be read; 0 if unknown.

    Raises:
      DataError: the sources of a mixture are used up earlier.
    """
    mixture, ramp = None, Ramp(batch_size, config.length, config.batch_ramp, config.length_ramp)
    if data.sizes:
        sources = config.sources()
        mixture = Mixture(sources, data.sizes, list(sources.values()), ramp.rows_before, seed)
        if mixture.rows is not None and mixture.rows < ramp.rows_before(steps):
            enough = ramp.steps_within(mixture.rows)
            raise DataError(
                f"data.mixture is used up in step {enough + 1} of {steps}: its sources' epochs end "
                f"after {mixture.rows} rows. Raise an `epochs`, or set --config.steps={enough}"
            )
    return Loader(data.train, ramp, seed, local, mixture, data.example_counts(), whole)


def heldout_batches(
    rows: dict[str, np.ndarray], batch_size: int, local: np.ndarray | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this host's rows (`local` of each batch, by default all) of every batch, each row
    once, in order; the last batch is padded with empty rows (weight 0)."""
    size = len(next(iter(rows.values())))
    mine = slice(None) if local is None else local
    for start in range(0, size, batch_size):
        index = np.arange(start, start + batch_size)
        real = index < size
        picked = np.minimum(index, size - 1)[mine]
        batch = {}
        for name, values in rows.items():
            keep = real[mine].reshape(-1, *[1] * (values.ndim - 1))
            empty = -1 if name == "rank" else 0
            batch[name] = np.where(keep, values[picked], np.asarray(empty, values.dtype))
        yield batch
