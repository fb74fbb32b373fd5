"""An answer, finished or not, and a turn of a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# How an answer ended: by a stop id; at max_new_tokens; by the person who reads it.
STOP, LIMIT, STOPPED = "stop", "limit", "stopped"


class Answer(NamedTuple):
    """An answer, or its beginning.

    Attributes:
      text: as the model wrote it. tokens: their number.
      end: STOP, LIMIT or STOPPED; "" while it is being written.
      score: the reward model's, or why there is none; "" if it was not asked.
    """

    text: str = ""
    tokens: int = 0
    end: str = ""
    score: str = ""

    @property
    def shown(self) -> str:
        """The text without white space around it; like the text, it grows at its end alone."""
        return self.text.strip()


class Turn(NamedTuple):
    """A question, and the answer of each model of a session."""

    question: str
    answers: tuple[Answer, ...]


def marks(answer: Answer, limit: int) -> list[str]:
    """Remarks on a finished answer: how it ended, unless by itself, and its score.

    Args:
      limit: the largest number of tokens of an answer.
    """
    marks = {
        STOPPED: "… stopped",
        LIMIT: f"… cut at {limit} tokens; --max_new_tokens",
        STOP: "" if answer.shown else "(an empty answer)",
    }
    return [mark for mark in (marks[answer.end], answer.score) if mark]


def scored(scorer: Any, answer: Answer, messages: Sequence[Mapping[str, str]]) -> Answer:
    """An answer with its score.

    Args:
      scorer: a `train.chat.model.Scorer`. messages: the conversation, the answer last.
    """
    try:
        score = f"reward {scorer.score(messages, answer.end == STOP):.3f}"
    except ValueError as error:
        score = f"no reward: {error}"
    return answer._replace(score=score)


def forgotten_mark(count: int, name: str = "") -> str:
    """A remark on turns that the context has no room for.

    Args:
      name: the model's, where there are two.
    """
    turns = "the oldest turn no longer fits" if count == 1 else (
        f"the {count} oldest turns no longer fit"
    )  # fmt: skip
    return f"({turns} the context{f' of {name}' if name else ''})"
