"""The types of an objective's part of a chain's report: its numbers, their meaning in words, its
curves.

train/report/ collects the numbers and draws the page; this file imports nothing that trains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from etils import epath

from data.schemas.templates import is_number
from train.evals.base import interval


class Finished(NamedTuple):
    """A finished run of a chain.

    Attributes:
      role: its stage, or `judge`. config: its RunConfig.
      train, evals: the records of metrics.jsonl. seconds: its wall time.
      made: where and with what it was trained (train/report/provenance.py); empty if unknown.
    """

    name: str
    role: str
    config: Any
    workdir: epath.Path
    train: list[dict]
    evals: list[dict]
    seconds: float
    made: Mapping[str, str] = {}

    def origin(self, *roles: str) -> str:
        """The name of the run that the first of these roles in `init_from` starts from."""
        paths = (self.config.init_from[role] for role in roles if role in self.config.init_from)
        return epath.Path(next(paths)).name

    def _measured(self, first: bool = False) -> dict[str, float]:
        """{metric: value} of the last evaluation, or with `first` of the one before the first step;
        NaN in place of a value that was not finite."""
        if not self.evals or (first and self.evals[0]["step"]):
            return {}
        record = null_as_nan(self.evals[0 if first else -1])
        return {name: x for name, x in record.items() if is_number(x)}

    def metric(self, name: str, first: bool = False) -> float | None:
        """A held-out metric at the end, or before the first step; None if not measured."""
        return self._measured(first).get(name)

    def family(self, prefix: str, first: bool = False) -> dict[str, float]:
        """The held-out metrics named `prefix/…` at the end, or before the first step; the overall
        one first, and alone if it is that of a single kind."""
        values = {
            name.removeprefix(f"{prefix}/"): value
            for name, value in self._measured(first).items()
            if name.startswith(f"{prefix}/")
        }
        overall = {k: values.pop(k) for k in ("overall",) if k in values}
        return overall if overall and len(values) == 1 else overall | dict(sorted(values.items()))


def null_as_nan(value: Any) -> Any:
    """A value read from metrics.jsonl or report.json, with NaN for null, which is written in place
    of NaN and infinities."""
    if isinstance(value, dict):
        return {name: null_as_nan(x) for name, x in value.items()}
    return math.nan if value is None else value


class Result(NamedTuple):
    """The main number of a run in words.

    Attributes:
      method: the name of what trained it, such as `RLOO`.
      headline: the number. beside: others to compare it with. meaning: what was measured.
      verdict: `good`, `caution` or, without one, empty. reason: of the verdict.
    """

    method: str
    headline: str
    beside: str
    meaning: str
    verdict: str = ""
    reason: str = ""

    @property
    def stated_reason(self) -> str:
        """The reason, with a word for the verdict."""
        return f"caution: {self.reason}" if self.verdict == "caution" else self.reason


def judged(doubts: list[str], reason: str) -> tuple[str, str]:
    """The verdict of a result and its reason: `good`, unless there are doubts."""
    return ("caution", "; ".join(doubts)) if doubts else ("good", reason)


def of(right: float, count: float) -> str:
    """`90 of 120`; a tie makes a half. A number that is not finite is `?`."""
    if not math.isfinite(right):
        return f"? of {count:,.0f}"
    halves = round(2 * right)
    return f"{halves // 2:,}{'.5' if halves % 2 else ''} of {count:,.0f}"


def with_count(share: float, right: float | None, count: float | None) -> str:
    """`75.0% (90 of 120)`, or the share alone if the counts are unknown."""
    return f"{share:.1%}" if right is None or not count else f"{share:.1%} ({of(right, count)})"


def pairs_right(accuracy: Mapping[str, float], pairs: Mapping[str, float]) -> float | None:
    """The number of pairs ranked right, from the family of accuracies and that of counts; None if
    they are unknown."""
    kinds = [kind for kind in accuracy if kind != "overall"] or [*accuracy]
    return (
        sum(accuracy[k] * pairs[k] for k in kinds) if {*kinds} <= pairs.keys() and kinds else None
    )


def ranking(
    method: str,
    accuracy: Mapping[str, float],
    pairs: Mapping[str, float],
    beside: str,
    meaning: str,
    doubts: list[str],
    reason: str,
) -> Result:
    """The result of a ranking of held-out pairs.

    Args:
      accuracy, pairs: by kind, and `overall`, as `Finished.family` returns them.
      beside, meaning: of the Result, without counts. doubts: reasons for caution.
      reason: of a good verdict.
    """
    kinds = [kind for kind in accuracy if kind != "overall"]
    headline = f"{accuracy['overall']:.1%} of pairs right"
    if kinds:
        meaning += f" The percentage is the plain mean over {len(kinds)} kinds of pairs."
    right, count = pairs_right(accuracy, pairs), pairs.get("overall")
    if right is None or not count:
        return Result(method, headline, beside, meaning)
    if not interval(right / count, count)[0] > 0.5:
        doubts = ["not better than guessing beyond chance", *doubts]
    verdict = judged(doubts, reason)
    return Result(method, headline, f"{of(right, count)}; {beside}", meaning, *verdict)


class Curve(NamedTuple):
    """A chart: a metric of training records as a line, and one of evaluations as dots.

    Attributes:
      unit: the title of the y axis. train, heldout: names of the metrics.
      percent: whether they are shares. trials: the metric of evaluations that is the number of
        trials behind such a share.
      shift: an offset added to the step of training records.
      across: the x axis, if it is not the step: (its title, the metric of training records, the
        metric of evaluations).
    """

    title: str
    unit: str
    train: str
    heldout: str
    percent: bool = False
    trials: str = ""
    shift: int = 0
    across: tuple[str, str, str] | None = None


PAIRS_RIGHT = Curve(
    "pairs ranked right", "share of pairs", "accuracy", "accuracy/overall", True, "pairs/overall"
)


class Bars(NamedTuple):
    """A section of the report with accuracies as bars.

    Attributes:
      accuracies: {who: {kind: accuracy}}. counts: {who: {kind: number of pairs}}, as far as known.
    """

    title: str
    text: str
    accuracies: Mapping[str, Mapping[str, float]]
    counts: Mapping[str, Mapping[str, float]]


class Report(NamedTuple):
    """The report of runs of an objective.

    Attributes:
      numbers: finished run -> its values in report.json; values that are None are omitted.
      result: (the run, these values, all of report.json) -> the values in words, or None if too
        little was measured.
      curves: the charts to draw.
      bars: (the run, these values, all of report.json) -> a section of accuracies, or None.
    """

    numbers: Callable[[Finished], dict]
    result: Callable[[Finished, Mapping, Mapping], Result | None]
    curves: tuple[Curve, ...]
    bars: Callable[[Finished, Mapping, Mapping], Bars | None] = lambda run, values, report: None
