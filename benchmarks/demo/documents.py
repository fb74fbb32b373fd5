"""The pages that show the demo's figures, written from the reports kept in docs/demo.json."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.demo import promise

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "docs" / "demo.json"
# The parts of a report.json that are kept.
SHOWN = ("pretrain", "sft", "reward", "judge", "ppo", "seconds", "total_seconds")
KINDS = ("near", "far", "truncated", "repeated", "scolding")


def _span(values: Iterable[float], format: str) -> str:
    """The least and the largest of several values, as `1.86 to 1.88`."""
    low, high = (format.format(f(values)) for f in (min, max))
    return low if low == high else f"{low.removesuffix('%')} to {high}"


def _accuracy(values: Mapping[str, Mapping[str, float]]) -> str:
    right, pairs = values["heldout_accuracy"], values["heldout_pairs"]
    kinds = ", ".join(f"{100 * right[kind]:.0f}" for kind in KINDS)
    return f"{kinds}; {right['overall']:.1%} of {pairs['overall']:,.0f}"


def _beside(kept: Mapping[str, Any]) -> str:
    if len(kept["busy"]) == len(kept["reports"]):
        return ", beside other work, so that every stage took longer"
    seeds = " and ".join(kept["busy"])
    return f"; the time of seed {seeds}, beside other work, is not counted" if seeds else ""


def table(kept: Mapping[str, Any]) -> str:
    """The section of docs/benchmarks.md: a column a seed."""
    reports = kept["reports"]

    def row(name: str, cell: Callable[[Mapping[str, Any]], str]) -> str:
        return pages.row([name, *map(cell, reports.values())])

    def fall(r):
        sft, share = r["sft"], promise.measure(r)["fall of the response loss"]
        return f"{sft['response_loss_pretrained']:.2f} → {sft['response_loss']:.2f} (−{share:.1%})"

    def preferred(r):
        won = r["ppo"]["win_rate_vs_sft"]
        of = f"of {r['ppo']['compared']:.0f}"
        return f"{won['value']:.1%} {of} ({won['low']:.0%} to {won['high']:.0%})"

    ppo = "{p[score_before]:.2f} → {p[score_after]:.2f} ({p[score_std_before]:.2f}); {gain:+.2f}"
    seconds = "{pretrain:.0f}, {sft:.0f}, {reward:.0f}, {judge:.0f}, {ppo:.0f}; {total:.0f}"
    bounds = "; ".join(f"{name} {bound}" for name, bound in promise.BOUNDS.items())
    lines = [
        f"`python -m benchmarks.demo` wrote this on {kept['date']} at commit {kept['commit']}, on "
        f"{kept['machine']}{_beside(kept)}. The demo promises: {bounds}.",
        "",
        pages.row(["seed", *reports]),
        "|---" * (1 + len(reports)) + "|",
        row("bits per byte", lambda r: f"{r['pretrain']['bits_per_byte']:.2f}"),
        row("loss of held-out answers, before and after SFT", fall),
        row(
            f"reward model, held-out pairs right: {', '.join(KINDS)}; mean",
            lambda r: _accuracy(r["reward"]),
        ),
        row("the same, judge", lambda r: _accuracy(r["judge"])),
        row(
            "the same, word overlap; mean",
            lambda r: f"{r['reward']['word_overlap_accuracy']['overall']:.1%}",
        ),
        row(
            "PPO: held-out score (its standard deviation before); gain in those deviations",
            lambda r: ppo.format(p=r["ppo"], gain=promise.gain(r["ppo"])),
        ),
        row("KL to the SFT model, nats an answer", lambda r: f"{r['ppo']['kl']:.1f}"),
        row("answers that the judge prefers to the SFT model's", preferred),
        row(
            "4-grams of an answer that repeat, before and after PPO",
            lambda r: f"{r['ppo']['repetition_before']:.2%} → {r['ppo']['repetition_after']:.2%}",
        ),
        row(
            "seconds: pretraining, SFT, reward model, judge, PPO; all",
            lambda r: seconds.format(**r["seconds"], total=r["total_seconds"]),
        ),
        "",
        "; ".join(promise.all_shortfalls(kept)) or "The demo keeps its promise.",
    ]
    return "\n".join(lines)


def _measured(kept: Mapping[str, Any]) -> dict[str, str]:
    """The numbers of all seeds in words."""
    reports = list(kept["reports"].values())
    numbers = [promise.measure(report) for report in reports]
    seconds = [n[promise.QUIET] for n in numbers]
    quiet = [
        s for s, seed in zip(seconds, kept["reports"], strict=True) if seed not in kept["busy"]
    ]

    def span(name: str, format: str) -> str:
        return _span([n[name] for n in numbers], format)

    return {
        "time": _span([s / 60 for s in quiet or seconds], "{:.1f}") + " minutes",
        "bits": span("bits per byte", "{:.2f}"),
        "fall": span("fall of the response loss", "{:.0%}"),
        "accuracy": span("reward model's accuracy", "{:.0%}"),
        "judge": _span([r["judge"]["heldout_accuracy"]["overall"] for r in reports], "{:.0%}"),
        "gain": span("PPO's gain in standard deviations", "{:.1f}"),
        "kl": span("KL", "{:.0f}"),
        "won": span("win rate by the judge", "{:.0%}"),
    }


def expectation(kept: Mapping[str, Any]) -> str:
    """The lines `Time:` and `Expect:` of the recipe's docstring."""
    m = _measured(kept)
    paragraphs = [
        f"Time: {m['time']} of stages on {kept['machine']}{_beside(kept)}; 3 s once it is done.",
        f"Expect: on seeds {', '.join(kept['reports'])} (demo.py:seed=1 is another), {m['bits']} "
        f"bits per byte; a held-out loss of answers {m['fall']} lower after SFT; {m['accuracy']} "
        f"of held-out pairs ranked right by the reward model, {m['judge']} by the judge; PPO's "
        f"score {m['gain']} standard deviations higher at a KL of {m['kl']}, and {m['won']} of its "
        "answers preferred to SFT's by the judge.",
    ]
    return "".join(textwrap.fill(text, 100) + "\n" for text in paragraphs)


