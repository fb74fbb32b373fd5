"""Answers whose tokens are coloured by a number, for notebooks and terminals."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.text import Text

from printable import escaped
from train.inspect import show
from train.inspect.tokens import coloured
from train.terminal.console import is_live


class Row(NamedTuple):
    """A prompt and an answer.

    Attributes:
      heading: a line above them. before: text without a colour. tokens: their texts. values: a
        number for each; one that is not finite has no colour.
    """

    heading: str
    before: str
    tokens: Sequence[str]
    values: Sequence[float]


class TokenView:
    """Rows of tokens on colours of one scale, from blue (negative) over white (0) to orange.

    Args:
      title: a line above them. unit: of the numbers.

    Attributes:
      most: the largest absolute value, which has the full colour.
    """

    def __init__(self, title: str, unit: str, rows: Sequence[Row]):
        self.title, self.unit, self.rows = title, unit, rows
        sizes = [abs(x) for row in rows for x in row.values if math.isfinite(x)]
        self.most = max(sizes, default=0.0)

    def _shares(self, values: Sequence[float]) -> np.ndarray:
        return np.nan_to_num(np.divide(values, self.most or 1.0), posinf=0.0, neginf=0.0)

    def _scale(self) -> tuple[list[str], np.ndarray]:
        """(texts, shares) of the legend."""
        shares = np.linspace(-1, 1, 5)
        return [f" {share * self.most:.3g} " for share in shares], shares

    def _repr_html_(self) -> str:
        texts, shares = self._scale()
        parts = [
            f"<div><b>{html.escape(escaped(self.title))}</b> {html.escape(self.unit)}:"
            f"{coloured(texts, shares, [self.unit] * len(texts))}"
        ]
        for row in self.rows:
            hints = [f"token {i}: {x:.4g} {self.unit}" for i, x in enumerate(row.values)]
            parts.append(
                f'<div style="margin-top:.6em;font-family:monospace;opacity:.7">'
                f"{html.escape(escaped(row.heading))}<br>{html.escape(escaped(row.before))}</div>"
                f"{coloured(row.tokens, self._shares(row.values), hints)}"
            )
        return "".join([*parts, "</div>"])

    def __rich__(self) -> Text:
        def pieces(texts, shares):
            for token, share in zip(texts, shares, strict=True):
                text = escaped(token).replace("\n", "⏎").replace("\t", "⇥")
                yield text, f"black on {show.colour(float(share))}"

        lines = Text.assemble((escaped(self.title), "bold"), f"  {self.unit}: ")
        lines.append_text(Text.assemble(*pieces(*self._scale())))
        for row in self.rows:
            before = escaped(row.before).replace("\n", " ")
            lines.append(f"\n\n{escaped(row.heading)}\n{before} ", "dim")
            lines.append_text(Text.assemble(*pieces(row.tokens, self._shares(row.values))))
        return lines

    def __repr__(self) -> str:
        out = io.StringIO()
        console = Console(
            file=out, force_terminal=is_live(), force_jupyter=False, width=show.columns()
        )
        console.print(self.__rich__())
        return out.getvalue().rstrip("\n")
