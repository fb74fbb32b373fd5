"""The demo's promise: bounds on the numbers of its report.json."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

QUIET = "seconds of all stages"  # held to its bound only where nothing else was running


class Bound(NamedTuple):
    """A limit that a number keeps: it is `below`, `at most` or `at least` so much."""

    relation: str
    limit: float
    format: str = "{:.2f}"

    def __str__(self) -> str:
        return f"{self.relation} {self.format.format(self.limit)}"


HOLDS: dict[str, Callable[[float, float], bool]] = {
    "below": operator.lt,
    "at most": operator.le,
    "at least": operator.ge,
}
BOUNDS = {
    "bits per byte": Bound("below", 2.2),
    "fall of the response loss": Bound("at least", 0.25, "{:.1%}"),
    "reward model's accuracy": Bound("at least", 0.85, "{:.1%}"),
    "PPO's gain in standard deviations": Bound("at least", 1.15),
    "KL": Bound("below", 15.0, "{:.1f}"),
    "win rate by the judge": Bound("at least", 0.65, "{:.1%}"),
    "rise of repetition": Bound("at most", 0.01, "{:.1%}"),
    QUIET: Bound("at most", 480.0, "{:.0f}"),
}


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
        if name not in numbers:
            lines.append(f"{name}: not measured ({bound} was promised)")
        elif not HOLDS[bound.relation](numbers[name], bound.limit):  # NaN holds to nothing
            shown = bound.format.format(numbers[name])
            lines.append(f"{name}: {shown} ({bound} was promised)")
    return lines


def all_shortfalls(kept: Mapping[str, Any]) -> list[str]:
    """The shortfalls of every seed of docs/demo.json."""
    return [
        f"seed {seed}: {line}"
        for seed, report in kept["reports"].items()
        for line in shortfalls(measure(report), seed in kept["busy"])
    ]