def readme_row(kept: Mapping[str, Any]) -> str:
    """The row of README.md's table."""
    m = _measured(kept)
    return pages.row(
        [
            f"the demo, two cores, {len(kept['reports'])} seeds",
            f"{m['time']}{_beside(kept)}; {m['bits']} bits per byte; the reward model ranks "
            f"{m['accuracy']} of held-out pairs right; the judge prefers {m['won']} of PPO's "
            "answers to SFT's",
        ]
    )


# File -> (the part of it that is replaced, its content).
PARTS: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "docs/benchmarks.md": (
        r"(?<=<!-- benchmarks.demo -->\n\n).*(?=\n\n<!-- /benchmarks.demo -->)", table
    ),
    "configs/chains/demo.py": (r'(?<=\n)Time: .*?(?=""")', expectation),
    "README.md": (r"(?<=\n)\| the demo, two cores[^\n]*", readme_row),
}  # fmt: skip


def written(name: str, kept: Mapping[str, Any]) -> str:
    """The content of a file of PARTS with its figures.

    Raises:
      ValueError: the file lacks the part to replace.
    """
    pattern, content = PARTS[name]
    text, count = re.subn(
        pattern, lambda _: content(kept), (ROOT / name).read_text(), count=1, flags=re.DOTALL
    )
    if not count:
        raise ValueError(f"{name} has no place for the demo's figures: {pattern}")
    return text


def write(kept: Mapping[str, Any]) -> None:
    """Writes docs/demo.json and every file of PARTS."""
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    for name in PARTS:
        (ROOT / name).write_text(written(name, kept))
