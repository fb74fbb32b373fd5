"""Candidates sampled while people answer, and the doubt of a reward model about them."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from data.ranking.questions import Candidate, Question
from data.ranking.store import Store

AT_ONCE = 8  # questions that are sampled before the first of them can be asked

# (messages, candidates) -> the score of each candidate. ValueError: one does not fit the model.
Score = Callable[[Sequence[Mapping], Sequence[Candidate]], list[float]]


class Sampled(NamedTuple):
    """An answer of a model. `ended`: by itself, and not at the largest number of tokens."""

    text: str
    ended: bool


class Answerer(Protocol):
    """A model that answers prompts.

    Attributes:
      source: what is recorded of each answer: the run, and how it was sampled.
    """

    source: Mapping[str, Any]

    def __call__(
        self, questions: Sequence[Question], samples: int
    ) -> Iterator[tuple[int, list[Sampled] | str]]:
        """Yields (id of a question, `samples` answers, or the reason why it cannot be answered)."""


def shares(models: int, answers: int) -> list[int]:
    """The number of answers of each model, as equal as possible."""
    return [answers // models + (i < answers % models) for i in range(models)]


def doubt(scores: Sequence[float]) -> float:
    """The probability, 0 to ½, that scores order a pair of the scored wrongly, by their own account
    (Bradley-Terry), averaged over the pairs.

    Raises:
      FloatingPointError: a score is not finite.
    """
    if not all(map(math.isfinite, scores)):
        raise FloatingPointError(f"the reward model's scores are not finite: {list(scores)}")
    gaps = [abs(a - b) for a, b in itertools.combinations(scores, 2)]
    return sum(1 / (1 + math.exp(min(gap, 700))) for gap in gaps) / len(gaps)


class Sampler:
    """Fills the questions of a store in a thread of its own.

    Args:
      answerers: the models; `answers` is the number of candidates of a question, of all together.
      score, judge: of a reward model, and its name; its doubt is noted for each question.

    Attributes:
      total, done: questions to sample. error: why it stopped before the end, or "".
      unjudged: questions that do not fit the reward model; they are asked last.
    """

    def __init__(
        self, store: Store, answerers: Sequence[Answerer], answers: int,
        score: Score | None = None, judge: str = "",
    ):  # fmt: skip
        self._store, self._answerers, self._score, self._judge = store, answerers, score, judge
        self._answers, self._stop = answers, threading.Event()
        self._questions = store.waiting() if answerers else []
        self.total, self.done, self.error = len(self._questions), 0, ""
        self.unjudged = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the questions that it is sampling."""
        self._stop.set()
        if self._thread.ident:
            self._thread.join()

    def _run(self) -> None:
        try:
            self.fill()
        except (ValueError, OSError, FloatingPointError) as error:
            self.error = str(error)

    def fill(self) -> None:
        """Samples all candidates, and judges them."""
        self._judge_all()  # those of a file, or of an earlier run
        for start in range(0, self.total, AT_ONCE):
            if self._stop.is_set():
                return
            batch = self._questions[start:][:AT_ONCE]
            for number, answers in self._sampled(batch).items():
                if isinstance(answers, str):
                    self._store.drop(number, answers)
                else:
                    self._store.fill(number, answers)
                self.done += 1
            self._judge_all()

    def _sampled(self, questions: Sequence[Question]) -> dict[int, list[Candidate] | str]:
        """{id of a question: its candidates, or the reason why there are none}."""
        counts = shares(len(self._answerers), self._answers)
        found: dict[int, list[Candidate]] = {question.id: [] for question in questions}
        failed: dict[int, str] = {}
        for answerer, count in zip(self._answerers, counts, strict=True):
            for number, answers in answerer(questions, count):
                if isinstance(answers, str):
                    failed[number] = answers
                    continue
                for answer in answers:
                    text, others = answer.text.strip(), found[number]
                    if text and text not in (other.text for other in others):
                        source = {**answerer.source, "ended": answer.ended}
                        others.append(Candidate(text, source))
        few = "fewer than two different answers were sampled"
        return {
            number: failed.get(number) or (candidates if len(candidates) > 1 else few)
            for number, candidates in found.items()
        }

    def _judge_all(self) -> None:
        """Notes the doubt of the reward model about questions that it has not seen."""
        if self._score is None:
            return
        for question in self._store.unjudged(self._judge):
            if self._stop.is_set():
                return
            try:
                value = doubt(self._score(question.messages, question.candidates))
            except ValueError:
                self.unjudged += 1
                value = 0.0
            self._store.set_doubt(question.id, value, self._judge)
