"""From the settings of a run's data to rows: reading, tokenizing and packing.

data/loader.py turns the rows into batches.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from typing import Any

import numpy as np

from data import summary
from data.config import DataConfig
from data.errors import DataError
from data.packing.base import NothingLeft, Packed
from data.packing.chats import pack_chats
from data.packing.origins import Origins
from data.packing.preferences import preference_rows
from data.packing.prompts import prompt_rows
from data.packing.text import pack_text
from data.passages.grounding import open_grounder
from data.prepare import manifest
from data.prepare.prepared_rows import PreparedRows, check_compatible
from data.read.bad_records import BadRecords
from data.rows import JoinedRows, Rows, concatenate, join, num_rows
from data.splits import Examples, read_examples
from data.text.base import Tokenizer


@dataclasses.dataclass
class Data:
    """Rows of both splits (data/batch.py), and what was left out.

    Attributes:
      heldout_examples: the examples in the held-out rows; for prompts, row i is example i.
      skipped: {reason: count} of examples that were left out or cut.
      kinds: the names that `kind` indexes, for preferences.
      train_examples: for prompts, the examples in the training rows; row i is example i.
      sizes: training rows of each source of a mixture, in order; empty without a mixture.
      redacted, unused, changes: see data/splits.py's Examples.
      origins: for each source in order, where the examples in its training rows were read; empty if
        that is unknown.
    """

    train: Rows
    heldout: dict[str, np.ndarray]
    heldout_examples: list
    skipped: Counter
    kinds: tuple[str, ...] = ()
    train_examples: tuple = ()
    sizes: tuple[int, ...] = ()
    redacted: Counter = dataclasses.field(default_factory=Counter)
    unused: dict[str, Counter] = dataclasses.field(default_factory=dict)
    origins: tuple[Origins | PreparedRows, ...] = ()
    changes: dict[str, Counter] = dataclasses.field(default_factory=dict)

    def locations(self, row: int) -> list[str]:
        """Where the examples in a training row were read; empty if that is unknown."""
        for part in self.origins:
            if row < len(part):
                return part.locations(row)
            row -= len(part)
        return []

    def example_counts(self) -> np.ndarray | None:
        """[R] the number of examples that begin in each training row; None if that is unknown."""
        counts = [part.example_counts() for part in self.origins]
        known = [part for part in counts if part is not None]
        return np.concatenate(known) if counts and len(known) == len(counts) else None

    def fingerprint(self) -> str:
        """A hash of both splits' rows and examples, equal for the same rows wherever they were
        read from. For prepared rows that are not in memory it covers the digests of their
        shards."""
        total = hashlib.sha256()
        for rows in (self.train, self.heldout):
            _hash_rows(total, rows)
        for examples in (self.train_examples, self.heldout_examples):
            bare = [{k: v for k, v in example.items() if k != "where"} for example in examples]
            total.update(json.dumps(bare, sort_keys=True).encode())
        return total.hexdigest()[:16]


def _hash_rows(total, rows: Any) -> None:
    if isinstance(rows, JoinedRows):
        for part in rows.parts:
            _hash_rows(total, part)
    elif isinstance(rows, PreparedRows):
        total.update(rows.digest.encode())
    else:
        for name in sorted(rows):
            total.update(f"{name} {rows[name].dtype} {rows[name].shape}".encode())
            total.update(np.ascontiguousarray(rows[name]).data)


def open_data(
    config: DataConfig,
    schema: str,
    tokenizer: Tokenizer,
    examples: Examples | None = None,
    prompt_length: int = 0,
) -> Data:
    """Reads, tokenizes and packs both splits.

    Args:
      schema: `text`, `chat`, `preference` or `prompt`.
      examples: the examples, if they were read already.
      prompt_length: tokens in a row of prompts.

    Raises:
      DataError: a source cannot be read or used as the settings ask.
    """
    examples = examples or read_examples(config, schema)
    skipped, kinds = Counter(examples.skipped), ()
    bad = BadRecords(config.on_bad, config.max_bad, Counter(examples.bad))
    if schema == "preference":
        both = examples.train + examples.heldout
        kinds = tuple(sorted({kind for e in both for kind in e["kinds"]}))

    if schema != "text" and (config.truncate or config.fim_rate):
        name = "truncate" if config.truncate else "fim_rate"
        raise DataError(f"data.{name} is for documents of text, and this stage reads {schema}")

    grounder = open_grounder(config, schema, tokenizer)
    redacted = Counter(examples.redacted)
    if grounder and grounder.library:
        skipped.update(grounder.library.skipped)
        redacted.update(grounder.library.redacted)

    def pack(part, length: int, training: bool = True) -> Packed:
        part = list(grounder.ground(part, skipped, bad)) if grounder else part
        if schema == "text":
            change = config.text_change(training)
            return pack_text(part, tokenizer, length, change, skipped, bad)
        if schema == "chat":
            shorter = config.row_lengths()[:-1] if training else ()
            return pack_chats(
                part, tokenizer, length, config.on_long, config.pack, skipped, bad, shorter
            )
        if schema == "preference":
            return preference_rows(
                part, tokenizer, length, config.sub_rows, config.share_prompt, config.on_long,
                skipped, kinds, bad,
            )  # fmt: skip
        return prompt_rows(part, tokenizer, prompt_length, config.on_long, skipped, bad)

    remaining = iter(examples.train)
    parts: list[Packed | PreparedRows] = []
    sizes = examples.sizes or (len(examples.train),)
    folders = examples.prepared or ("",) * len(sizes)
    for size, folder in zip(sizes, folders, strict=True):
        if not size and not folder:  # only held-out examples were read
            parts.append(Packed({}, [], []))
        elif folder:
            check_compatible(folder, schema, config, tokenizer)
            rows = PreparedRows(folder, "train")
            if not len(rows):
                raise DataError(f"{folder} has no training rows; prepare it with more data")
            parts.append(rows)
        else:
            parts.append(pack(list(itertools.islice(remaining, size)), config.length))
    all_rows = [part.rows if isinstance(part, Packed) else part for part in parts]
    counts = tuple(num_rows(rows) if rows else 0 for rows in all_rows)
    train = join(all_rows)
    train_examples: tuple = ()
    if schema == "prompt" and isinstance(train, dict):  # prompts are never prepared
        packed = (part for part in parts if isinstance(part, Packed))
        train_examples = tuple(itertools.chain(*(part.examples for part in packed)))
        train["example"] = np.arange(len(train_examples), dtype=np.int32)
    try:
        heldout, heldout_examples = _heldout(config, examples, folders, pack)
    except NothingLeft as error:
        raise DataError(f"held out: {error}") from None
    unused = dict(examples.unused)
    unread = summary.unread(tokenizer, itertools.chain(examples.train, examples.heldout))
    if unread:
        unused["the chat format"] = unread
    origins = tuple(Origins.of(part) if isinstance(part, Packed) else part for part in parts)
    return Data(
        train, heldout, heldout_examples, skipped + bad.skipped - examples.bad, kinds,
        train_examples, counts if examples.sizes else (), redacted, unused, origins,
        examples.changes,
    )  # fmt: skip


def _heldout(config: DataConfig, examples: Examples, folders, pack):
    """(held-out rows in memory, the examples in them; for prepared rows a few of them)."""
    prepared = [] if config.heldout_source else [folder for folder in folders if folder]
    if not prepared:
        return pack(examples.heldout, config.heldout_length or config.length, False)[:2]
    if config.heldout_length not in (0, config.length):
        raise DataError("data.heldout_length: prepared held-out rows have data.length tokens")
    parts, kept = [], list(examples.heldout)
    if kept:
        parts.append(pack(kept, config.length, False).rows)
    for folder in prepared:
        rows = PreparedRows(folder, "heldout")
        if not len(rows):
            raise DataError(f"{folder} has no held-out rows; name a data.heldout_source")
        parts.append(rows.take(np.arange(min(len(rows), config.heldout_limit or len(rows)))))
        kept += manifest.heldout_examples(folder)
    return concatenate(parts), kept
