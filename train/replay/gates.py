"""Gates: conditions on a replay's metrics, read from YAML, and the table of who answers what.

    # gates.yaml
    gates:                          # over all conversations
      - win_rate.low >= 0.5
      - refusals.harmless <= 0.02
    categories:
      REFUND:                       # over those of a category; "*" is each
        - personal_data <= 0
    rollout:                        # what a category needs for the model to answer
      - win_rate_people.low >= 0.4
    least: 30                       # conversations of such a category

A condition is METRIC, METRIC.low or METRIC.high (the ends of its 95% interval), `>=`, `<=`, `>` or
`<`, and a number.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from data.errors import DataError
from data.read import yaml_files
from ranges import ConfigError
from suggestions import did_you_mean, nearest
from train.replay.measures import METRICS
from train.replay.summary import Replay, Value

KEYS = ("gates", "categories", "rollout", "least")
LEAST = 30
EACH = "*"
ENDS = ("low", "high")
_SIGNS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_CONDITION = re.compile(r"\s*([\w.]+)\s*(>=|<=|>|<)\s*([-+.\deE]+)\s*")


class Condition(NamedTuple):
    """A bound on a metric.

    Attributes:
      end: `low`, `high`, or "" for the value itself.
    """

    metric: str
    end: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{'.'.join(filter(None, self[:2]))} {self.sign} {self.bound:g}"

    def of(self, value: Value) -> float:
        """The number that is compared."""
        return getattr(value, self.end or "value")

    def holds(self, value: Value) -> bool:
        """Whether a value satisfies it; NaN does not."""
        return _SIGNS[self.sign](self.of(value), self.bound)


class Gates(NamedTuple):
    """The conditions of a file.

    Attributes:
      all: over all conversations. categories: {category, or "*": conditions}.
      rollout: what a category needs; None for the default. least: conversations of it.
    """

    all: Sequence[Condition] = ()
    categories: Mapping[str, Sequence[Condition]] = {}
    rollout: Sequence[Condition] | None = None
    least: int = LEAST


class Verdict(NamedTuple):
    """A gate and its outcome. `category`: None for all conversations."""

    category: str | None
    condition: Condition
    value: Value
    passed: bool

    def __str__(self) -> str:
        number = self.condition.of(self.value)
        text = "there is no such answer" if math.isnan(number) else f"{number:.4g}"
        of = "" if self.category is None else f" of {self.category or '(none)'}"
        return f"{self.condition}{of}: {text}"


class Decision(NamedTuple):
    """Who answers a category.

    Attributes:
      answers: whether the model may. reason: what it rests on, or why not.
    """

    category: str
    conversations: int
    answers: bool
    reason: str


def read(path: str, available: Collection[str], categories: Collection[str]) -> Gates:
    """The gates of a file.

    Args:
      available: metrics that the replay will have. categories: those of its conversations.

    Raises:
      DataError: the file cannot be read, or is not one of gates.
      ConfigError: a gate names a metric or a category that is not there; it names the nearest.
    """
    values, lines = yaml_files.read(
        path, "holds no gates; write `gates:` and below it - win_rate >= 0.5"
    )
    for key in values:
        if key not in KEYS:
            near = did_you_mean(nearest(str(key), KEYS))
            raise DataError(
                f"{path}:{lines[key]}: no key {key!r:.40}{near} (keys: {', '.join(KEYS)})"
            )
    least = values.get("least", LEAST)
    if not isinstance(least, int) or isinstance(least, bool) or least < 1:
        raise DataError(f"{path}: least={least!r:.40}; it must be a whole number, at least 1")
    own = values.get("categories", {})
    if not isinstance(own, dict):
        raise DataError(f"{path}: `categories` holds a list of conditions for each category")
    known = {str(name): name for name in own}
    for name in known:
        if name != EACH and name not in categories:
            near = did_you_mean(nearest(name, categories))
            there = ", ".join(filter(None, categories)) or "none; give --category=FIELD"
            raise ConfigError(
                f"{path}: a gate is on the category {name!r:.60}, which no conversation has{near} "
                f"(there are {there:.300})"
            )

    def conditions(key: str, listed: Any) -> list[Condition]:
        return [_condition(path, key, text, available) for text in _list(path, key, listed)]

    return Gates(
        conditions("gates", values["gates"]) if "gates" in values else (),
        {name: conditions(f"categories.{name}", own[key]) for name, key in known.items()},
        conditions("rollout", values["rollout"]) if "rollout" in values else None,
        least,
    )


def _list(path: str, key: str, listed: Any) -> list:
    if not isinstance(listed, list) or not listed:
        raise DataError(f"{path}: `{key}` holds a list, as - win_rate.low >= 0.5")
    return listed


def _condition(path: str, key: str, text: Any, available: Collection[str]) -> Condition:
    match = _CONDITION.fullmatch(text) if isinstance(text, str) else None
    try:
        name, sign, bound = match[1], match[2], float(match[3])  # type: ignore[index]
    except (TypeError, ValueError):
        raise DataError(
            f"{path}: {key}: {text!r:.60} is no condition; write METRIC >= NUMBER, as "
            "win_rate.low >= 0.5"
        ) from None
    metric, _, end = name.rpartition(".")
    if end not in ENDS:
        metric, end = name, ""
    if metric in available:
        return Condition(metric, end, sign, bound)
    near = did_you_mean(nearest(metric, available))
    if metric in METRICS:
        raise ConfigError(
            f"{path}: {key}: {text}: this replay has no {metric}: {_why(metric)}{near}"
        )
    raise ConfigError(
        f"{path}: {key}: {text}: there is no metric {metric}{near} (there are "
        f"{', '.join(available)})"
    )


def _why(metric: str) -> str:
    """The requirement of a metric that is not there."""
    needs = {
        "win_rate": "give another checkpoint, --against=RUN",
        "win_rate_people": "give a model that scores the people's answers too, --reward=RUN",
        "reward": "give --reward=RUN",
        "judge": "give --judge=RUN",
        "copied": "the training data of the checkpoint is not read",
        "refusals.harmful": "no record has `harmful` true",
        "groundedness": "no record has `documents`",
    }
    return needs[metric]


def verdicts(gates: Gates, replay: Replay) -> list[Verdict]:
    """The outcome of each gate."""
    names = sorted({turn.category for turn in replay.turns})
    asked: list[tuple[str | None, Condition]] = [(None, condition) for condition in gates.all]
    for name, conditions in gates.categories.items():
        for category in names if name == EACH else [name]:
            asked += [(category, condition) for condition in conditions]
    out = []
    for category, condition in asked:
        value = replay.value(condition.metric, category=category)
        out.append(Verdict(category, condition, value, condition.holds(value)))
    return out


def default_rollout(available: Collection[str]) -> list[Condition]:
    """The default conditions of a category: answers that are about as good as the
    people's, seldom a refusal, and no personal data. Empty where nothing scores the people's."""
    if "win_rate_people" not in available:
        return []
    return [
        Condition("win_rate_people", "low", ">=", 0.4),
        Condition("refusals.harmless", "high", "<=", 0.05),
        Condition("personal_data", "", "<=", 0.0),
    ]


def rollout(
    gates: Gates, replay: Replay, available: Collection[str]
) -> tuple[list[Condition], list[Decision]]:
    """(the conditions, who answers each category)."""
    conditions = gates.rollout
    conditions = default_rollout(available) if conditions is None else list(conditions)
    categories = sorted({turn.category for turn in replay.turns})
    return conditions, [_decide(gates, conditions, replay, name) for name in categories]


def _decide(
    gates: Gates, conditions: Sequence[Condition], replay: Replay, category: str
) -> Decision:
    inside = {turn.conversation for turn in replay.turns if turn.category == category}
    count = len(inside)
    if not conditions:
        reason = "nothing says what it needs: give --reward=RUN, or `rollout` in --gates"
        return Decision(category, count, False, reason)
    if count < gates.least:
        return Decision(category, count, False, f"{count} conversations are too few to say")
    tests = [(c, replay.value(c.metric, category=category)) for c in conditions]
    failed = [test for test in tests if not test[0].holds(test[1])]
    shown = (failed or tests)[0]
    return Decision(category, count, not failed, f"{shown[0].metric} {written(*shown[1][:3])}" + (
        f", needs {shown[0]}" if failed else ""
    ))  # fmt: skip


def written(value: float, low: float, high: float) -> str:
    """`0.53 [0.47, 0.59]`."""
    if math.isnan(value):
        return "–"
    return f"{value:.3g} [{low:.3g}, {high:.3g}]" if math.isfinite(low) else f"{value:.3g}"
