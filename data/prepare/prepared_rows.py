"""Prepared rows: ArrayRecord shards beside a manifest; each row is read by its number."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading

import numpy as np
from array_record.python import array_record_module
from etils import epath

from data.atomic import is_remote
from data.config import DataConfig
from data.errors import DataError
from data.prepare import row_format
from data.prepare.manifest import EXAMPLES, MANIFEST, read_manifest
from data.read import paths
from data.text.base import Tokenizer
from interpreter import python

# Shards of up to this size in all are held in memory: some 25 million tokens, 7 bytes each.
FEW_BYTES = 32 << 20
# Dtypes of the arrays of rows (data/batch.py).
DTYPES = dict(tokens=np.int32, positions=np.int32, segment_ids=np.int32, loss_mask=np.float32)


class PreparedRows:
    """The rows of one split of a folder, read on demand.

    Attributes:
      digest: identifies the rows, from the manifest. A shard that is read as a whole is compared
        with its own digest.
      row_bytes: the size of a row in memory, in bytes.

    Raises:
      DataError: the manifest is damaged, or a shard is missing or differs from it.
    """

    def __init__(self, folder: epath.PathLike, split: str):
        folder = epath.Path(os.path.expanduser(folder))
        self.manifest = read_manifest(folder)
        shards = self.manifest["splits"][split]
        self._length, self._dtype = self.manifest["length"], np.dtype(self.manifest["token_dtype"])
        fim_rate = self.manifest["settings"].get("fim_rate", 0.0)
        self._has_mask = row_format.has_mask(self.manifest["schema"], fim_rate)
        named = folder / MANIFEST
        self._paths = [paths.inside(folder, shard["file"], named) for shard in shards]
        for path, shard in zip(self._paths, shards, strict=True):
            if not epath.Path(path).exists():
                raise DataError(
                    f"{path} is missing, and {folder / MANIFEST} names it; copy it again, or "
                    f"prepare it again: {python()} -m data.prepare"
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
        self._is_small = sum(shard["bytes"] for shard in shards) <= FEW_BYTES
        # All rows, if they are few, once one was asked for.
        self._rows: dict[str, np.ndarray] | None = None
        self._readers = {}  # {shard: reader}, opened when a row of it is asked for
        self._copies = None  # a folder with copies of shards from an object store
        if is_remote(folder):
            self._copies = tempfile.TemporaryDirectory(prefix="seedpod-")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def take(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """The rows of numbers `index` [n], as arrays [n, T].

        Raises:
          DataError: a record is damaged.
        """
        index = np.asarray(index)
        if not self._is_small:
            return self._read_rows(index)
        if self._rows is None:
            self._rows = self._read_all()
        return {name: self._rows[name][index].astype(DTYPES[name]) for name in self._rows}

    def example_counts(self) -> np.ndarray | None:
        """[R] the number of examples that begin in each row; None in a folder that an earlier
        version prepared.

        Raises:
          DataError: a file of them is damaged.
        """
        shards = [epath.Path(path) for path in self._paths]
        paths = [path.parent / f"{EXAMPLES}{path.name}" for path in shards]
        if not all(path.exists() for path in paths):
            return None
        parts = [np.frombuffer(path.read_bytes(), "<u4") for path in paths]
        for path, part, rows in zip(paths, parts, np.diff(self._ends, prepend=0), strict=True):
            if len(part) != rows:
                raise DataError(
                    f"{path} has numbers of {len(part)} rows, and its shard {rows} rows; copy it "
                    "again"
                )
        return np.concatenate(parts)

    def locations(self, number: int) -> list[str]:
        """The shard and record of a row."""
        ((shard, record),) = self._locate(np.array([number]))
        return [f"{self._paths[shard]}[{record}]"]

    def _read_all(self) -> dict[str, np.ndarray]:
        """Every row, in the smallest dtypes.

        Raises:
          DataError: a shard differs from the manifest.
        """
        for path, digest in zip(self._paths, self._sha256, strict=True):
            content = epath.Path(self._local_path(path)).read_bytes()
            if digest and hashlib.sha256(content).hexdigest() != digest:
                raise DataError(
                    f"{path} is damaged, or another than the manifest beside it says; copy it "
                    f"again, or prepare it again: {python()} -m data.prepare"
                )
        number = row_format.token_dtype(self._length + 1)
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
        places = self._locate(index)
        records = [self._read_record(shard, number) for shard, number in places]
        try:
            return self._decode(records)
        except ValueError:
            for record, (shard, number) in zip(records, places, strict=True):  # find which it is
                try:
                    self._decode([record])
                except ValueError as error:
                    raise DataError(
                        f"{self._paths[shard]}: record {number} is damaged: {error}"
                    ) from error
            raise

    def _locate(self, index) -> list[tuple[int, int]]:
        """(shard, record within it) of each row of `index` [n]."""
        shards = np.searchsorted(self._ends, index, side="right")
        numbers = index - np.append(0, self._ends)[shards]
        return list(zip(shards.tolist(), numbers.tolist(), strict=True))

    def _read_record(self, shard: int, number: int) -> bytes:
        """One record, read as a range: a list of several goes through the library's threads, whose
        switches take three times as long as the reading."""
        path = self._paths[shard]
        try:
            if shard not in self._readers:
                self._readers[shard] = array_record_module.ArrayRecordReader(
                    self._local_path(path),
                    options="readahead_buffer_size:0",
                    file_reader_buffer_size=1 << 12,
                )
            return self._readers[shard].read(number, number + 1)[0]
        except (ValueError, RuntimeError, IndexError) as error:
            reason = (str(error) or repr(error)).splitlines()[0]
            raise DataError(f"{path}: record {number} is damaged: {reason}") from error

    def _local_path(self, path: str) -> str:
        """The path of a shard on this machine's disk: ArrayRecord reads no object stores."""
        if not self._copies:
            return path
        local = os.path.join(self._copies.name, os.path.basename(path))
        if not os.path.exists(local):
            part = f"{local}.{threading.get_ident()}"  # another thread may copy it as well
            epath.Path(path).copy(part, overwrite=True)
            os.replace(part, local)
        return local

    def _decode(self, records) -> dict[str, np.ndarray]:
        return row_format.decode(records, self._length, self._dtype, self._has_mask)


