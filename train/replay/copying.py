"""Words copied from training: the longest run of an answer's words that the training data holds.

Words are those of data/clean/words.py, so that case and punctuation make no difference. Runs are
compared by 64-bit hashes.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data.clean.words import words_of
from data.config import DataConfig
from data.errors import DataError
from data.schemas.examples import content_key, example_text
from data.splits import read_examples
from ranges import ConfigError
from train.config import run as run_config
from train.config.run_names import split_step
from train.config.saved import recipe_of
from train.interop import opening
from train.objectives.registry import STAGES
from train.terminal.progress import phase

WORDS_AT_ONCE = 1 << 20  # of training data
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_TRAINING_END, _ANSWER_END = 1, 2  # ids between texts, which differ and so are never copied


class Training(NamedTuple):
    """The training data of a checkpoint.

    Attributes:
      parts: {settings of data: examples}, of its run and of those that it began from.
      unread: the parts that cannot be read, each with the reason.
    """

    parts: dict[str, list[dict]]
    unread: list[str]


def training_of(name: str, known: dict[str, list[dict]]) -> Training:
    """The training data of a run, and of the runs that its policy began from.

    Args:
      known: parts that were read for other checkpoints; it grows.
    """
    training, seen = Training({}, []), set[str]()
    while name and name not in seen:
        seen.add(name)
        if not opening.is_run(split_step(name)[0]):
            training.unread.append(f"{name} is no run of Seedpod")
            break
        try:
            config = run_config.build(recipe_of(name))
            schema = STAGES[config.stage].schema
            key = f"{schema} {config.data}"
            if key not in known:
                known[key] = _read(config.data, schema)
        except (ConfigError, DataError, OSError) as error:
            training.unread.append(f"{name}: {' '.join(str(error).split()):.200}")
            break
        training.parts[key] = known[key]
        name = config.init_from.get("policy", "")
    return training


def _read(data: DataConfig, schema: str) -> list[dict]:
    if any(data.prepared_folders()):
        raise DataError("the rows were prepared, and their texts are not read")
    with phase("reading training data"):
        return read_examples(data, schema).train


def questions(training: Training) -> set[bytes]:
    """Keys of the conversations that were trained on (data/schemas/examples.py)."""
    return {content_key(example) for part in training.parts.values() for example in part}


def copied(answers: Sequence[Sequence[str]], training: Sequence[Training]) -> list[np.ndarray]:
    """The longest runs of several sets of answers, each compared with the training data of its own;
    data that several share is read once. Empty arrays where there is none."""
    parts = {key: part for own in training for key, part in own.parts.items()}
    texts = [text for own in answers for text in own]
    runs = dict[str, np.ndarray]()
    for number, (key, examples) in enumerate(parts.items(), 1):
        with phase(f"comparing with training data, part {number} of {len(parts)}"):
            runs[key] = longest_runs(texts, map(example_text, examples))
    ends = np.cumsum([len(own) for own in answers])[:-1]
    split = {key: np.split(values, ends) for key, values in runs.items()}
    return [
        np.max([split[key][number] for key in own.parts], axis=0) if own.parts else np.zeros(0)
        for number, own in enumerate(training)
    ]


def longest_runs(answers: Sequence[str], texts: Iterable[str]) -> np.ndarray:
    """The number of words of the longest run that each answer shares with one of the texts, [n]
    int64."""
    distinct = dict.fromkeys(answers)
    ids, owners = _concatenated(distinct, _ANSWER_END)
    best = np.zeros(len(distinct), np.int64)
    for chunk in _chunks(texts):
        _update(best, ids, owners, chunk)
    index = {text: i for i, text in enumerate(distinct)}
    return best[[index[text] for text in answers]]


def _update(best: np.ndarray, answers: np.ndarray, owners: np.ndarray, texts: np.ndarray) -> None:
    """Raises `best` [n] to the runs that the answers share with the texts, both ids [·] uint64.

    A position stays in question for as long as the run of one word less from it is shared.
    """
    answer_hashes, text_hashes = _Hashes(answers), _Hashes(texts)
    answer_places, text_places = np.arange(len(answers)), np.arange(len(texts))
    length = 0
    while len(answer_places) and len(text_places):
        length += 1
        answer_places = answer_places[answer_places + length <= len(answers)]
        text_places = text_places[text_places + length <= len(texts)]
        ours, theirs = answer_hashes(answer_places, length), text_hashes(text_places, length)
        shared = np.isin(ours, theirs)
        text_places = text_places[np.isin(theirs, ours)]
        answer_places = answer_places[shared]
        np.maximum.at(best, owners[answer_places], length)


class _Hashes:
    """Hashes of runs of ids: Σ id·BASE^i over the run, divided by BASE to its first place."""

    def __init__(self, ids: np.ndarray):
        count = len(ids)
        powers = np.full(count, _BASE, np.uint64)
        inverses = np.full(count + 1, pow(_BASE, -1, 1 << 64), np.uint64)
        if count:
            powers[0] = 1
        inverses[0] = 1
        sums = np.cumsum(ids * np.cumprod(powers, dtype=np.uint64), dtype=np.uint64)
        self._sums = np.concatenate([np.zeros(1, np.uint64), sums])
        self._inverses = np.cumprod(inverses, dtype=np.uint64)

    def __call__(self, places: np.ndarray, length: int) -> np.ndarray:
        return (self._sums[places + length] - self._sums[places]) * self._inverses[places]


@functools.lru_cache(maxsize=1 << 20)
def _id(word: str) -> int:
    digest = hashlib.blake2b(word.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _concatenated(texts: Iterable[str], end: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids of the words of texts, the number of the text of each), with `end` after each text."""
    ids, owners = list[int](), list[int]()
    for number, text in enumerate(texts):
        words = words_of(text)
        ids += [*map(_id, words), end]
        owners += [number] * (len(words) + 1)
    return np.array(ids, np.uint64), np.array(owners, np.int64)


def _chunks(texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Yields the ids of texts, many at a time; the same text is read once."""
    ids = list[int]()
    for text in dict.fromkeys(texts):
        ids += [*map(_id, words_of(text)), _TRAINING_END]
        if len(ids) > WORDS_AT_ONCE:
            yield np.array(ids, np.uint64)
            ids = []
    yield np.array(ids, np.uint64)
