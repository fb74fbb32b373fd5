"""Rows that data/prepare.py wrote: ArrayRecord shards and a manifest; each is read by its number.

A record is a row: the number of its segments, their lengths, (of conversations) a bit a token that
is 1 where the loss counts, and the token ids; little endian. Positions and segment ids follow from
the lengths, and so does the mask of text, which is 1 but at a segment's first token.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import numpy as np
from array_record.python import array_record_module
from etils import epath

from data.templates import DataError

FORMAT = 1
MANIFEST, HELDOUT = "manifest.json", "heldout.jsonl"


def is_prepared(source) -> bool:
    """Whether a source is a folder of prepared rows."""
    if not isinstance(source, str) or not source or source.startswith("tfds:"):
        return False
    return (epath.Path(os.path.expanduser(source)) / MANIFEST).exists()


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def encode(row: dict, dtype: np.dtype, with_mask: bool) -> bytes:
    """A row of data/batch.py ([T] arrays) as a record."""
    ids = row["segment_ids"]
    lengths = np.bincount(ids, minlength=1)[1:].astype("<u4")
    parts = [np.array([len(lengths)], "<u4"), lengths]
    if with_mask:
        parts.append(np.packbits(row["loss_mask"] > 0))
    return b"".join(part.tobytes() for part in [*parts, row["tokens"].astype(dtype)])


def decode(records: Sequence[bytes], length: int, dtype: np.dtype, with_mask: bool) -> dict:
    """Records as rows [n, length] of data/batch.py.

    Raises:
      ValueError: one of them is not a row of that length.
    """
    n, bits = len(records), -(-length // 8) if with_mask else 0
    tokens = np.empty((n, length), np.int32)
    masks = np.empty((n, bits), np.uint8)
    lengths, numbers = [], []
    for i, record in enumerate(records):
        count = int.from_bytes(record[:4], "little")
        at = 4 + 4 * count
        if len(record) != at + bits + length * dtype.itemsize:
            raise ValueError(f"a record of {len(record)} bytes is no row of {length} tokens")
        sizes = np.frombuffer(record, "<u4", count, 4)
        filled = int(sizes.sum())
        if filled > length:
            raise ValueError(f"a row of {length} tokens cannot hold {filled}")
        lengths += [sizes, [length - filled]]
        numbers += [np.arange(1, count + 1), [0]]
        if with_mask:
            masks[i] = np.frombuffer(record, np.uint8, bits, at)
        tokens[i] = np.frombuffer(record, dtype, length, at + bits)
    lengths = np.concatenate(lengths)
    segment_ids = np.repeat(np.concatenate(numbers), lengths).astype(np.int32)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    positions = np.arange(n * length) - starts
    positions = np.where(segment_ids > 0, positions, 0).astype(np.int32)
    if with_mask:
        loss_mask = np.unpackbits(masks, axis=1)[:, :length].astype(np.float32)
    else:
        loss_mask = ((segment_ids > 0) & (positions > 0)).astype(np.float32)
    return {
        "tokens": tokens,
        "positions": positions.reshape(n, length),
        "segment_ids": segment_ids.reshape(n, length),
        "loss_mask": loss_mask.reshape(n, length),
    }


def _by_part(ends, index):
    """(part, which of `index` [n] are in it, their numbers within it) of each part that has any;
    `ends`: the number of rows up to the end of each part."""
    which = np.searchsorted(ends, index, side="right")
    for part in np.unique(which).tolist():
        at = np.flatnonzero(which == part)
        yield part, at, index[at] - (ends[part - 1] if part else 0)


class PreparedRows:
    """The rows of one split of a folder, read when they are asked for.

    Raises:
      DataError: the manifest is not one, or a shard is missing or another than it says.
    """

    def __init__(self, folder, split: str):
        folder = epath.Path(os.path.expanduser(folder))
        self.manifest = read_manifest(folder)
        shards = self.manifest["splits"][split]
        self._length, self._dtype = self.manifest["length"], np.dtype(self.manifest["token_dtype"])
        self._with_mask = self.manifest["schema"] == "chat"
        self._paths = [os.fspath(folder / shard["file"]) for shard in shards]
        for path, shard in zip(self._paths, shards, strict=True):
            if not epath.Path(path).exists():
                raise DataError(
                    f"{path} is missing, and {folder / MANIFEST} names it; copy it again, or "
                    "prepare anew: python -m data.prepare"
                )
            size = epath.Path(path).stat().length
            if size != shard["bytes"]:
                raise DataError(
                    f"{path} has {size} bytes, and {folder / MANIFEST} says {shard['bytes']}; copy "
                    "it again"
                )
        self._ends = np.cumsum([shard["rows"] for shard in shards])
        self._readers = {}  # by shard, opened when a row of it is wanted

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def take(self, index) -> dict[str, np.ndarray]:
        """Rows by their numbers [n], as arrays [n, T].

        Raises:
          DataError: a record is damaged.
        """
        index = np.asarray(index)
        records = [b""] * len(index)
        for shard, at, numbers in _by_part(self._ends, index):
            for i, record in zip(at.tolist(), self._read(shard, numbers.tolist()), strict=True):
                records[i] = record
        return self._decode(records, index)

    def _read(self, shard: int, numbers: list[int]) -> list[bytes]:
        """Records of one shard: in one call, which takes a quarter of the time of
        ArrayRecordDataSource with its threads."""
        path = self._paths[shard]
        try:
            if shard not in self._readers:
                self._readers[shard] = array_record_module.ArrayRecordReader(
                    path, options="readahead_buffer_size:0", file_reader_buffer_size=1 << 15
                )
            return self._readers[shard].read(numbers)
        except (ValueError, RuntimeError, IndexError) as error:
            reason = (str(error) or repr(error)).splitlines()[0]
            raise DataError(f"{path}: one of the records {numbers} is damaged: {reason}") from error

    def _decode(self, records, index) -> dict[str, np.ndarray]:
        try:
            return decode(records, self._length, self._dtype, self._with_mask)
        except ValueError as error:
            if len(records) > 1:  # which of them it is
                for i in range(len(records)):
                    self._decode(records[i : i + 1], index[i : i + 1])
            ((shard, _, (number,)),) = _by_part(self._ends, index[:1])
            raise DataError(f"{self._paths[shard]}: record {number} is damaged: {error}") from error


def read_manifest(folder) -> dict:
    """Raises DataError where it is none, or of another format."""
    path = epath.Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        found = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no manifest of prepared rows: {error!r}") from error
    if found != FORMAT:
        raise DataError(
            f"{path} is of format {found}, and this Seedpod reads {FORMAT}; prepare anew: "
            "python -m data.prepare"
        )
    return manifest


def check(folder, schema: str, config, tokenizer) -> None:
    """Rows must be what a stage reads, of its tokenizer, and chosen as a run's `config`
    (data/pipeline.py's) says where it says anything.

    Raises:
      DataError: they are not.
    """
    manifest = read_manifest(epath.Path(os.path.expanduser(folder)))
    if manifest["schema"] != schema:
        raise DataError(
            f"{folder} holds rows of {manifest['schema']}, and this stage reads {schema}"
        )
    length = config.length
    if manifest["length"] != length:
        raise DataError(
            f"{folder} was prepared with rows of {manifest['length']} tokens, and data.length is "
            f"{length}; set --config.data.length={manifest['length']}, or prepare anew"
        )
    for name in ("filters", "redact", "subset", "dedup", "decontaminate"):
        wanted = json.loads(json.dumps(getattr(config, name)))
        if wanted and wanted != manifest["settings"][name]:
            raise DataError(
                f"{folder} was prepared with data.{name}={manifest['settings'][name]!r}, and its "
                f"rows cannot be chosen anew by {wanted!r}; leave it empty, or prepare anew"
            )
    made = manifest["tokenizer"]["fingerprint"]
    if made != tokenizer.fingerprint:
        raise DataError(
            f"{folder} was prepared with another tokenizer ({made}) than the run's "
            f"({tokenizer.fingerprint}); set --config.tokenizer.path={folder}, or prepare anew"
        )


def heldout_examples(folder) -> list[dict]:
    """The few held-out documents that were kept whole, for people to read."""
    lines = (epath.Path(os.path.expanduser(folder)) / HELDOUT).read_text().splitlines()
    return [json.loads(line) for line in lines]


class Joined:
    """Rows of several sources, one after the other; those in memory are dicts of arrays."""

    def __init__(self, parts):
        self._parts = parts
        self._ends = np.cumsum([size_of(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, index) -> dict[str, np.ndarray]:
        index = np.asarray(index)
        out: dict[str, np.ndarray] = {}
        for k, at, numbers in _by_part(self._ends, index):
            for name, values in take(self._parts[k], numbers).items():
                if name not in out:
                    out[name] = np.empty((len(index), *values.shape[1:]), values.dtype)
                out[name][at] = values
        return out


def size_of(rows) -> int:
    return len(next(iter(rows.values()))) if isinstance(rows, dict) else len(rows)


def take(rows, index) -> dict[str, np.ndarray]:
    """Rows by their numbers, in memory or not."""
    if isinstance(rows, dict):
        return {name: values[index] for name, values in rows.items()}
    return rows.take(index)