def check_compatible(
    folder: epath.PathLike, schema: str, config: DataConfig, tokenizer: Tokenizer
) -> None:
    """Checks that prepared rows are what a stage reads, made with its tokenizer, and chosen by the
    settings that `config` gives.

    Raises:
      DataError: they are not.
    """
    manifest = read_manifest(folder)
    if manifest["schema"] != schema:
        raise DataError(
            f"{folder} holds rows of {manifest['schema']}, and this stage reads {schema}"
        )
    length = config.length
    if manifest["length"] != length:
        raise DataError(
            f"{folder} was prepared with rows of {manifest['length']} tokens, and data.length is "
            f"{length}; set --config.data.length={manifest['length']}, or prepare it again"
        )
    check_nested(schema, config)
    choosing = ("transforms", "heldout_by", "filters", "redact", "subset", "dedup", "decontaminate",
                "truncate", "fim_rate")  # fmt: skip
    for name in choosing:
        value = json.loads(json.dumps(getattr(config, name)))
        prepared_value = manifest["settings"].get(name)
        if value and value != prepared_value:
            raise DataError(
                f"{folder} was prepared with data.{name}={prepared_value!r:.80}, and its "
                f"rows cannot be chosen again by {value!r}; leave it empty, or prepare it again"
            )
    passages = manifest["settings"].get("passages")
    if config.grounded and json.loads(json.dumps(config.passages.values())) != passages:
        raise DataError(
            f"{folder} was prepared with other settings of data.passages, and its rows cannot be "
            "made again; leave data.passages and data.fields.passages out, or prepare it again"
        )
    fingerprint = manifest["tokenizer"]["fingerprint"]
    if fingerprint != tokenizer.fingerprint:
        raise DataError(
            f"{folder} was prepared with another tokenizer ({fingerprint:.80}) than the run's "
            f"({tokenizer.fingerprint}); set --config.tokenizer.path={folder}, or prepare it again"
        )


def check_nested(schema: str, config: DataConfig) -> None:
    """Refuses to prepare rows for a ramp of the length of conversations: a row of them that can be
    cut has padding between them, which records do not hold.

    Raises:
      DataError: they are asked for.
    """
    if schema == "chat" and config.length_ramp:
        raise DataError(
            "data.length_ramp and prepared conversations, which are packed for rows of "
            "data.length alone; read the files themselves, or leave data.length_ramp out"
        )
