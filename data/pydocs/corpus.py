"""From docstrings to the three pydocs corpora, each in splits that share no answer.

Everything here is a pure function of the entries of data/pydocs/extract.py; every choice comes from
a hash of a name or of a text (`hashlib`, never `hash`, which changes from run to run).

An *answer* is the first paragraph of a docstring, and belongs to the split given by the hash of its
normalised words. It is then in no other split, of any config:

- of several names with the same paragraph one keeps it, and a paragraph under many names is
  boilerplate and not an answer;
- an answer that quotes a shorter one is in the same split; one that quotes two of different splits
  is dropped;
- a text document is in the split of its answer, without the paragraphs that quote an answer of
  another split; validation and test documents also lose the paragraphs that are in train.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from data.pydocs.extract import Entry, is_public, normalise, summary, tidy

SPLITS = ("train", "validation", "test")

# A paragraph under this many names says nothing about any of them.
BOILERPLATE = 8
# Paragraphs of fewer words ("Return code:", "For example:") may repeat between splits.
REPEATABLE_WORDS = 8


class Document(NamedTuple):
    """A pretraining document: a heading and the documentation under it."""

    split: str
    name: str
    text: str


class Answer(NamedTuple):
    """A question about a name, and the first paragraph of its documentation."""

    split: str
    name: str
    kind: str
    prompt: str
    response: str


class Corpus(NamedTuple):
    """The data of all three configs; answers and documents sorted by name."""

    answers: list[Answer]
    documents: list[Document]


def build(entries: Sequence[Entry]) -> Corpus:
    """Returns the answers and the documents of `entries`, with their splits."""
    answers = answers_of(entries)
    return Corpus(answers, documents_of(entries, answers))


def fraction(text: str) -> float:
    """Returns a number in [0, 1) that depends on `text` alone, on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def split_of(paragraph: str) -> str:
    """Returns the split of a normalised paragraph: about 90 / 5 / 5 of them."""
    place = fraction(paragraph)
    return "train" if place < 0.90 else "validation" if place < 0.95 else "test"


class Quotes:
    """Finds known answers, word for word, inside a longer text."""

    def __init__(self):
        self._by_start: dict[tuple[str, ...], list[tuple[tuple[str, ...], str]]] = defaultdict(list)

    def add(self, words: Sequence[str], split: str) -> None:
        """Adds a known answer. Raises ValueError for fewer than 3 words: too common to find."""
        if len(words) < 3:
            raise ValueError(f"an answer needs 3 words, to differ from a common phrase: {words}")
        self._by_start[tuple(words[:3])].append((tuple(words), split))

    def find(self, words: Sequence[str]) -> Iterator[tuple[int, int, str]]:
        """Yields (start, end, split) of every answer in `words`, in order of start."""
        for start in range(len(words) - 2):
            for answer, split in self._by_start.get(tuple(words[start : start + 3]), ()):
                end = start + len(answer)
                if tuple(words[start:end]) == answer:
                    yield start, end, split


# --- chat -----------------------------------------------------------------------------------


def prompt(name: str) -> str:
    """Returns the question about a name: What does `shutil.copytree` do?"""
    return f"What does `{name}` do?"


def answers_of(entries: Sequence[Entry]) -> list[Answer]:
    """Returns one answer for each distinct first paragraph of the public names."""
    candidates: dict[str, list[tuple[Entry, str]]] = defaultdict(list)
    for entry in entries:
        if entry.kind == "topic" or not is_public(entry.name):
            continue
        response = summary(entry.name, entry.doc)
        paragraph = normalise(response)
        if paragraph.count(" ") >= 2:  # `Quotes` accepts no shorter answers
            candidates[paragraph].append((entry, response))

    answers, known = [], Quotes()
    # Shorter ones first, so that they are known to those that quote them.
    for paragraph in sorted(candidates, key=lambda text: (text.count(" "), text)):
        if len(candidates[paragraph]) >= BOILERPLATE:
            continue
        words = paragraph.split()
        quoted = {split for _, _, split in known.find(words)}
        if len(quoted) > 1:
            continue
        split = quoted.pop() if quoted else split_of(paragraph)
        known.add(words, split)
        # The name nearest the top of the library is the best known.
        entry, response = min(candidates[paragraph], key=lambda c: (c[0].name.count("."), c[0]))
        answers.append(Answer(split, entry.name, entry.kind, prompt(entry.name), response))
    return sorted(answers, key=lambda answer: answer.name)


# --- text -----------------------------------------------------------------------------------


def documents_of(entries: Sequence[Entry], answers: Iterable[Answer]) -> list[Document]:
    """Returns one document for each distinct docstring and topic, including those of private names.

    A document that keeps no paragraph is left out.
    """
    known, splits = Quotes(), {}
    for answer in answers:
        paragraph = normalise(answer.response)
        known.add(paragraph.split(), answer.split)
        splits[paragraph] = answer.split

    placed: dict[str, list[tuple[Entry, list[str]]]] = {split: [] for split in SPLITS}
    seen_docs = set()
    for entry in entries:
        text = tidy(entry.doc)
        if (words := normalise(text)) in seen_docs:
            continue
        seen_docs.add(words)
        first = normalise(summary(entry.name, entry.doc)) or words
        split = splits.get(first) or split_of(first)
        placed[split].append((entry, re.split(r"\n\s*\n", text)))

    documents, seen_paragraphs = [], set()
    for split in SPLITS:  # train first: it takes precedence
        kept_here = set()
        for entry, paragraphs in placed[split]:
            heading = entry.name if entry.kind == "topic" else f"{entry.kind} {entry.name}"
            paragraphs = [p for p in paragraphs if normalise(p) not in seen_paragraphs]
            paragraphs = _without_foreign(heading, paragraphs, split, known)
            kept_here.update(
                words
                for words in map(normalise, paragraphs)
                if words.count(" ") + 1 >= REPEATABLE_WORDS
            )
            if any(map(normalise, paragraphs)):
                text = "\n\n".join([heading, *paragraphs])
                documents.append(Document(split, entry.name, text))
        seen_paragraphs |= kept_here
    return sorted(documents, key=lambda document: document.name)


def _without_foreign(heading: str, paragraphs: list[str], split: str, known: Quotes) -> list[str]:
    """Returns the paragraphs without those that contain a part of an answer of another split.

    An answer may span a blank line, and removing a paragraph makes its neighbours adjacent, so the
    whole document is searched again after each change.
    """
    while True:
        words, owners = [], []
        for index, paragraph in enumerate([heading, *paragraphs]):
            of_paragraph = normalise(paragraph).split()
            words += of_paragraph
            owners += [index] * len(of_paragraph)
        foreign = {
            owner
            for start, end, of_split in known.find(words)
            if of_split != split
            for owner in owners[start:end]
        }
        if not foreign:
            return paragraphs
        if foreign == {0}:  # the name itself reads like an answer: no part can be kept
            return []
        paragraphs = [p for index, p in enumerate(paragraphs, start=1) if index not in foreign]
