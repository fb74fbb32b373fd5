"""Annotators for `python -m train.improve --annotator=examples.annotators:shortest`.

An annotator takes the messages of a conversation and its answers, and returns the rank of each
answer, 0 for the best, equal for a tie, or None to skip the question.
"""

from collections.abc import Mapping, Sequence


def shortest(messages: Sequence[Mapping], answers: Sequence[str]) -> list[int]:
    """Prefers short answers."""
    del messages
    return [len(answer) for answer in answers]
