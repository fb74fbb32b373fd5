"""Tokens to show: the ids of a text or a conversation, and numbers of each token as colours."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from rich.text import Text

from data.text import chat
from data.text.base import Tokenizer
from printable import escaped
from train.inspect import show

Messages: TypeAlias = Sequence[Mapping[str, Any]]


class Tokens(NamedTuple):
    """The tokens of a text or a conversation.

    Attributes:
      ids: [T] int32. texts: of each id; special ids by their name.
      weights: [T] float32, of each as a target of training: of a text 1, and 0 for ids that open
        it; of a conversation that of the assistant's message.
    """

    ids: np.ndarray
    texts: tuple[str, ...]
    weights: np.ndarray


def read(tokenizer: Tokenizer, text: str | Messages, limit: int) -> Tokens:
    """The tokens of a text, or of a conversation in the model's chat format. One that ends with a
    question ends where the answer begins.

    Args:
      limit: the most tokens.

    Raises:
      ValueError: they are none or more than `limit`, or the tokenizer cannot express the text.
    """
    check(text)
    if isinstance(text, str):
        ids = np.array([*tokenizer.prefix, *tokenizer.encode(text)], np.int32)
        weights = np.ones(len(ids), np.float32)
        weights[: len(tokenizer.prefix)] = 0
    elif text and text[-1]["role"] == "assistant":
        ids, weights = chat.render(tokenizer, text)
    else:
        ids = chat.render_prompt(tokenizer, text)
        weights = np.zeros(len(ids), np.float32)
    if not 0 < len(ids) <= limit:
        what = f"{len(ids)} tokens, and the model reads at most {limit}" if len(ids) else "no token"
        raise ValueError(f"the text has {what}")
    return Tokens(ids, tuple(text_of(tokenizer, int(i)) for i in ids), weights)


def check(text: str | Messages) -> None:
    """Raises ValueError for what is neither a text nor a conversation."""
    if isinstance(text, str):
        return
    is_turn = [isinstance(m, Mapping) and {"role", "content"} <= m.keys() for m in text]
    if not (is_turn and all(is_turn)):
        raise ValueError(
            f"{text!r:.60} is no conversation; write [{{'role': 'user', 'content': …}}, …]"
        )


def text_of(tokenizer: Tokenizer, i: int) -> str:
    """The text of one id; bytes that are no whole character as U+FFFD."""
    if name := tokenizer.special_name(i):
        return name
    if i >= tokenizer.vocab_size:  # a row of the table without a token
        return f"<{i}>"
    return tokenizer.token_bytes[i].decode("utf-8", errors="replace")


def visible(text: str) -> str:
    """A token's text on one line, with its white space marked."""
    return escaped(text).replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·") or "∅"


