"""Duplicates, near duplicates, and contamination with evaluation sets.

`note` summarizes each document by itself, wherever it is read; `decide` and `copy_groups` compare
the notes of all documents. Of several copies the first is kept, so what is left out depends on the
order of documents; what counts as a copy does not. Words are defined in data/clean/words.py.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data.clean.words import runs as runs_of
from data.clean.words import words_of
from data.errors import DataError
from data.read.reading import MAX_RECORD_BYTES
from data.read.sources import read
from data.schemas.examples import example_text
from data.schemas.templates import one_of

KINDS = ("", "exact", "near")
# Consecutive words shared with an evaluation set that make a document contaminated
# (Brown et al. 2020, arXiv:2005.14165).
NGRAM = 13
SHINGLE = 5  # consecutive words in an element of the sets that MinHash compares
PERMUTATIONS, THRESHOLD = 128, 0.8  # of MinHash; the Jaccard similarity of near duplicates

NO_SKETCH = np.zeros(0, np.uint32)  # of a document that is not compared by its words


class Note(NamedTuple):
    """Summary of a document.

    Attributes:
      key: a hash of everything in it, with runs of white space collapsed. sketch: MinHash values
        [PERMUTATIONS] uint32, or NO_SKETCH. contaminated: the evaluation set with which it shares a
        run of words, or "".
    """

    key: bytes
    sketch: np.ndarray
    contaminated: str


def _spaced(value):
    """A JSON value with each run of white space in its texts replaced by one space."""
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, Mapping):
        return {key: _spaced(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_spaced(item) for item in value]
    return value


def _exact(example) -> str:
    """An example as text, without where it was read and its group: equal for copies only."""
    return json.dumps(_spaced({key: example[key] for key in example.keys() - {"where", "group"}}),
                      sort_keys=True)  # fmt: skip


def _hash(run: str, size: int) -> bytes:
    return hashlib.blake2b(run.encode(errors="surrogatepass"), digest_size=size).digest()


def _short(run: str) -> int:
    return int.from_bytes(_hash(run, 4), "little")


def _long(run: str) -> bytes:
    return _hash(run, 16)


def check_settings(kind: str, sets: Mapping[str, Mapping]) -> None:
    """Raises DataError for an unknown value of `data.dedup` or setting of `data.decontaminate`."""
    one_of("value of data.dedup", kind, dict.fromkeys(KINDS))
    for name, settings in sets.items():
        for key in settings:
            one_of(
                f"setting of data.decontaminate.{name}", key, dict.fromkeys(("source", "fields"))
            )
        if not settings.get("source"):
            raise DataError(f"data.decontaminate.{name}.source is missing: a path, tfds:… or hf:…")


def evaluation_runs(
    sets: Mapping[str, Mapping], tfds_dir: str = "", max_record_bytes: int = MAX_RECORD_BYTES
) -> dict[bytes, str]:
    """{hash of a run of NGRAM words: name} of evaluation sets, read as text with their `fields`.
    Shorter texts are left out: so few words are shared by chance."""
    runs = {}
    for name, settings in sets.items():
        examples = read(
            settings["source"], "text", fields=settings.get("fields", {}), tfds_dir=tfds_dir,
            max_record_bytes=max_record_bytes,
        ).examples  # fmt: skip
        for example in examples:
            words = words_of(example["text"])
            runs.update((_long(run), name) for run in runs_of(words, NGRAM))
    return runs


def _minhash(**options) -> Any:
    import datasketch  # imports SciPy

    return datasketch.MinHash(num_perm=PERMUTATIONS, hashfunc=_short, scheme="affine32", **options)


def note(example: Mapping, kind: str, runs: Mapping[bytes, str]) -> Note:
    """The summary of a document that `decide` compares.

    Args:
      kind: one of KINDS. runs: the result of `evaluation_runs`.
    """
    # A document without a word, such as a line of dots, is compared by its characters.
    words = words_of(example_text(example)) or example_text(example).split()
    sketch, contaminated = NO_SKETCH, ""
    if kind == "near":
        minhash = _minhash()
        minhash.update_batch(sorted({*runs_of(words, SHINGLE)} or {" ".join(words)}))
        sketch = minhash.hashvalues
    if runs:
        names = (runs.get(_long(run), "") for run in runs_of(words, NGRAM))
        contaminated = next(filter(None, names), "")
    return Note(_long(_exact(example)), sketch, contaminated)


class _NearIndex:
    """An index of sketches that finds near duplicates."""

    def __init__(self):
        self._sketches: dict[int, np.ndarray] = {}

    @functools.cached_property
    def _lsh(self):  # made on demand: choosing its bands takes a while
        import datasketch

        return datasketch.MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)

    def add(self, number: int, sketch: np.ndarray) -> None:
        self._sketches[number] = sketch
        self._lsh.insert(number, _minhash(hashvalues=sketch))

    def near(self, sketch: np.ndarray) -> Iterable[int]:
        """The numbers of the added sketches that are near duplicates of `sketch`."""
        for other in self._lsh.query(_minhash(hashvalues=sketch)):
            if np.mean(sketch == self._sketches[other]) >= THRESHOLD:
                yield other


def decide(notes: Iterable[Note], kind: str, heldout: Iterable[Note] = ()) -> list[str]:
    """The reason for leaving out each document, in order; "" for those that are kept.

    Args:
      kind: one of KINDS. heldout: notes on documents whose copies are also left out, unless `kind`
        is "".
    """
    heldout_index, kept_index = _NearIndex(), _NearIndex()
    heldout_keys, kept_keys, out = set(), set(), []
    for number, other in enumerate(heldout if kind else ()):
        heldout_keys.add(other.key)
        if kind == "near":
            heldout_index.add(number, other.sketch)
    for number, (key, sketch, contaminated) in enumerate(notes):
        reason = f"contaminated: {contaminated}" if contaminated else ""
        if not reason and kind:
            if key in heldout_keys:
                reason = "duplicate of a held-out document"
            elif kind == "near" and any(True for _ in heldout_index.near(sketch)):
                reason = "near duplicate of a held-out document"
            elif key in kept_keys:
                reason = "duplicate"
            elif kind == "near" and any(True for _ in kept_index.near(sketch)):
                reason = "near duplicate"
        if not reason:
            kept_keys.add(key)
            if kind == "near":
                kept_index.add(number, sketch)
        out.append(reason)
    return out


def copy_groups(keys: Sequence[bytes], notes: Sequence[Note], kind: str) -> list[bytes]:
    """For each document the lowest of the `keys` (schemas.examples.content_key) in its group.

    Documents of the same key are in one group; if `kind` is "near", so are near duplicates, and
    near duplicates of these. The result does not depend on the order of documents.
    """
    if kind != "near":  # exact copies have the same key
        return list(keys)
    lowest: dict[bytes, bytes] = {}  # a forest: the parent of a key is lower, that of a root itself

    def root(key: bytes) -> bytes:
        while (above := lowest.setdefault(key, key)) != key:
            lowest[key] = lowest[above]
            key = lowest[key]
        return key

    index, first = _NearIndex(), {}
    for number, (key, note) in enumerate(zip(keys, notes, strict=True)):
        same = first.setdefault(note.sketch.tobytes(), number)
        others = [same] if same != number else index.near(note.sketch)
        for other in others:
            a, b = sorted((root(key), root(keys[other])))
            lowest[b] = a
        if same == number:
            index.add(number, note.sketch)
    return [root(key) for key in keys]
