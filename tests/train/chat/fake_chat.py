"""Models that answer without sampling, for tests of the faces of a conversation; and one on a
terminal: `python tests/train/chat/fake_chat.py`."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from train.chat.answer import LIMIT, STOP, Answer


class FakeModel:
    """Answers with a text and the number of the draw, a word at a time.

    Args:
      delay: seconds between words. room: number of turns in the context.
    """

    def __init__(self, name: str, text: str, limit: int = 99, delay: float = 0.0, room: int = 9):
        self.name, self.text, self.limit = name, text, limit
        self.delay, self.room = delay, room
        self.words = 0  # sampled so far
        self.messages: list = []  # of the newest question

    def fit(self, messages) -> tuple[str, int]:
        self.messages = messages
        if len(messages[-1]["content"]) > 2000:
            raise ValueError("ask something shorter")
        questions = sum(message["role"] == "user" for message in messages)
        return messages[-1]["content"], max(0, questions - self.room)

    def stream(self, ids: str, draw: int, temperature: float) -> Iterator[Answer]:
        text = f"{self.text} {draw}" if temperature else self.text
        words = re.findall(r"\s*\S+", text)
        for count in range(1, len(words) + 1):
            time.sleep(self.delay)
            self.words += 1
            end = STOP if count == len(words) else ""
            yield Answer("".join(words[:count]), count, LIMIT if count == self.limit else end)
            if count == self.limit:
                return


class FakeScorer:
    """Scores an answer with its length."""

    name = "runs/reward"

    def score(self, messages, ended: bool) -> float:
        return len(messages[-1]["content"]) + ended / 4


if __name__ == "__main__":
    from train.chat.session import Session
    from train.chat.terminal import converse

    converse(Session([FakeModel("runs/demo/ppo", "the answer is " + "long " * 60, delay=0.02)]))
