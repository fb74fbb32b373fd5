"""Classification: a text's label, by the likelihood of each label or read in a generated answer.

A document has a `context`, `gold`, the label's number, and `answer`, its text.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from train.tasks import metrics
from train.tasks.base import (
    Answer,
    Document,
    Estimate,
    Metric,
    Outcome,
    Request,
    Response,
    Task,
)
from train.tasks.rows import forms
from train.tasks.rows.scores import normalised

NONE = -1  # the choice of an answer that is no label
RESAMPLES = 200  # of the standard error of macro F1


class Confusion(NamedTuple):
    """Counts of a classification.

    Attributes:
      labels: the classes; where an answer was none of them, followed by "(none)".
      counts: [true label][label of the answer].
    """

    labels: list[str]
    counts: list[list[int]]


def confusion(labels: Sequence[str], outcomes: Sequence[Outcome]) -> Confusion:
    """The confusion matrix of a task with `labels`."""
    counts = np.zeros((len(labels), len(labels) + 1), int)
    for outcome in outcomes:
        counts[outcome["gold"], outcome["choice"]] += 1  # NONE is the last column
    if counts[:, NONE].any():
        return Confusion([*labels, "(none)"], counts.tolist())
    return Confusion(list(labels), counts[:, :NONE].tolist())


def scores_of(labels: Sequence[str], outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """{label: its precision, recall, F1 and number of items}; NaN for a ratio of 0 to 0."""
    counts = np.array(confusion(labels, outcomes).counts, float).reshape(len(labels), -1)
    out = {}
    for number, label in enumerate(labels):
        right = counts[number, number]
        said, true = counts[:, number].sum(), counts[number].sum()
        out[label] = {
            "precision": right / said if said else math.nan,
            "recall": right / true if true else math.nan,
            "f1": 2 * right / (said + true) if said + true else math.nan,
            "items": int(true),
        }
    return out


def macro_f1(outcomes: Sequence[Outcome]) -> Estimate:
    """The mean of the labels' F1, over labels that an item has or an answer names; its standard
    error by resampling the items with a fixed seed (Efron 1979)."""
    pairs = np.array([(outcome["gold"], outcome["choice"]) for outcome in outcomes], int)
    if not len(pairs):
        return Estimate(math.nan, math.nan)
    if len(pairs) < 2:
        return Estimate(_macro_f1(pairs), math.nan)
    rng = np.random.default_rng(0)
    draws = [_macro_f1(pairs[rng.integers(0, len(pairs), len(pairs))]) for _ in range(RESAMPLES)]
    return Estimate(_macro_f1(pairs), float(np.std(draws, ddof=1)))


def _macro_f1(pairs: np.ndarray) -> float:
    """The mean F1 of the labels that occur in (gold, choice) [n, 2]."""
    size = int(pairs.max()) + 1
    gold, choice = pairs[:, 0], pairs[:, 1]
    right = np.bincount(gold[gold == choice], minlength=size)
    total = np.bincount(gold, minlength=size) + np.bincount(choice[choice >= 0], minlength=size)
    return float(np.mean(2 * right[total > 0] / total[total > 0]))


def label_in(answer: str, labels: Mapping[str, str]) -> int:
    """The number of the label that an answer names; NONE for none.

    An answer names the longest label with which its first line begins, ignoring case and
    punctuation.

    Args:
      labels: {label: its text}.
    """
    lines = answer.strip().splitlines()
    said = f"{_plain(lines[0])} " if lines else ""
    texts = [_plain(text) for text in labels.values()]
    named = [n for n, text in enumerate(texts) if text and said.startswith(f"{text} ")]
    return max(named, key=lambda number: len(texts[number]), default=NONE)


def _plain(text: str) -> str:
    return normalised(text.replace("_", " ").replace("-", " "))


def classification(
    name: str, description: str, source: str, labels: Mapping[str, str],
    prepare: forms.Prepare, generates: bool, *, delimiter: str = forms.DELIMITER,
    max_new_tokens: int = 16, stop: tuple[str, ...] = ("\n",), **fields: Any,
) -> Task:  # fmt: skip
    """A task of a text's label.

    Args:
      labels: {label: the text that the model reads or writes for it}.
      generates: whether the label is read in an answer, else it is the one of the largest
        log-likelihood.
      prepare: gives `context`, `gold` and `answer`. fields: others of Task.
    """
    texts = tuple(labels.values())
    reported = {"acc": metrics.mean("acc"), "macro_f1": Metric(macro_f1)}
    if generates:

        def written(document: Document, response: Response) -> Outcome:
            (answer,) = (part.text for part in response if isinstance(part, Answer))
            choice, gold = label_in(answer, labels), document["gold"]
            return {
                "acc": float(choice == gold), "gold": gold, "choice": choice,
                "no_label": float(choice == NONE),
            }  # fmt: skip

        base = forms.generation(
            name, description, source, prepare, {}, stop=stop, max_new_tokens=max_new_tokens,
            delimiter=delimiter, **fields,
        )  # fmt: skip
        reported["no_label"] = metrics.mean("no_label", higher_is_better=False)
        return dataclasses.replace(base, outcome=written, metrics=reported, labels=tuple(labels))

    base = forms.multiple_choice(
        name, description, source, prepare, normalised=False, delimiter=delimiter, **fields
    )

    def whole(document: Document) -> Document:
        return {**document, "choices": texts}

    def request(document: Document, examples: Sequence[Document], chat: bool) -> Request:
        return base.request(whole(document), list(map(whole, examples)), chat)

    def compared(document: Document, response: Response) -> Outcome:
        return {**base.outcome(whole(document), response), "gold": document["gold"]}

    reported["ece"] = base.metrics["ece"]
    return dataclasses.replace(
        base, request=request, outcome=compared, metrics=reported, labels=tuple(labels)
    )
