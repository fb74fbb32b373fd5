"""Tokens coloured by a number, as HTML for notebooks and as text for terminals.

Orange is below 0, blue above, and the strength is the share of the largest absolute value.
"""

from __future__ import annotations

import html
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console, Group
from rich.text import Text

from data.text.base import Tokenizer
from printable import escaped
from train.terminal.console import columns, is_live

BELOW, ABOVE = (230, 120, 20), (50, 120, 220)  # RGB
STRONGEST = 0.75  # share of the colour in the mix with white


class Row(NamedTuple):
    """A text of coloured tokens.

    Attributes:
      heading: a line above it. before: text without a colour. tokens: their texts. values: a number
        for each; one that is not finite has no colour.
    """

    heading: str
    before: str
    tokens: Sequence[str]
    values: Sequence[float]


def token_texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text of each id alone; parts of a character are U+FFFD."""
    return [
        tokenizer.special_name(i) or tokenizer.token_bytes[i].decode(errors="replace") for i in ids
    ]


class TokenView:
    """Rows of coloured tokens.

    Args:
      title: a line above them. name: of the numbers, with their unit.
    """

    def __init__(self, title: str, name: str, rows: Sequence[Row]):
        self.title, self.name, self.rows = title, name, rows
        sizes = [abs(x) for row in rows for x in row.values if math.isfinite(x)]
        self.most = max(sizes, default=0.0)

    def _color(self, value: float) -> tuple[int, int, int] | None:
        if not math.isfinite(value) or not self.most:
            return None
        share = STRONGEST * abs(value) / self.most
        color = ABOVE if value > 0 else BELOW
        red, green, blue = (round(255 + share * (x - 255)) for x in color)
        return red, green, blue

    def _legend(self) -> list[tuple[str, float]]:
        return [(f"{x:+.3g}" if x else "0", x) for x in (-self.most, 0.0, self.most)]

    def _repr_html_(self) -> str:
        def span(text: str, value: float, title: str = "") -> str:
            # Line breaks are shown, and made: a token may hold several.
            text = html.escape(escaped(text)).replace("\n", "⏎<br>").replace("\t", "⇥")
            color = self._color(value)
            style = f"background:rgb{color};color:#111;" if color else ""
            title = f' title="{html.escape(title)}"' if title else ""
            return f'<span{title} style="{style}border-radius:2px">{text}</span>'

        legend = " ".join(span(f" {text} ", value) for text, value in self._legend())
        parts = [
            '<div style="font-family:monospace;white-space:pre-wrap;line-height:1.6">'
            f"<b>{html.escape(self.title)}</b>   {html.escape(self.name)}: {legend}"
        ]
        for row in self.rows:
            tokens = "".join(
                span(text, value, f"token {i}: {self.name} {value:+.4g}")
                for i, (text, value) in enumerate(zip(row.tokens, row.values, strict=True))
            )
            before = html.escape(escaped(row.before))
            parts.append(
                f'<div style="margin-top:.6em"><div style="opacity:.65">{html.escape(row.heading)}'
                f'</div><span style="opacity:.65">{before}</span> {tokens}</div>'
            )
        return "".join([*parts, "</div>"])

    def __rich__(self) -> Group:
        def piece(text: str, value: float) -> tuple[str, str]:
            text = escaped(text).replace("\n", "⏎").replace("\t", "⇥")
            color = self._color(value)
            return text, f"#111111 on rgb({color[0]},{color[1]},{color[2]})" if color else ""

        legend = [piece(f" {text} ", value) for text, value in self._legend()]
        lines = [Text.assemble((self.title, "bold"), f"   {self.name}: ", *legend)]
        for row in self.rows:
            before = escaped(row.before).replace("\n", "⏎")
            lines.append(Text(row.heading, "dim"))
            tokens = map(piece, row.tokens, row.values)
            lines.append(Text.assemble((before, "dim"), " ", *tokens, "\n"))
        return Group(*lines)

    def __repr__(self) -> str:
        return printed(self)


def printed(renderable: Any) -> str:
    """Text of a rich renderable, with colours where standard output is a terminal."""
    live, out = is_live(), io.StringIO()
    Console(file=out, force_terminal=live, width=min(columns(), 120)).print(renderable)
    return out.getvalue().rstrip("\n")
