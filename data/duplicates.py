"""Which documents are copies, or nearly, and which hold what a model will be evaluated on.

Each document gets a note on its own (`note`), wherever it is read; `decide` compares the notes of
all. The first of several stays, so the result depends on the order of documents alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import datasketch
import numpy as np

from data.messages import texts_of
from data.reading import MAX_RECORD_BYTES
from data.sources import read
from data.templates import DataError, one_of

KINDS = ("", "exact", "near")
NGRAM = 13  # words in common with an evaluation set that tell (Brown et al. 2020, arXiv:2005.14165)
SHINGLE = 5  # words of which near duplicates are said to share many
PERMUTATIONS, THRESHOLD = 128, 0.8  # of MinHash, and the Jaccard similarity that is near
_WORD = re.compile(r"\w+")


class Note(NamedTuple):
    """Of a document.

    Attributes:
      key: hash of its words, case and marks aside. sketch: MinHash values [PERMUTATIONS] uint32, or
        None. contaminated: the evaluation set that it has a run of words of, or "".
    """

    key: bytes
    sketch: np.ndarray | None
    contaminated: str


def text_of(example) -> str:
    """All that an example says."""
    if "text" in example:
        return example["text"]
    parts = [text for message in example["messages"] for text in texts_of(message)]
    return "\n".join([*parts, *example.get("responses", ())])


def words_of(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _runs(words: Sequence[str], n: int) -> Iterable[str]:
    """All runs of n words; of a shorter text all of it."""
    return (" ".join(words[i : i + n]) for i in range(max(len(words) - n, 0) + 1))


def _short(run: str) -> int:
    return int.from_bytes(hashlib.blake2b(run.encode(), digest_size=4).digest(), "little")


def _long(run: str) -> bytes:
    return hashlib.blake2b(run.encode(), digest_size=16).digest()


def check(kind: str, sets: Mapping[str, Mapping]) -> None:
    """Raises DataError for settings (`data.dedup`, `data.decontaminate`) that there are not."""
    one_of("value of data.dedup", kind, dict.fromkeys(KINDS))
    for name, settings in sets.items():
        for key in settings:
            one_of(
                f"setting of data.decontaminate.{name}", key, dict.fromkeys(("source", "fields"))
            )
        if not settings.get("source"):
            raise DataError(f"data.decontaminate.{name}.source is missing: a path, or tfds:…")


def evaluation_runs(
    sets: Mapping[str, Mapping], tfds_dir: str = "", max_record_bytes: int = MAX_RECORD_BYTES
) -> dict[bytes, str]:
    """{hash of a run of NGRAM words: name} of evaluation sets, read as text by their `fields`.
    Shorter texts are left out: so few words stand in many documents by chance."""
    runs = {}
    for name, settings in sets.items():
        examples = read(
            settings["source"], "text", fields=settings.get("fields", ()), tfds_dir=tfds_dir,
            max_record_bytes=max_record_bytes,
        ).examples  # fmt: skip
        for example in examples:
            words = words_of(example["text"])
            if len(words) >= NGRAM:
                runs.update((_long(run), name) for run in _runs(words, NGRAM))
    return runs


def _minhash(**given) -> datasketch.MinHash:
    return datasketch.MinHash(num_perm=PERMUTATIONS, hashfunc=_short, scheme="affine32", **given)


def note(example, kind: str, runs: Mapping[bytes, str]) -> Note:
    """What `decide` has to know of a document. `kind`: of KINDS; `runs`: of `evaluation_runs`."""
    text = text_of(example)
    words = words_of(text)
    sketch, contaminated = None, ""
    if kind == "near":
        minhash = _minhash()
        minhash.update_batch(sorted(set(_runs(words, SHINGLE))))
        sketch = minhash.hashvalues
    if runs:
        found = (runs.get(_long(run), "") for run in _runs(words, NGRAM))
        contaminated = next(filter(None, found), "")
    # Without a word, as a line of symbols, it is a copy of what has the same symbols.
    return Note(_long(" ".join(words) if words else " ".join(text.split())), sketch, contaminated)


def decide(notes: Iterable[Note], kind: str) -> list[str]:
    """What each document is left out for, in order; "" is for nothing."""
    seen, kept, out = set(), {}, []
    lsh = datasketch.MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
    for number, (key, sketch, contaminated) in enumerate(notes):
        reason = f"contaminated: {contaminated}" if contaminated else ""
        if not reason and kind and key in seen:
            reason = "duplicate"
        if not reason and kind == "near":
            minhash = _minhash(hashvalues=sketch)
            alike = (np.mean(sketch == kept[other]) for other in lsh.query(minhash))
            if any(share >= THRESHOLD for share in alike):
                reason = "near duplicate"
            else:
                kept[number] = sketch
                lsh.insert(number, minhash)
        if not reason:
            seen.add(key)
        out.append(reason)
    return out
