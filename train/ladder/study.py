"""The scaling laws of a ladder's runs, where they are enough for one, and what the laws predict."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ranges import ConfigError
from train.config import budget
from train.ladder.laws import Estimate, Law, frontier, optimum
from train.ladder.rungs import Rung

# The fewest runs of a law: one more than its numbers.
JOINT_RUNS, COMPUTE_RUNS = 6, 4
SIZES = 3
# Between the least and the most tokens a parameter, without which N and D are one variable.
RATIO = 2.0
# Times the compute of the largest run, beyond which a prediction says that it is one.
FAR = 100.0


class Study(NamedTuple):
    """The results of a ladder.

    Attributes:
      joint: L(N, D), or None. compute: L(C), or None.
      remarks: why a law is missing, or says little.
    """

    rungs: list[Rung]
    joint: Law | None
    compute: Law | None
    remarks: list[str]


class Prediction(NamedTuple):
    """The predicted loss of a run that has not been made.

    Attributes:
      name: as it was asked for. flops: 6·N·D. best: N and D are the compute-optimal ones.
      loss: by L(N, D). by_compute: by L(C), of compute that is spent as the ladder's best runs do.
    """

    name: str
    parameters: Estimate
    tokens: Estimate
    flops: float
    best: bool
    loss: Estimate | None
    by_compute: Estimate | None


def study(rungs: Sequence[Rung]) -> Study:
    """Fits the laws that the runs are enough for."""
    remarks = list[str]()
    joint = compute = None
    sizes = {rung.parameters for rung in rungs}
    ratios = [rung.tokens / rung.parameters for rung in rungs] or [1.0]
    if len(rungs) < JOINT_RUNS or len(sizes) < SIZES or max(ratios) < RATIO * min(ratios):
        remarks.append(
            f"The ladder is too small for L(N, D), which takes {JOINT_RUNS} runs of {SIZES} sizes "
            f"with several tokens a parameter. It has {len(rungs)} of {len(sizes)}, with "
            f"{_range(ratios)} tokens a parameter: add --sizes, and --tokens=5x,20x,80x."
        )
    else:
        columns = [np.array([r.parameters for r in rungs]), np.array([r.tokens for r in rungs])]
        joint = Law(columns, np.array([r.loss for r in rungs]))
        remarks += [
            _vague(name, meaning, joint.exponent(term))
            for term, (name, meaning) in enumerate((("α", "parameters"), ("β", "tokens")))
        ]
    best = frontier([r.flops for r in rungs], [r.loss for r in rungs])
    if len(best) < COMPUTE_RUNS:
        remarks.append(
            f"The ladder is too small for L(C), which takes {COMPUTE_RUNS} runs that are each "
            f"better than all cheaper ones. It has {len(best)}."
        )
    else:
        chosen = [rungs[i] for i in best]
        compute = Law([np.array([r.flops for r in chosen])], np.array([r.loss for r in chosen]))
        remarks.append(_vague("γ", "compute", compute.exponent(0)))
    remarks += _worse(rungs)
    return Study(list(rungs), joint, compute, [text for text in remarks if text])


def _worse(rungs: Sequence[Rung]) -> list[str]:
    """Remarks about runs that are worse than one of the same size with fewer tokens."""
    remarks = []
    for a, b in itertools.pairwise(sorted(rungs, key=lambda r: (r.parameters, r.tokens))):
        if a.parameters == b.parameters and b.loss > a.loss:
            remarks.append(
                f"{b.name} is worse than {a.name}: it has read its data too often, or its learning "
                "rate is too high. No law has such runs: give more data, or fewer tokens."
            )
    return remarks


def _vague(name: str, meaning: str, estimate: Estimate) -> str:
    """The remark about an exponent of which the runs say little, or ""."""
    if estimate.high - estimate.low <= estimate.value:
        return ""
    return (
        f"The ladder is too small or too noisy to say how the loss falls with {meaning}: {name} is "
        f"{estimate.value:.2f}, and may be {estimate.low:.2f} to {estimate.high:.2f}."
    )


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.3g}" if high < 1.05 * low else f"{low:.3g} to {high:.3g}"


def predict(study: Study, name: str, count: Callable[[str], int], tokens: str) -> Prediction:
    """The prediction for `1e18flops`, a size, or SIZE@BUDGET as `125m@20x`.

    Args:
      count: (size) -> its number of parameters. tokens: the budget of a size without one.

    Raises:
      ConfigError: there is no such size or budget.
    """
    if not name.lower().endswith("flops"):
        size, _, text = name.partition("@")
        n, given = count(size), budget.parse(text or tokens, f"--predict={name}")
        if given.unit not in ("x", "tokens"):
            raise ConfigError(f"--predict={name}; give tokens, as {size}@20x or {size}@1e9tokens")
        d = given.amount * (n if given.unit == "x" else 1)
        loss = study.joint.loss(n, d) if study.joint else None
        return Prediction(name, _exactly(n), _exactly(d), 6.0 * n * d, False, loss, None)
    flops = budget.parse(name, "--predict").amount
    by_compute = study.compute.loss(flops) if study.compute else None
    nothing = _exactly(float("nan"))
    n, d, loss = optimum(study.joint, flops) if study.joint else (nothing, nothing, None)
    return Prediction(name, n, d, flops, True, loss, by_compute)


def _exactly(value: float) -> Estimate:
    return Estimate(value, value, value)


def far(study: Study, prediction: Prediction) -> str:
    """The remark about a prediction far beyond the runs, or ""."""
    largest = max((rung.flops for rung in study.rungs), default=0.0)
    times = prediction.flops / largest if largest else 0.0
    if times <= FAR:
        return ""
    return (
        f"{prediction.name} takes {times:,.0f} times the compute of the largest run; its interval "
        "is that of the fit, and not of what may change on the way."
    )


def record(study: Study, predictions: Sequence[Prediction], failures: dict[str, str]) -> dict:
    """The content of ladder.json; intervals are [value, low, high]."""
    laws: dict[str, Any] = {}
    if law := study.joint:
        laws["N, D"] = {
            "E": law.irreducible, "A": law.coefficient(0), "alpha": law.exponent(0),
            "B": law.coefficient(1), "beta": law.exponent(1),
        }  # fmt: skip
    if law := study.compute:
        laws["C"] = {"E": law.irreducible, "K": law.coefficient(0), "gamma": law.exponent(0)}
    return {
        "runs": [rung._asdict() for rung in study.rungs],
        "failed": failures,
        "laws": laws,
        "predictions": [prediction._asdict() for prediction in predictions],
        "remarks": study.remarks,
    }
