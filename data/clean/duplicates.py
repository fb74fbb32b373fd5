"""Which documents are copies, or nearly, and which hold what a model will be evaluated on.

Each document gets a note on its own (`note`), wherever it is read; `decide` and `copy_groups`
compare the notes of all. Of several copies the first stays, so what is left out depends on the
order of documents; what counts as a copy of what does not. Words: data/clean/words.py.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import datasketch
import numpy as np

from data.clean.words import runs as runs_of
from data.clean.words import words_of
from data.errors import DataError
from data.read.messages import texts_of
from data.read.reading import MAX_RECORD_BYTES
from data.read.sources import read
from data.read.templates import one_of

KINDS = ("", "exact", "near")
NGRAM = 13  # words in common with an evaluation set that tell (Brown et al. 2020, arXiv:2005.14165)
SHINGLE = 5  # words of which near duplicates are said to share many
PERMUTATIONS, THRESHOLD = 128, 0.8  # of MinHash, and the Jaccard similarity that is near


class Note(NamedTuple):
    """Of a document.

    Attributes:
      key: hash of everything in it, with runs of white space collapsed. sketch: MinHash values
        [PERMUTATIONS] uint32, or None. contaminated: the evaluation set that it has a run of words
        of, or "".
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


def _spaced(value):
    """A JSON value with a single space for all white space inside its texts."""
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, Mapping):
        return {key: _spaced(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_spaced(item) for item in value]
    return value


def _exact(example) -> str:
    """An example as text without the place it was read from: equal for copies alone."""
    return json.dumps(_spaced({key: example[key] for key in example.keys() - {"where"}}),
                      sort_keys=True)  # fmt: skip


def _hash(run: str, size: int) -> bytes:
    return hashlib.blake2b(run.encode(errors="surrogatepass"), digest_size=size).digest()


def _short(run: str) -> int:
    return int.from_bytes(_hash(run, 4), "little")


def _long(run: str) -> bytes:
    return _hash(run, 16)


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
            runs.update((_long(run), name) for run in runs_of(words, NGRAM))
    return runs


def _minhash(**given) -> datasketch.MinHash:
    return datasketch.MinHash(num_perm=PERMUTATIONS, hashfunc=_short, scheme="affine32", **given)


def note(example, kind: str, runs: Mapping[bytes, str]) -> Note:
    """What `decide` has to know of a document. `kind`: of KINDS; `runs`: of `evaluation_runs`."""
    # A document without a word, as a line of dots, is compared by its characters.
    words = words_of(text_of(example)) or text_of(example).split()
    sketch, contaminated = None, ""
    if kind == "near":
        minhash = _minhash()
        minhash.update_batch(sorted({*runs_of(words, SHINGLE)} or {" ".join(words)}))
        sketch = minhash.hashvalues
    if runs:
        found = (runs.get(_long(run), "") for run in runs_of(words, NGRAM))
        contaminated = next(filter(None, found), "")
    return Note(_long(_exact(example)), sketch, contaminated)


class _Alike:
    """An index of sketches by what is nearly the same as them."""

    def __init__(self):
        self._sketches: dict[int, np.ndarray] = {}

    @functools.cached_property
    def _lsh(self):  # it takes a while to choose its bands
        return datasketch.MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)

    def add(self, number: int, sketch: np.ndarray) -> None:
        self._sketches[number] = sketch
        self._lsh.insert(number, _minhash(hashvalues=sketch))

    def to(self, sketch: np.ndarray) -> Iterable[int]:
        """Numbers of those that were added and are nearly the same."""
        for other in self._lsh.query(_minhash(hashvalues=sketch)):
            if np.mean(sketch == self._sketches[other]) >= THRESHOLD:
                yield other


def decide(notes: Iterable[Note], kind: str, heldout: Iterable[Note] = ()) -> list[str]:
    """The reason for leaving out each document, in order; "" for those that stay.

    Args:
      heldout: of documents whose copies are left out, too, if copies are looked for at all.
    """
    aside, kept, heldout_keys, seen, out = _Alike(), _Alike(), set(), set(), []
    for number, other in enumerate(heldout if kind else ()):
        heldout_keys.add(other.key)
        if kind == "near":
            aside.add(number, other.sketch)
    for number, (key, sketch, contaminated) in enumerate(notes):
        reason = f"contaminated: {contaminated}" if contaminated else ""
        if not reason and kind:
            if key in heldout_keys:
                reason = "duplicate of a held-out document"
            elif kind == "near" and any(True for _ in aside.to(sketch)):
                reason = "near duplicate of a held-out document"
            elif key in seen:
                reason = "duplicate"
            elif kind == "near" and any(True for _ in kept.to(sketch)):
                reason = "near duplicate"
        if not reason:
            seen.add(key)
            if kind == "near":
                kept.add(number, sketch)
        out.append(reason)
    return out


def copy_groups(keys: Sequence[bytes], notes: Sequence[Note], kind: str) -> list[bytes]:
    """For each document the lowest of the `keys` (sources.content_key) in its group: documents of
    the same key stand in one, and so do those that are near copies, and copies of these, if `kind`
    is "near". The order of documents makes no difference."""
    if kind != "near":  # whatever is the same in all has the same key
        return list(keys)
    lowest: dict[bytes, bytes] = {}  # a forest: each key's parent is a lower one, a root its own

    def root(key: bytes) -> bytes:
        while (above := lowest.setdefault(key, key)) != key:
            lowest[key] = lowest[above]
            key = lowest[key]
        return key

    alike, first = _Alike(), {}
    for number, (key, note) in enumerate(zip(keys, notes, strict=True)):
        same = first.setdefault(note.sketch.tobytes(), number)
        others = [same] if same != number else alike.to(note.sketch)
        for other in others:
            a, b = sorted((root(key), root(keys[other])))
            lowest[b] = a
        if same == number:
            alike.add(number, note.sketch)
    return [root(key) for key in keys]
