"""A question to people (a prompt with candidates to compare), and an answer to it."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec

from data.errors import DataError

MOST_CANDIDATES = 4
_MAX_TEXT = 200_000  # characters of a comment or an ideal answer

Text = Annotated[str, msgspec.Meta(max_length=_MAX_TEXT)]


class Candidate(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer to compare.

    Attributes:
      text. source: where it comes from, any JSON object, such as the run and its sampling settings.
        `ended` false there says that it was cut at the largest number of tokens.
    """

    text: str
    source: dict[str, Any] = {}


class Question(msgspec.Struct, omit_defaults=True):
    """A prompt and its candidates.

    Attributes:
      messages: the conversation, the user's or a tool's message last (data/schemas/messages.py).
      candidates: 2 to 4 of different text; none yet where they are still to be sampled.
      tools: of the conversation. where: the place it was read from.
      gold: the known rank of each candidate, 0 best, where the question tests the annotator.
      doubt: the probability, 0 to ½, that a reward model orders a pair of the candidates wrongly.
      id: its number in a database.
    """

    messages: list[dict[str, Any]]
    candidates: list[Candidate] = []
    tools: list[dict[str, Any]] = []
    where: str = ""
    gold: list[int] | None = None
    doubt: float | None = None
    id: int = 0

    def key(self) -> str:
        """A hash of what is asked."""
        texts = [candidate.text for candidate in self.candidates]
        content = [self.messages, self.tools, texts, self.gold]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def check(self) -> None:
        """Raises DataError unless the candidates can be compared."""
        texts = [candidate.text.strip() for candidate in self.candidates]
        place = f"{self.where}: " * bool(self.where)
        if texts and not 2 <= len(texts) <= MOST_CANDIDATES:
            raise DataError(
                f"{place}{len(texts)} answers to compare; give 2 to {MOST_CANDIDATES}",
                "bad_candidates",
            )
        if "" in texts or len(set(texts)) < len(texts):
            fault = "an answer is empty" if "" in texts else "two answers are the same text"
            raise DataError(f"{place}{fault}, so there is nothing to compare", "bad_candidates")
        if self.gold is not None and len(self.gold) != len(texts):
            raise DataError(f"{place}a gold question needs a rank of each answer", "bad_rank")


class Answer(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One person's answer to a question.

    Attributes:
      rank: of each candidate of the question, 0 best; equal ranks are a tie. None: skipped.
      unsafe: numbers of the candidates that were flagged. comment.
      ideal: a better answer, written or edited by the annotator; "" for none.
      order: the numbers of the candidates in the order in which they were shown.
      seconds: for which the question was looked at.
    """

    rank: Annotated[list[int], msgspec.Meta(max_length=MOST_CANDIDATES)] | None = None
    unsafe: Annotated[list[int], msgspec.Meta(max_length=MOST_CANDIDATES)] = []
    comment: Text = ""
    ideal: Text = ""
    order: Annotated[list[int], msgspec.Meta(max_length=MOST_CANDIDATES)] = []
    seconds: float = 0.0

    @classmethod
    def choice(cls, best: int, count: int) -> Answer:
        """The answer that candidate `best` of `count` is better than the others."""
        return cls(rank=[int(i != best) for i in range(count)])

    @property
    def tied(self) -> bool:
        """Whether no candidate is better than another."""
        return self.rank is not None and len(set(self.rank)) == 1

    def checked(self, count: int) -> Answer:
        """The answer to a question with `count` candidates, its ranks without gaps.

        Raises:
          DataError: it does not fit such a question.
        """
        if self.rank is not None and len(self.rank) != count:
            raise DataError(f"a rank of {len(self.rank)} candidates, and there are {count}")
        if not all(0 <= i < count for i in self.unsafe):
            raise DataError(f"unsafe={self.unsafe}, and there are {count} candidates")
        if self.order and sorted(self.order) != list(range(count)):
            raise DataError(f"order={self.order} is not one of {count} candidates")
        seconds = min(max(self.seconds, 0.0), 86400.0) if self.seconds == self.seconds else 0.0
        rank = None if self.rank is None else dense(self.rank)
        unsafe = sorted(set(self.unsafe))
        return msgspec.structs.replace(self, rank=rank, unsafe=unsafe, seconds=round(seconds, 1))


class Recorded(msgspec.Struct):
    """An answer in a database.

    Attributes:
      id: of the answer. time: ISO 8601, UTC.
    """

    id: str
    question: int
    annotator: str
    time: str
    answer: Answer


def dense(values: Sequence[float]) -> list[int]:
    """Ranks without gaps, 0 for the smallest value."""
    places = {value: i for i, value in enumerate(sorted(set(values)))}
    return [places[value] for value in values]


def ordered_pairs(rank: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields (better, worse) for each pair that a rank distinguishes."""
    for i, j in itertools.permutations(range(len(rank)), 2):
        if rank[i] < rank[j]:
            yield i, j


def is_right(answer: Answer, gold: Sequence[int]) -> bool | None:
    """Whether an answer orders every pair that the gold rank distinguishes as it does; None for a
    skipped question."""
    if answer.rank is None:
        return None
    return all(answer.rank[i] < answer.rank[j] for i, j in ordered_pairs(gold))
