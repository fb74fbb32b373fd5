"""Measures over all answers with 95% intervals: of each checkpoint, by category, against others.

Answers of one conversation are not independent, so that intervals count conversations.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from train.evals.base import interval
from train.replay.conversations import Turn
from train.replay.measures import METRICS, Metric
from train.tasks import metrics
from train.tasks.metrics import Paired

PEOPLE = "people"
# The scores by which an answer is preferred, the first that there is.
PREFERENCES = ("judge", "reward", "similarity")


class Value(NamedTuple):
    """A measure over answers.

    Attributes:
      low, high: its 95% interval. conversations: their number; the value is NaN without any.
    """

    value: float
    low: float
    high: float
    conversations: int


class Column(NamedTuple):
    """The answers of a checkpoint, or of the people.

    Attributes:
      name: RUN@STEP, or `people`. texts: to each turn.
      values: {metric: [n] float64}, NaN where an answer has no such number.
    """

    name: str
    texts: Sequence[str]
    values: dict[str, np.ndarray]


class Replay(NamedTuple):
    """The answers of all, and how they are compared.

    Attributes:
      turns: n of them. people: their answers. checkpoints: the first is the one that is tried.
      preference: the score by which answers are preferred.
    """

    turns: Sequence[Turn]
    people: Column
    checkpoints: Sequence[Column]
    preference: str

    @property
    def first(self) -> Column:
        """The checkpoint that is tried."""
        return self.checkpoints[0]

    @property
    def others(self) -> Sequence[Column]:
        """The checkpoints that it is compared with."""
        return self.checkpoints[1:]

    def value(self, name: str, column: Column | None = None, category: str | None = None) -> Value:
        """A metric of a column, by default the first checkpoint, over a category or all.

        `win_rate` is the lowest of those against each of the others.
        """
        column = column or self.first
        inside = [category is None or turn.category == category for turn in self.turns]
        if name == "win_rate":
            rates = [self.win_rate(column, other, category) for other in self.others]
            return min(rates, key=lambda rate: rate.value)
        if name == "win_rate_people":
            return self.win_rate(column, self.people, category)
        numbers = column.values.get(name, np.full(len(self.turns), np.nan))
        return self._estimate(METRICS[name], numbers, np.array(inside))

    def win_rate(self, column: Column, other: Column, category: str | None = None) -> Value:
        """The share of answers that are preferred to another's; ties count half."""
        inside = np.array([category is None or turn.category == category for turn in self.turns])
        return self._estimate(METRICS["win_rate"], self.wins(column, other), inside)

    def wins(self, column: Column, other: Column) -> np.ndarray:
        """1 where an answer is preferred to another's, 0 where the other is, ½ for ties, [n]; NaN
        where one has no score."""
        ours = column.values[self.preference]
        theirs = other.values.get(self.preference, np.full(len(ours), np.nan))
        return (1 + np.sign(ours - theirs)) / 2

    def _estimate(self, metric: Metric, values: np.ndarray, inside: np.ndarray) -> Value:
        """A Value of the numbers [n] that are inside and not NaN."""
        chosen = inside & ~np.isnan(values)
        numbers = values[chosen]
        conversations = np.array([turn.conversation for turn in self.turns])[chosen]
        groups, index = np.unique(conversations, return_inverse=True)
        count = len(groups)
        if not count:
            return Value(math.nan, math.nan, math.nan, 0)
        if metric.share:
            rate = float(numbers.mean())
            return Value(rate, *interval(rate, count, float(np.mean(numbers == 0.5))), count)
        sums = np.bincount(index, weights=numbers)
        mean, stderr = metrics.ratio(sums, np.bincount(index).astype(np.float64))
        if count < 2:
            return Value(mean, math.nan, math.nan, count)
        from scipy import stats  # slow to import

        half = float(stats.t.ppf(0.975, count - 1)) * stderr
        low = mean - half if metric.signed else max(mean - half, 0.0)
        high = min(mean + half, 1.0) if metric.percent else mean + half
        return Value(mean, low, high, count)

    def difference(self, name: str, other: Column) -> Paired:
        """The first checkpoint less another by a metric, conversation by conversation."""
        return metrics.paired(self._by_conversation(name, self.first),
                              self._by_conversation(name, other))  # fmt: skip

    def _by_conversation(self, name: str, column: Column) -> dict[Hashable, float]:
        groups = dict[int, list[float]]()
        for turn, value in zip(self.turns, column.values.get(name, ()), strict=False):
            if not math.isnan(value):
                groups.setdefault(turn.conversation, []).append(value)
        return {number: sum(values) / len(values) for number, values in groups.items()}


def preference_of(scores: Iterable[str]) -> str:
    """The score by which answers are preferred, of those that there are."""
    there = set(scores)
    return next(name for name in PREFERENCES if name in there)


def available(
    scores: Iterable[str], turns: Sequence[Turn], others: bool, copied: bool
) -> list[str]:
    """The metrics that a replay will have, known before anything is generated.

    Args:
      scores: of models, `reward` and `judge`. others: whether there are checkpoints to compare
        with. copied: whether training data is read.
    """
    scores = set(scores)
    lacking = {"reward", "judge"} - scores
    if not others:
        lacking.add("win_rate")
    if not scores:
        lacking.add("win_rate_people")
    if not copied:
        lacking.add("copied")
    if not any(turn.harmful for turn in turns):
        lacking.add("refusals.harmful")
    if not any(turn.documents for turn in turns):
        lacking.add("groundedness")
    return [name for name in METRICS if name not in lacking]


class Regression(NamedTuple):
    """An answer of the first checkpoint that is worse than another's.

    Attributes:
      turn: its number. fault: the kind of it, "" for a lower score alone. reason: in words.
      gap: the first's preference score less the other's.
    """

    turn: int
    fault: str
    reason: str
    gap: float


# {fault: (metric, words)}, the worst first.
FAULTS: Mapping[str, tuple[str, str]] = {
    "personal data": ("personal_data", "gives personal data that nobody gave it"),
    "refusal": ("refusals.harmless", "refuses what people answered"),
    "empty": ("empty", "is empty"),
}


def regressions(replay: Replay) -> list[Regression]:
    """The comparison of each turn, the worst regression first: faults that another checkpoint does
    not have (FAULTS), then the lowest score against the best of the others.

    Without another checkpoint the people's answers are compared with, or where these have no score
    the answers with the lowest come first.
    """
    others = replay.others or [replay.people]
    first = replay.first.values
    ours = first[replay.preference]
    theirs = [c.values[replay.preference] for c in others if replay.preference in c.values]
    best = np.max(theirs, axis=0) if theirs else np.zeros(len(ours))
    gaps, out = np.nan_to_num(ours - best), []
    for turn in range(len(replay.turns)):
        fault, reason = "", ""
        for name, (metric, words) in FAULTS.items():
            if first.get(metric, ours * 0)[turn] == 1 and any(
                column.values[metric][turn] == 0 for column in others if metric in column.values
            ):
                fault, reason = name, words
                break
        gap = float(gaps[turn])
        if not fault and gap < 0:
            reason = f"scores {abs(gap):.3g} lower" if theirs else f"scores {gap:.3g}"
        out.append(Regression(turn, fault, reason, gap))
    order = list(FAULTS)
    rank = {name: number for number, name in enumerate(order)} | {"": len(order)}
    return sorted(out, key=lambda r: (rank[r.fault], r.gap, r.turn))
