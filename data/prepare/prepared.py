"""Rows that prepare.py wrote: ArrayRecord shards and a manifest; each is read by its number.

A record is a row: the number of its segments, their lengths, (of conversations, and of text with
fill in the middle) a bit a token that is 1 where the loss counts, and the token ids; little endian.
Positions and segment ids follow from the lengths, and so does the mask of other text, which is 1
but at a segment's first token. A row in which a token has another weight ends with all its tokens'
weights, float32.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Sequence
from typing import Annotated, Literal, NotRequired, TypedDict

import msgspec
import numpy as np
from array_record.python import array_record_module
from etils import epath

from data.atomic import is_remote
from data.errors import DataError
from data.read import json_files

FORMAT = 1
MANIFEST, HELDOUT = "manifest.json", "heldout.jsonl"
# Of shards whose rows are held in memory: some 25 million tokens, 7 bytes each.
FEW_BYTES = 32 << 20
# Of a row's arrays (data/batch.py).
DTYPES = dict(tokens=np.int32, positions=np.int32, segment_ids=np.int32, loss_mask=np.float32)


Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 48)]


class Shard(TypedDict):
    file: Annotated[str, msgspec.Meta(max_length=255)]
    rows: Count
    tokens: Count
    bytes: Count
    sha256: NotRequired[str]


class TokenizerFacts(TypedDict):
    fingerprint: str
    vocab_size: Annotated[int, msgspec.Meta(ge=1)]


class Splits(TypedDict):
    train: list[Shard]
    heldout: list[Shard]


class Settings(TypedDict, total=False):
    fim_rate: float


class Manifest(TypedDict):
    """What manifest.json says (data/prepare/shards.py `finish` writes it)."""

    schema: str
    length: Annotated[int, msgspec.Meta(ge=1)]
    token_dtype: Literal["<u2", "<u4"]
    tokenizer: TokenizerFacts
    settings: Settings
    documents: dict[str, Count]
    splits: Splits


def is_prepared(source) -> bool:
    """Whether a source is a folder of prepared rows."""
    if not isinstance(source, str) or not source or source.startswith("tfds:"):
        return False
    return (epath.Path(os.path.expanduser(source)) / MANIFEST).exists()


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def with_mask(schema: str, fim_rate: float) -> bool:
    """Whether rows keep a mask."""
    return schema == "chat" or fim_rate > 0


def encode(row: dict, dtype: np.dtype, with_mask: bool) -> bytes:
    """A row of data/batch.py ([T] arrays) as a record."""
    ids = row["segment_ids"]
    lengths = np.bincount(ids, minlength=1)[1:].astype("<u4")
    parts = [np.array([len(lengths)], "<u4"), lengths]
    weights = row["loss_mask"]
    ones = weights > 0 if with_mask else (ids > 0) & (row["positions"] > 0)
    if with_mask:
        parts.append(np.packbits(ones))
    parts.append(row["tokens"].astype(dtype))
    if np.any(weights != ones):
        parts.append(weights.astype("<f4"))
    return b"".join(part.tobytes() for part in parts)


def decode(records: Sequence[bytes], length: int, dtype: np.dtype, with_mask: bool) -> dict:
    """Records as rows [n, length] of data/batch.py.

    Raises:
      ValueError: one of them is not a row of that length.
    """
    n, bits = len(records), -(-length // 8) if with_mask else 0
    tokens = np.empty((n, length), np.int32)
    masks = np.empty((n, bits), np.uint8)
    counts, sizes, weights = np.empty(n, np.int64), [], {}
    for i, record in enumerate(records):
        counts[i] = count = int.from_bytes(record[:4], "little")
        at = 4 + 4 * count
        end = at + bits + length * dtype.itemsize
        if len(record) == end + 4 * length:
            weights[i] = np.frombuffer(record, "<f4", length, end)
        elif len(record) != end:
            raise ValueError(f"a record of {len(record)} bytes is no row of {length} tokens")
        sizes.append(record[4:at])
        if with_mask:
            masks[i] = np.frombuffer(record, np.uint8, bits, at)
        tokens[i] = np.frombuffer(record, dtype, length, at + bits)
    sizes = np.frombuffer(b"".join(sizes), "<u4").astype(np.int64)
    ends = np.cumsum(counts)  # of each row's segments among all
    filled = np.append(0, np.cumsum(sizes))
    filled = filled[ends] - filled[ends - counts]
    if np.any(filled > length):
        raise ValueError(f"a row of {length} tokens cannot hold {np.max(filled)}")
    numbers = np.arange(1, len(sizes) + 1) - np.repeat(ends - counts, counts)
    # Padding is one more segment at the end of each row, of number 0.
    numbers = np.insert(numbers, ends, 0).astype(np.int32)
    sizes = np.insert(sizes, ends, length - filled)
    starts = np.cumsum(sizes) - sizes
    segment_ids = np.repeat(numbers, sizes).reshape(n, length)
    positions = np.repeat((starts % length).astype(np.int32), sizes).reshape(n, length)
    positions = np.subtract(np.arange(length, dtype=np.int32), positions, out=positions)
    if with_mask:
        loss_mask = np.unpackbits(masks, axis=1)[:, :length].astype(np.float32)
    else:
        loss_mask = np.ones((n, length), np.float32)
        loss_mask.reshape(-1)[starts[sizes > 0]] = 0
    for row in np.flatnonzero(filled < length).tolist():
        positions[row, filled[row] :] = 0
        loss_mask[row, filled[row] :] = 0
    for row, values in weights.items():
        loss_mask[row] = values
    return {
        "tokens": tokens,
        "positions": positions,
        "segment_ids": segment_ids,
        "loss_mask": loss_mask,
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

    Attributes:
      digest: of the rows, by the manifest. Shards that are read as a whole are compared with it.

    Raises:
      DataError: the manifest is not one, or a shard is missing or another than it says.
    """

    def __init__(self, folder, split: str):
        folder = epath.Path(os.path.expanduser(folder))
        self.manifest = read_manifest(folder)
        shards = self.manifest["splits"][split]
        self._length, self._dtype = self.manifest["length"], np.dtype(self.manifest["token_dtype"])
        fim_rate = self.manifest["settings"].get("fim_rate", 0.0)
        self._with_mask = with_mask(self.manifest["schema"], fim_rate)
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
        digests = [shard.get("sha256", f"{shard['rows']} {shard['bytes']}") for shard in shards]
        self.digest = f"{self._length} {self._dtype} {' '.join(digests)}"
        self._sha256 = [shard.get("sha256") for shard in shards]
        self._ends = np.cumsum([shard["rows"] for shard in shards])
        self.row_bytes = 16 * self._length  # four arrays of four bytes
        self._few = sum(shard["bytes"] for shard in shards) <= FEW_BYTES
        self._held = None  # all rows, if they are few, from when one is wanted
        self._readers = {}  # by shard, opened when a row of it is wanted
        self._copies = None  # of shards in an object store
        if is_remote(folder):
            self._copies = tempfile.TemporaryDirectory(prefix="seedpod-")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def take(self, index) -> dict[str, np.ndarray]:
        """Rows by their numbers [n], as arrays [n, T].

        Raises:
          DataError: a record is damaged.
        """
        index = np.asarray(index)
        if not self._few:
            return self._read_rows(index)
        if self._held is None:
            self._held = self._all()
        return {name: self._held[name][index].astype(DTYPES[name]) for name in self._held}

    def _all(self) -> dict[str, np.ndarray]:
        """Every row, in the smallest dtypes.

        Raises:
          DataError: a shard is another than the manifest says.
        """
        for path, wanted in zip(self._paths, self._sha256, strict=True):
            content = epath.Path(self._here(path)).read_bytes()
            if wanted and hashlib.sha256(content).hexdigest() != wanted:
                raise DataError(
                    f"{path} is damaged, or another than the manifest beside it says; copy it "
                    "again, or prepare anew: python -m data.prepare"
                )
        number = token_dtype(self._length + 1)
        small = dict(tokens=self._dtype, positions=number, segment_ids=number)
        parts = [
            self._read_rows(np.arange(start, min(start + 1024, len(self))))
            for start in range(0, len(self), 1024)
        ]
        for part in parts:
            mask = part["loss_mask"]
            bits = mask.astype(np.bool_)
            part |= {name: part[name].astype(dtype) for name, dtype in small.items()}
            part["loss_mask"] = bits if np.array_equal(bits, mask) else mask
        return {name: np.concatenate([part[name] for part in parts]) for name in DTYPES}

    def _read_rows(self, index) -> dict[str, np.ndarray]:
        where = self._places(index)
        records = [self._read(shard, number) for shard, number in where]
        try:
            return self._decode(records)
        except ValueError:
            for record, (shard, number) in zip(records, where, strict=True):  # which it is
                try:
                    self._decode([record])
                except ValueError as error:
                    raise DataError(
                        f"{self._paths[shard]}: record {number} is damaged: {error}"
                    ) from error
            raise

    def where(self, number: int) -> list[str]:
        """The shard and record of a row."""
        ((shard, record),) = self._places(np.array([number]))
        return [f"{self._paths[shard]}[{record}]"]

    def _places(self, index) -> list[tuple[int, int]]:
        """(shard, record in it) of each row of `index` [n]."""
        shards = np.searchsorted(self._ends, index, side="right")
        numbers = index - np.append(0, self._ends)[shards]
        return list(zip(shards.tolist(), numbers.tolist(), strict=True))

    def _read(self, shard: int, number: int) -> bytes:
        """A record. One a call, as a range: a list of several goes through the library's threads,
        whose switches take three times as long as the reading."""
        path = self._paths[shard]
        try:
            if shard not in self._readers:
                self._readers[shard] = array_record_module.ArrayRecordReader(
                    self._here(path),
                    options="readahead_buffer_size:0",
                    file_reader_buffer_size=1 << 12,
                )
            return self._readers[shard].read(number, number + 1)[0]
        except (ValueError, RuntimeError, IndexError) as error:
            reason = (str(error) or repr(error)).splitlines()[0]
            raise DataError(f"{path}: record {number} is damaged: {reason}") from error

    def _here(self, path: str) -> str:
        """A shard on this machine's disk: ArrayRecord knows no object stores."""
        if not self._copies:
            return path
        local = os.path.join(self._copies.name, os.path.basename(path))
        if not os.path.exists(local):
            part = f"{local}.{threading.get_ident()}"  # another thread may copy it, too
            epath.Path(path).copy(part, overwrite=True)
            os.replace(part, local)
        return local

    def _decode(self, records) -> dict[str, np.ndarray]:
        return decode(records, self._length, self._dtype, self._with_mask)