class TokenValues:
    """A number of each token, shown as the token's colour.

    Attributes:
      title. unit: of the numbers. tokens. values: [T] float32; NaN where there is none.
      mask: [T] bool, the tokens that `mean` is over. score: of the whole, or None.
    """

    def __init__(
        self, title: str, unit: str, tokens: Tokens, values: np.ndarray, mask: np.ndarray,
        score: float | None = None,
    ):  # fmt: skip
        self.title, self.unit, self.tokens, self.score = title, unit, tokens, score
        self.values, self.mask = np.asarray(values, np.float32), np.asarray(mask, bool)

    @property
    def mean(self) -> float:
        """The mean over `mask`; NaN if it is empty."""
        picked = self.values[self.mask].astype(np.float64)
        return float(picked.mean()) if picked.size else float("nan")

    def __len__(self) -> int:
        return len(self.values)

    def _summary(self) -> str:
        if self.score is not None:
            return f"{self.title}: the answer scores {show.number(self.score)}"
        count = int(self.mask.sum())
        return f"{self.title}: mean {show.number(self.mean)} {self.unit} over {count} tokens"

    def _shares(self) -> np.ndarray:
        """[T], each value as a share of the scale: of its largest absolute value."""
        finite = np.abs(self.values[np.isfinite(self.values)])
        most = float(finite.max()) if finite.size else 1.0
        return np.nan_to_num(self.values / (most or 1.0))

    def __repr__(self) -> str:
        rows = [
            [visible(text), show.number(float(value)), "yes" if inside else ""]
            for text, value, inside in zip(self.tokens.texts, self.values, self.mask, strict=True)
        ]
        return show.table(self._summary(), ["token", self.unit, "in mean"], rows)

    def __rich__(self) -> Text:
        """The text itself, each token on its colour, for `rich.print`."""
        text = Text(self._summary() + "\n")
        for token, share in zip(self.tokens.texts, self._shares(), strict=True):
            text.append(escaped(token), style=f"black on {show.colour(float(share))}")
        return text

    def _repr_html_(self) -> str:
        return (
            f"<div><b>{html.escape(self._summary())}</b>{self._legend()}"
            f"{coloured(self.tokens.texts, self._shares(), self._hints())}</div>"
        )

    def _hints(self) -> list[str]:
        return [
            f"{show.number(float(value)) or 'none'} {self.unit}{'' if inside else ', not counted'}"
            for value, inside in zip(self.values, self.mask, strict=True)
        ]

    def _legend(self) -> str:
        finite = self.values[np.isfinite(self.values)]
        if not finite.size:
            return ""
        most = float(np.abs(finite).max())
        ends = (-1.0, 1.0) if finite.min() < 0 else (0.0, 1.0)
        shades = ", ".join(show.colour(float(share)) for share in np.linspace(*ends, 5))
        return (
            '<div style="font-size:80%;margin:4px 0">'
            f'{show.number(ends[0] * most)} <span style="display:inline-block;width:8em;'
            f'height:0.8em;border:1px solid #999;background:linear-gradient(to right, {shades})">'
            f"</span> {show.number(most)} {html.escape(self.unit)}</div>"
        )

    def plot(self) -> Any:
        """A matplotlib Figure: the number of each token, in order."""
        count = len(self)
        figure, axes = show.figure(self.title, width=min(max(6.0, count * 0.22), 16.0))
        place = axes[0, 0]
        place.bar(range(count), np.nan_to_num(self.values), color="#2c7bb6", label="in the mean")
        others = ~self.mask & np.isfinite(self.values)
        if others.any():
            picked = np.flatnonzero(others)
            place.bar(picked, self.values[picked], color="#bbbbbb", label="not counted")
        place.axhline(self.mean, color="#d95f0e", linewidth=1, label=f"mean {self.mean:.3g}")
        place.set_ylabel(self.unit)
        place.set_xlabel("token")
        label_tokens(place, self.tokens.texts)
        place.legend(fontsize=8)
        return figure


def coloured(
    texts: Sequence[str], shares: Sequence[float] | np.ndarray, hints: Sequence[str]
) -> str:
    """HTML of tokens, each on the colour of its share, with its hint when pointed at. The texts are
    escaped."""
    spans = []
    for text, share, hint in zip(texts, shares, hints, strict=True):
        shown = html.escape(escaped(text)).replace("\n", "⏎<br>")
        spans.append(
            f'<span title="{html.escape(hint)}" style="background:{show.colour(float(share))};'
            f'border-radius:2px">{shown}</span>'
        )
    return (
        '<div style="white-space:pre-wrap;font-family:monospace;line-height:1.6;color:#000;'
        f'background:#fff;padding:4px">{"".join(spans)}</div>'
    )


def label_tokens(axes: Any, texts: Sequence[str], most: int = 60) -> None:
    """Writes the tokens under the x axis, every so many of a long text."""
    every = -(-len(texts) // most)
    places = range(0, len(texts), every)
    labels = [show.printed(visible(texts[i]))[:14] for i in places]
    axes.set_xticks(list(places), labels, rotation=90, fontsize=7, family="monospace")
