"""PassagesConfig: the settings of grounded answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import ranges
import registry
from data.passages.retrievers import RETRIEVERS
from data.schemas.templates import fields_of, parse
from ranges import ConfigError, CountOr0, Range, Seed, Share, Size
from suggestions import did_you_mean, nearest

ORDERS = ("random", "best_first", "best_last")
IDS = ("number", "own")
PARTS = ("documents", "question", "answer", "sources", "unknown")
TEMPLATE = """\
Answer from these documents, and name the one that you used. If none of them answers, say so.

{documents}

{question}"""

# As of a message's weight (data/schemas/messages.py).
Weight = Annotated[float, Range(1e-6, 1e6, also=0)]


@registry.open_to(RETRIEVERS.fields)
@dataclasses.dataclass(frozen=True)
class PassagesConfig:
    """Passages in prompts, for chat, preferences and prompts: those that a record brings
    (`data.fields.passages`), those that a retriever finds in `source`, or both.

    A record says by `data.fields.sources` which of them answer: ids of passages, or of documents,
    of which the passage counts that fits question and answer best. Without it, passages that it
    brings itself all answer, and of others that is unknown. The passages go into the last question;
    what earlier answers say is not learned. Draws depend on `seed` and on the record's messages
    before its answer alone.

    Attributes:
      source: the documents, a folder or as `data.source`; empty for none. fields: templates over a
        record of `source`, of `text`, `title` and `id`.
      retriever: a row of data/passages/retrievers.py.
      words: the most of a passage; longer documents are split at headings and paragraphs. 0 keeps
        them whole.
      number: the most passages of a prompt. tokens: the most of all of them; where there are more,
        the longest are cut at their end, and counted. 0 is no limit.
      order: `random`, `best_first` or `best_last`, by the retriever.
      ids: by which a passage is cited: its `number` in the prompt, or its `own` id.
      template: the question with its `{documents}`. answer: an answer of which a passage in the
        prompt is known to be the source, with the ids of these as `{sources}`.
      unknown: the answer where no passage answers.
      none_rate: the share of records whose prompt has no passage that answers.
        distractor_rate: of the others, the share to whose passages others are added, up to
        `number`.
      weights: {part: weight of its tokens in the loss}, of `documents`, `question` (by default 0),
        `answer`, `sources` and `unknown` (1).
      seed: of the draws. cache_dir: where indices are kept.
    """

    source: str | tuple[str, ...] = ""
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    retriever: str = "bm25"
    words: CountOr0 = 0
    number: Size = 3
    tokens: CountOr0 = 512
    order: str = "random"
    ids: str = "number"
    template: str = TEMPLATE
    answer: str = "{answer} {sources}"
    unknown: str = "I do not know."
    none_rate: Share = 0.0
    distractor_rate: Share = 1.0
    weights: Mapping[str, Weight] = dataclasses.field(default_factory=dict)
    seed: Seed = 0
    cache_dir: str = "~/.cache/seedpod/passages"

    def __post_init__(self):
        ranges.check(self, "data.passages.")
        RETRIEVERS.find(self.retriever)
        for name, choices in (("order", ORDERS), ("ids", IDS)):
            if (value := getattr(self, name)) not in choices:
                raise ConfigError(
                    f"data.passages.{name}={value!r:.80}; choose {', '.join(choices)}"
                    + did_you_mean(nearest(str(value), choices))
                )
        _check_template("template", self.template, ("documents", "question"))
        _check_template("answer", self.answer, ("answer",), ("sources",))
        if not self.unknown.strip():
            raise ConfigError("data.passages.unknown is empty; write the answer in words")
        _check_names("fields", self.fields, ("text", "title", "id"))
        _check_names("weights", self.weights, PARTS)

    def values(self) -> dict[str, Any]:
        """Every setting as a JSON value."""
        return dataclasses.asdict(self)


def _check_template(name: str, template: str, needed: tuple, others: tuple = ()) -> None:
    key, known = f"data.passages.{name}", (*needed, *others)
    used = fields_of(parse(key, template))
    for field in needed:
        if field not in used:
            raise ConfigError(f"{key} has no {{{field}}}, so a prompt would lack it; add it")
    if unknown := sorted(used - set(known)):
        raise ConfigError(
            f"{key} has a field {{{unknown[0]}}}; it may have "
            f"{', '.join(f'{{{field}}}' for field in known)}, and a brace is written {{{{"
        )


def _check_names(name: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            raise ConfigError(
                f"data.passages.{name}.{key:.40}: choose {', '.join(known)}"
                + did_you_mean(nearest(key, known))
            )