def read_manifest(folder) -> dict:
    """Raises DataError where it is none, or of another format."""
    path = epath.Path(folder) / MANIFEST
    found = json_files.read(path).get("format")
    if found != FORMAT:
        raise DataError(
            f"{path} is of format {str(found)[:40]}, and this Seedpod reads {FORMAT}; prepare "
            "again: python -m data.prepare"
        )
    return json_files.read(path, Manifest)


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
    chosen = ("filters", "redact", "subset", "dedup", "decontaminate", "truncate", "fim_rate")
    for name in chosen:
        wanted = json.loads(json.dumps(getattr(config, name)))
        found = manifest["settings"].get(name)
        if wanted and wanted != found:
            raise DataError(
                f"{folder} was prepared with data.{name}={found!r:.80}, and its "
                f"rows cannot be chosen anew by {wanted!r}; leave it empty, or prepare anew"
            )
    made = manifest["tokenizer"]["fingerprint"]
    if made != tokenizer.fingerprint:
        raise DataError(
            f"{folder} was prepared with another tokenizer ({made:.80}) than the run's "
            f"({tokenizer.fingerprint}); set --config.tokenizer.path={folder}, or prepare anew"
        )


def heldout_examples(folder) -> list[dict]:
    """The few held-out documents that were kept whole, for people to read."""
    return json_files.read_lines(epath.Path(os.path.expanduser(folder)) / HELDOUT)


class Joined:
    """Rows of several sources, one after the other; those in memory are dicts of arrays."""

    def __init__(self, parts):
        self.parts = parts
        self._ends = np.cumsum([size_of(part) for part in parts])
        self.row_bytes = max(map(row_bytes, parts))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, index) -> dict[str, np.ndarray]:
        index = np.asarray(index)
        out: dict[str, np.ndarray] = {}
        for k, at, numbers in _by_part(self._ends, index):
            for name, values in take(self.parts[k], numbers).items():
                if name not in out:
                    out[name] = np.empty((len(index), *values.shape[1:]), values.dtype)
                out[name][at] = values
        return out


def size_of(rows) -> int:
    return len(next(iter(rows.values()))) if isinstance(rows, dict) else len(rows)


def row_bytes(rows) -> int:
    """Of one row in memory."""
    return rows.row_bytes if not isinstance(rows, dict) else sum(v[0].nbytes for v in rows.values())


def take(rows, index) -> dict[str, np.ndarray]:
    """Rows by their numbers, in memory or not."""
    if isinstance(rows, dict):
        return {name: values[index] for name, values in rows.items()}
    return rows.take(index)
