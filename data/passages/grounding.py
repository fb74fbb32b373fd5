"""Passages chosen for a question, and written into prompts and answers.

Everything drawn is a function of `data.passages.seed` and of the record's messages before its
answer, so that rows do not depend on the order in which, or the process where, they are made.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from data.config import DataConfig
from data.errors import DataError
from data.packing.base import CUT, map_examples
from data.passages import fitting
from data.passages.config import PassagesConfig
from data.passages.documents import Passage
from data.passages.library import Library, open_library
from data.read.bad_records import BadRecords
from data.schemas.examples import content_key
from data.schemas.templates import parse
from data.text.base import Tokenizer

RATES, RIGHT, WRONG, SEARCH = "rates", "right", "wrong", "search"
NOTHING = "(none)"  # the documents of a prompt without any
SEPARATOR = "\n\n"  # between documents
OWN = ("passages", "sources", "grounded")  # fields of an example before it is grounded


class Grounded(NamedTuple):
    """A question with its passages.

    Attributes:
      prompt: the question in the template. parts: (text, name of the part or "") of the prompt.
      shown: the id of each passage, as the prompt has it. passages: as the prompt has them.
      right: the ids of those that answer; None where that is unknown.
      answerable: whether a passage answers, or may.
      cut: whether passages were cut to the number of tokens.
    """

    prompt: str
    parts: list[tuple[str, str]]
    shown: list[str]
    passages: list[Passage]
    right: list[str] | None
    answerable: bool
    cut: bool

    @property
    def documents(self) -> str:
        """The passages as the prompt has them."""
        return next(text for text, name in self.parts if name == "documents")


def open_grounder(config: DataConfig, schema: str, tokenizer: Tokenizer) -> Grounder | None:
    """The Grounder of a run's data; None where it has none.

    Raises:
      DataError: the schema has no place for passages, or there are none.
    """
    if not config.grounded:
        return None
    passages = config.passages
    if schema == "text":
        raise DataError("data.passages is for conversations, and this stage reads text")
    if schema == "preference" and passages.none_rate:
        raise DataError(
            f"data.passages.none_rate={passages.none_rate:g}: without a passage that answers, the "
            "ranking of these responses would be another; set it to 0"
        )
    library = None
    if passages.source:
        library = open_library(passages, config.tfds_dir, config.redact, config.redact_model)
    return Grounder(passages, tokenizer, library)


class Grounder:
    """Writes passages into examples.

    Args:
      tokenizer: counts the tokens of passages. library: the passages of a source, or None.
    """

    def __init__(self, config: PassagesConfig, tokenizer: Tokenizer, library: Library | None):
        self.config, self.library = config, library
        self._tokenizer = tokenizer
        self._template = parse("template", config.template)
        self._answer = parse("answer", config.answer)

    def ground(
        self, examples: Iterable[dict], skipped: Counter, bad: BadRecords | None = None
    ) -> Iterator[dict]:
        """Yields examples (data/schemas) with passages in the last question.

        Args:
          skipped: counts those whose passages were cut. bad: takes those without the passages that
            they name.
        """
        reason = f"passages of more than data.passages.tokens={self.config.tokens}{CUT}"
        for _, (example, cut) in map_examples(examples, bad, self.example):
            if cut:
                skipped[reason] += 1
            yield example

    def example(self, example: Mapping[str, Any]) -> tuple[dict, bool]:
        """(an example with passages in its last question, whether they were cut).

        Raises:
          DataError: `sources` names a passage that there is not, or none is given and
            `none_rate` needs them.
        """
        if not example.get("grounded", True):  # of a source of a mixture without passages
            return {name: value for name, value in example.items() if name not in OWN}, False
        messages = list(example["messages"])
        at = max(i for i, message in enumerate(messages) if message["role"] == "user")
        last = messages[-1]
        answer = last["content"] if last["role"] == "assistant" else example.get("answer", "")
        grounded = self.question(
            messages[at]["content"], example.get("passages"), example.get("sources"), answer,
            content_key(dict(example)),
        )  # fmt: skip
        out = {name: value for name, value in example.items() if name not in OWN}
        messages[at] = messages[at] | {"content": grounded.prompt}
        if messages[-1]["role"] == "assistant":
            weighed = ("documents", "question")
            messages[at] |= self._weights(grounded.parts, weighed)
            messages[-1] = self._answered(messages[-1], grounded)
            for i, message in enumerate(messages[:-1]):  # answers that have not seen the passages
                if message["role"] == "assistant":
                    messages[i] = message | {"weight": 0.0}
        elif "answer" in out and not grounded.answerable:
            out["answer"] = self.config.unknown
        return out | {"messages": messages}, grounded.cut

    def question(
        self, question: str, own: Sequence[Mapping[str, str]] | None = None,
        names: Sequence[str] | None = None, answer: str = "", key: bytes = b"", mode: str = RATES,
    ) -> Grounded:  # fmt: skip
        """A question with passages.

        Args:
          own: passages of the record. names: the ids of those that answer; None if that is unknown.
          answer: where it is known; it tells the passage of a document that is named.
          key: of the draws. mode: RATES by the settings' rates; RIGHT and WRONG with and without
            the passages that answer; SEARCH those that come first, whether they answer or not.

        Raises:
          DataError: see `example`.
        """
        rng = random.Random(f"{self.config.seed} {key.hex()}")
        without, alone = rng.random(), rng.random()
        mine = [Passage(p["id"], p["id"], p.get("title", ""), p["text"]) for p in own or ()]
        if names is None and own:
            names = [passage.id for passage in mine]
        number = self.config.number
        if names is None:
            if self.config.none_rate and mode == RATES:
                raise DataError(
                    f"data.passages.none_rate={self.config.none_rate:g} needs to know the passages "
                    "that answer; name the field with their ids: "
                    "--config.data.fields.sources='{FIELD}'"
                )
            chosen, answering = self._search(question, number, mine), None
        else:
            right, others = self._divided(question, answer, mine, names)
            if mode == SEARCH:
                chosen = self._search(question, number, mine)
            elif mode == WRONG or (mode == RATES and without < self.config.none_rate):
                chosen = others[:number]
            elif mode == RATES and alone >= self.config.distractor_rate:
                chosen = right[:number]
            else:
                chosen = [*right[:number], *others[: max(number - len(right), 0)]]
            answering = [passage for passage in chosen if passage in right]
        return self._written(question, self._ordered(question, chosen, rng), names, answering)

    def _search(self, question: str, count: int, mine: Sequence[Passage]) -> list[Passage]:
        """The record's passages, then the best ones of the source, without copies."""
        if not self.library or len(mine) >= count:
            return list(mine[:count])
        texts = {passage.text for passage in mine}
        found = self.library.search(question, count + len(mine))
        return [*mine, *(p for p in found if p.text not in texts)][:count]

    def _divided(
        self, question: str, answer: str, mine: Sequence[Passage], names: Sequence[str]
    ) -> tuple[list[Passage], list[Passage]]:
        """(the passage of each name, others; the best first, as many as a prompt has at most)."""
        extra = len(self.library.numbers(names)) if self.library else 0
        found = self._search(question, len(mine) + self.config.number + extra, mine)
        right = [self._named(name, f"{question} {answer}", mine) for name in names]
        return list(dict.fromkeys(right)), [p for p in found if not p.is_of(names)]

    def _named(self, name: str, query: str, mine: Sequence[Passage]) -> Passage:
        for passage in mine:
            if passage.is_of([name]):
                return passage
        if self.library:
            return self.library.best(name, query)
        raise DataError(f"'sources' names {name!r:.80}, which is none of its 'passages'",
                        "missing_passage")  # fmt: skip

    def _ordered(self, question: str, chosen: list[Passage], rng: random.Random) -> list[Passage]:
        if self.config.order == "random":
            return rng.sample(chosen, len(chosen))
        found = self.library.search(question, 10 * self.config.number) if self.library else []
        ranks = {passage.id: rank for rank, passage in enumerate(found)}
        ranked = sorted(chosen, key=lambda passage: ranks.get(passage.id, len(ranks)))
        return ranked if self.config.order == "best_first" else ranked[::-1]

    def _written(
        self, question: str, chosen: list[Passage], names: Sequence[str] | None,
        answering: list[Passage] | None,
    ) -> Grounded:  # fmt: skip
        shown = [p.id for p in chosen]
        if self.config.ids == "number":
            shown = [str(number) for number in range(1, len(chosen) + 1)]
        texts = [
            f"[{name}] {passage.title}\n{passage.text}" if passage.title
            else f"[{name}] {passage.text}"
            for name, passage in zip(shown, chosen, strict=True)
        ]  # fmt: skip
        fitted = fitting.fit(texts, self.config.tokens, self._tokenizer, SEPARATOR)
        values = {"documents": SEPARATOR.join(fitted) or NOTHING, "question": question}
        parts = _filled(self._template, values)
        right = None
        if answering is not None:
            right = [name for name, p in zip(shown, chosen, strict=True) if p in answering]
        answerable = right is None or bool(right) or not names
        prompt = "".join(text for text, _ in parts)
        return Grounded(prompt, parts, shown, chosen, right, answerable, fitted != texts)

    def _answered(self, message: Mapping[str, Any], grounded: Grounded) -> dict[str, Any]:
        """The answer, with its sources or saying that there are none."""
        out, weights = dict(message), self.config.weights
        if not grounded.answerable:
            weight = out.get("weight", 1.0) * weights.get("unknown", 1.0)
            return {"role": "assistant", "content": self.config.unknown} | (
                {"weight": weight} if weight != 1 else {}
            )
        parts = [(out["content"], "answer")]
        if grounded.right:
            named = " ".join(f"[{name}]" for name in grounded.right)
            parts = _filled(self._answer, {"answer": out["content"], "sources": named})
        out["content"] = "".join(text for text, _ in parts)
        return out | self._weights(parts, ("answer", "sources"))

    def _weights(self, parts: list[tuple[str, str]], names: Sequence[str]) -> dict[str, Any]:
        """The `parts` of a message (data/text/chat.py); {} where none has a weight of its own."""
        weights = {name: self.config.weights[name] for name in names if name in self.config.weights}
        if not weights:
            return {}
        return {"parts": [[text, weights.get(name)] for text, name in parts]}


def _filled(template: list, values: Mapping[str, str]) -> list[tuple[str, str]]:
    """The (text, name of the part or "") of a parsed template."""
    parts = []
    for literal, field in template:
        parts += [(literal, "")] if literal else []
        parts += [(values[field], field)] if field is not None else []
    return parts
