"""A conversation: questions, and the answers of one or two models, each with its own history."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from etils import epath

from data.atomic import write_atomically
from train.chat.answer import STOP, STOPPED, Answer, Turn, scored


class Reply:
    """An answer that is sampled as it is iterated over.

    Attributes:
      name, limit: of the model. answer: the newest form of the answer.
      forgotten: number of the oldest turns that do not fit its context.
    """

    def __init__(self, model: Any, forgotten: int, stream: Iterator[Answer]):
        self.name, self.limit, self.forgotten = model.name, model.limit, forgotten
        self.answer, self._stream = Answer(), stream

    def __iter__(self) -> Iterator[Answer]:
        for answer in self._stream:
            self.answer = answer
            yield answer


class Session:
    """A conversation with one or two models.

    Args:
      models: `train.chat.model.ChatModel`s. scorer: a `Scorer`, or None.
      open_passages: source -> passages (train/chat/passages.py).

    Attributes:
      models, scorer, temperature. system: the system message, "" for none.
      passages: writes passages into a question (train/chat/passages.py), or None.
      turns: the whole conversation, also what no longer fits a context.
    """

    def __init__(
        self, models: Sequence[Any], scorer: Any = None, temperature: float = 0.7, system: str = "",
        open_passages: Callable[[str], Any] | None = None,
    ):  # fmt: skip
        self.models, self.scorer = tuple(models), scorer
        self.temperature, self.system = temperature, ""
        self.passages: Any = None
        self._open_passages = open_passages
        self.turns: list[Turn] = []
        self._draws, self._saved = 0, ""
        self.instruct(system)

    def reset(self) -> None:
        self.turns = []

    def instruct(self, system: str) -> None:
        """Sets the system message.

        Raises:
          ValueError: a model's chat format has no place for one, or its context no room.
        """
        for model in self.models if system else ():
            model.fit([{"role": "system", "content": system}, {"role": "user", "content": "?"}])
        self.system = system

    def ground(self, source: str) -> None:
        """Answers from the documents of a folder from now on; "" from none.

        Raises:
          ValueError: it has none, or this session has no way to open them.
        """
        if source and not self._open_passages:
            raise ValueError("these models have no passages")
        self.passages = self._open_passages(source) if source and self._open_passages else None

    def set_temperature(self, text: str) -> None:
        """Sets the temperature from text.

        Raises:
          ValueError: it is no number from 0 on.
        """
        try:
            temperature = float(text)
        except ValueError:
            temperature = math.nan
        if not 0 <= temperature <= 100:
            raise ValueError(f"a temperature is a number from 0 to 100, as 0.7; not {text:.40}")
        self.temperature = temperature

    def messages(self, index: int, turns: Sequence[Turn], question: str = "") -> list[dict]:
        """The conversation with one model, and a new question if one is given."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for turn in turns:
            messages.append({"role": "user", "content": turn.question})
            messages.append({"role": "assistant", "content": turn.answers[index].text})
        return [*messages, {"role": "user", "content": question}] if question else messages

    def ask(self, question: str, turns: Sequence[Turn] | None = None) -> list[Reply]:
        """The replies of all models to a question, each with the same random key.

        Args:
          turns: the conversation before the question; by default the whole one.

        Raises:
          ValueError: the question does not fit the context of a model.
        """
        turns = self.turns if turns is None else turns
        asked = self.passages.prompt(question) if self.passages else question
        fits = [m.fit(self.messages(i, turns, asked)) for i, m in enumerate(self.models)]
        draw, self._draws = self._draws, self._draws + 1
        return [
            Reply(model, forgotten, model.stream(ids, draw, self.temperature))
            for model, (ids, forgotten) in zip(self.models, fits, strict=True)
        ]

    def regenerate(self) -> tuple[str, list[Reply]]:
        """(the last question, new replies to it).

        Raises:
          ValueError: nothing was asked.
        """
        if not self.turns:
            raise ValueError("there is no answer to write again; ask something first")
        question = self.turns[-1].question
        return question, self.ask(question, self.turns[:-1])

    def keep(self, question: str, replies: Sequence[Reply], again: bool = False) -> Turn:
        """Adds a turn with the replies as far as they were sampled, scored; one of which nothing
        was sampled is not kept.

        Args:
          again: the turn replaces the last one.
        """
        answers = tuple(r.answer._replace(end=r.answer.end or STOPPED) for r in replies)
        turn = Turn(question, answers)
        if not any(answer.tokens for answer in answers):
            return turn
        turns = self.turns[:-1] if again else self.turns
        if self.scorer:
            history = [*turns, turn]
            scores = (
                scored(self.scorer, answer, self.messages(i, history))
                for i, answer in enumerate(answers)
            )
            turn = Turn(question, tuple(scores))
        self.turns = [*turns, turn]
        return turn

    def save(self, path: str) -> str:
        """Writes the conversation as JSON lines of schema `chat`, one a model, and says so. Answers
        that did not end by themselves have weight 0, so that none learns to end there.

        Raises:
          ValueError: there is nothing to save, the name ends otherwise than in .jsonl, or the file
            is there and is not of this session. OSError: it cannot be written.
        """
        if not path.endswith(".jsonl"):
            raise ValueError(f"/save takes a name that ends in .jsonl, as talk.jsonl; not {path!r}")
        if path != self._saved and epath.Path(path).expanduser().exists():
            raise ValueError(f"{path} exists; give another name")
        records = []
        for index in range(len(self.models)):
            turns = [turn for turn in self.turns if turn.answers[index].shown]
            messages = self.messages(index, turns)
            said = [m for m in messages if m["role"] == "assistant"]
            for message, turn in zip(said, turns, strict=True):
                if turn.answers[index].end != STOP:
                    message["weight"] = 0
            records += [{"messages": messages}] if turns else []
        if not records:
            raise ValueError("there is nothing to save; ask something first")
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        write_atomically(epath.Path(path).expanduser(), lines)
        self._saved = path
        count = len(self.turns)
        return f"{count} turn{'s' * (count != 1)} written to {path}"
