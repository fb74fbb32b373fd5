"""A ladder's results as text: numbers, the table, the laws and the predictions in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from train.ladder.laws import SHARE, Estimate
from train.ladder.study import Prediction, Study

_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def short(value: float) -> str:
    """Three digits and a unit: 1.33M."""
    unit, letter = next(((x, letter) for x, letter in _UNITS if abs(value) >= x), (1.0, ""))
    return f"{value / unit:.3g}{letter}"


def _within(estimate: Estimate, form=short) -> str:
    if not estimate.low < estimate.high:
        return form(estimate.value)
    return f"{form(estimate.value)} [{form(estimate.low)}, {form(estimate.high)}]"


def _loss(value: float) -> str:
    return f"{value:.3f}"


def _two(value: float) -> str:
    return f"{value:.2f}"


def table(study: Study) -> list[list[str]]:
    """The rows of the table of runs, after its heads."""
    rows = [["run", "parameters", "tokens", "FLOPs", "loss", "law"]]
    for rung in study.rungs:
        law = study.joint.loss(rung.parameters, rung.tokens) if study.joint else None
        rows.append(
            [rung.name, short(rung.parameters), short(rung.tokens), f"{rung.flops:.2g}",
             _loss(rung.loss), _loss(law.value) if law else ""]
        )  # fmt: skip
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its columns aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def laws(study: Study) -> list[str]:
    """The laws, as formulas with intervals."""
    lines = []
    if law := study.joint:
        lines.append(
            f"L(N, D) = {_loss(law.irreducible.value)} + {law.coefficient(0).value:.4g}/N^α + "
            f"{law.coefficient(1).value:.4g}/D^β, E = {_within(law.irreducible, _loss)}, "
            f"α = {_within(law.exponent(0), _two)}, β = {_within(law.exponent(1), _two)}"
        )
    if law := study.compute:
        lines.append(
            f"L(C) = {_loss(law.irreducible.value)} + {law.coefficient(0).value:.4g}/C^γ, "
            f"E = {_within(law.irreducible, _loss)}, γ = {_within(law.exponent(0), _two)}"
        )
    if lines:
        lines.append(f"In brackets: bootstrap intervals of {SHARE:.0%}.")
    return lines


def predicted(prediction: Prediction) -> str:
    """A prediction as a sentence."""
    p = prediction
    text = f"{p.name}: "
    if p.best and p.loss:
        text += (
            f"best spent on {_within(p.parameters)} parameters and {_within(p.tokens)} tokens, "
            f"loss {_within(p.loss, _loss)}"
        )
    elif p.loss:
        text += (
            f"{short(p.parameters.value)} parameters and {short(p.tokens.value)} tokens, "
            f"loss {_within(p.loss, _loss)}"
        )
    if p.by_compute:
        text += f"{'; ' if p.loss else ''}by L(C) loss {_within(p.by_compute, _loss)}"
    return text if p.loss or p.by_compute else f"{text}nothing can be said"


def all_lines(study: Study, predictions: Iterable[Prediction], remarks: Iterable[str]) -> list[str]:
    """The laws, the predictions and the remarks, in order."""
    return [*laws(study), *map(predicted, predictions), *remarks]
