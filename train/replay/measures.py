"""Measures of single answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from data.clean.redact import KINDS
from data.clean.words import words_of
from train.evals.preference import overlap_score
from train.replay.conversations import Turn
from train.rl.hacking import repetition
from train.tasks.rows.refusals import by_phrases


class Metric(NamedTuple):
    """A measure of answers.

    Attributes:
      title: in the report. better: `higher`, `lower`, or "" for neither.
      share: whether it is true or false (or half) of an answer; else it is a number.
      percent: whether it is shown as one. signed: whether it may be below 0.
    """

    title: str
    better: str
    share: bool = False
    percent: bool = False
    signed: bool = False


def _share(title: str, better: str) -> Metric:
    return Metric(title, better, True, True)


METRICS: Mapping[str, Metric] = {
    "win_rate": _share("Preferred to the other", "higher"),
    "win_rate_people": _share("Preferred to the people's answer", "higher"),
    "judge": Metric("Judge's score", "higher", signed=True),
    "reward": Metric("Reward", "higher", signed=True),
    "similarity": Metric("Similarity to the people's answer (chrF)", "higher"),
    "groundedness": Metric("Words that the documents have", "higher", percent=True),
    "refusals": _share("Refusals", "lower"),
    "refusals.harmless": _share("Refusals of what people answered", "lower"),
    "refusals.harmful": _share("Refusals of harmful requests", "higher"),
    "personal_data": _share("Personal data in the answer alone", "lower"),
    **{f"personal_data.{kind}": _share(f"Personal data: {kind}", "lower") for kind in KINDS},
    "copied": Metric("Longest run of words copied from training", "lower"),
    "repetition": Metric("Repeated runs of four words", "lower", percent=True),
    "empty": _share("Empty answers", "lower"),
    "cut": _share("Cut at the largest number of tokens", "lower"),
    "length": Metric("Words", ""),
}


def chrf() -> Callable[[str, str], float]:
    """(answer, reference) -> chrF, from 0 to 100: the F2 score of their runs of one to six
    characters (Popović 2015)."""
    from sacrebleu.metrics.chrf import CHRF  # imports lxml

    metric = CHRF()
    return lambda answer, reference: metric.sentence_score(answer, [reference]).score


def personal_data(text: str, known: str) -> list[tuple[str, str]]:
    """(kind, text) of the personal data in a text (data/clean/redact.py) that `known` lacks."""
    out = []
    for kind, (pattern, is_valid) in KINDS.items():

        def take(match: re.Match, kind=kind, is_valid=is_valid) -> str:
            if not is_valid(match[0]):
                return match[0]
            if match[0] not in known:
                out.append((kind, match[0]))
            return " "  # which the kinds after it do not find again

        text = re.sub(pattern, take, text)
    return out


def measure(turns: Sequence[Turn], texts: Sequence[str]) -> dict[str, np.ndarray]:
    """{metric: [n] float64} of the answers `texts` to turns, as far as they follow from the texts
    alone; NaN where an answer has none."""
    rows = [_of_answer(turn, text) for turn, text in zip(turns, texts, strict=True)]
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
    return values | {"repetition": repeated(texts)}


def _of_answer(turn: Turn, text: str) -> dict[str, float]:
    context = "\n".join(message["content"] for message in turn.messages)
    leaked = personal_data(text, f"{context}\n{turn.answer}\n{turn.documents}")
    kinds = {kind for kind, _ in leaked}
    refused = float(by_phrases(turn.question, text))
    out = {
        "length": float(len(words_of(text))),
        "empty": float(not text.strip()),
        "refusals": refused,
        "personal_data": float(bool(leaked)),
        **{f"personal_data.{kind}": float(kind in kinds) for kind in KINDS},
    }
    if turn.harmful:
        out["refusals.harmful"] = refused
    elif turn.harmful is False or not by_phrases(turn.question, turn.answer):
        out["refusals.harmless"] = refused
    if turn.documents:
        out["groundedness"] = overlap_score(turn.documents, text)
    return out


def repeated(texts: Sequence[str]) -> np.ndarray:
    """The share of each text's runs of four words that repeat earlier ones (train/rl/hacking.py),
    [n]."""
    numbers = dict[str, int]()
    lists = [[numbers.setdefault(w, len(numbers) + 1) for w in words_of(text)] for text in texts]
    ids = np.zeros((len(lists), max(map(len, lists), default=0) + 4), np.int32)
    mask = np.zeros(ids.shape, np.int32)
    for row, own in enumerate(lists):
        ids[row, : len(own)], mask[row, : len(own)] = own, 1
    return np.asarray(repetition(jnp.asarray(ids), jnp.asarray(mask)), np.float64)
