"""The demo's promise: bounds on the numbers of its report.json."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

QUIET = "seconds of all stages"  # held to its bound only where nothing else was running


class Bound(NamedTuple):
    """A comparison that a number has to pass, and how both are shown."""

    holds: Callable[[float, float], bool]
    limit: float
    format: str = "{:.2f}"


BOUNDS = {
    "bits per byte": Bound(operator.lt, 2.2),
    "fall of the response loss": Bound(operator.ge, 0.25, "{:.1%}"),
    "reward model's accuracy": Bound(operator.ge, 0.85, "{:.1%}"),
    "PPO's gain in standard deviations": Bound(operator.ge, 1.15),
    "KL": Bound(operator.lt, 15.0, "{:.1f}"),
    "win rate by the judge": Bound(operator.ge, 0.65, "{:.1%}"),
    "rise of repetition": Bound(operator.le, 0.01, "{:.1%}"),
    QUIET: Bound(operator.le, 480.0, "{:.0f}"),
}
WORDS = {operator.lt: "below", operator.le: "at most", operator.ge: "at least"}


def gain(ppo: Mapping[str, float]) -> float:
    """The rise of the held-out score in standard deviations of the score before PPO."""
    return (ppo["score_after"] - ppo["score_before"]) / ppo["score_std_before"]


def measure(report: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a report.json that BOUNDS bounds. The win rate counts only if it is by a judge
    on which PPO did not train."""
    sft, ppo = report["sft"], report["ppo"]
    numbers = {
        "bits per byte": report["pretrain"]["bits_per_byte"],
        "fall of the response loss": 1 - sft["response_loss"] / sft["response_loss_pretrained"],
        "reward model's accuracy": report["reward"]["heldout_accuracy"]["overall"],
        "PPO's gain in standard deviations": gain(ppo),
        "KL": ppo["kl"],
        "rise of repetition": ppo["repetition_after"] - ppo["repetition_before"],
        QUIET: report["total_seconds"],
    }
    if "judge" in ppo:
        numbers["win rate by the judge"] = ppo["win_rate_vs_sft"]["value"]
    return numbers


def shortfalls(numbers: Mapping[str, float], busy: bool = False) -> list[str]:
    """A line for each bound that is not kept; with `busy` the time is not held to its own."""
    lines = []
    for name, bound in BOUNDS.items():
        if busy and name == QUIET:
            continue
        wanted = f"{WORDS[bound.holds]} {bound.format.format(bound.limit)}"
        if name not in numbers:
            lines.append(f"{name}: not measured ({wanted} was promised)")
        elif not bound.holds(numbers[name], bound.limit):  # NaN holds to nothing
            shown = bound.format.format(numbers[name])
            lines.append(f"{name}: {shown} ({wanted} was promised)")
    return lines
