"""The logit lens: the final norm and the vocabulary head on the residual stream after each layer
(nostalgebraist 2020, "interpreting GPT: the logit lens").

Axes: L layers, T length, D embed, V vocabulary.
"""

from __future__ import annotations

import functools
import html
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.text.base import Tokenizer
from model import vocabulary
from model.config import TransformerConfig
from model.layers.norm import rms_norm
from train.inspect import show
from train.inspect.tokens import Tokens, label_tokens, text_of, visible


class LogitLens:
    """The prediction of each layer, as if it were the last.

    Attributes:
      title. tokens: of the text.
      rows: names of the L + 1 rows: `embedding`, then the layers by number.
      ids: [L + 1, T] int32, the likeliest next token. probabilities: [L + 1, T] float32, of it.
      entropies: [L + 1, T] float32, in nats. next_nats: [L + 1, T - 1] float32, -log p of the token
        that follows in the text.
    """

    def __init__(
        self, title: str, tokens: Tokens, residuals: Sequence[np.ndarray],
        config: TransformerConfig, params: Mapping[str, Any], tokenizer: Tokenizer,
    ):  # fmt: skip
        self.title, self.tokens = title, tokens
        self.rows = ("embedding", *(str(i) for i in range(len(residuals) - 1)))
        self._residuals, self._config, self._tokenizer = residuals, config, tokenizer
        table = "embedding" if config.tie_embeddings else "unembedding"
        self._head = params["final_norm"], params[table]
        found = [self._read(row) for row in range(len(residuals))]
        self.ids, self.probabilities, self.entropies, self.next_nats = (
            np.stack(parts) for parts in zip(*found, strict=True)
        )

    def _read(self, row: int) -> tuple[np.ndarray, ...]:
        following = self.tokens.ids[1:]
        parts = _predictions(self._config, *self._head, self._residuals[row], following)
        return tuple(np.asarray(x) for x in parts)

    def logits(self, row: int) -> np.ndarray:
        """[T, V] float32, of row `row` of `rows`: 0 is the embedding, -1 the last layer."""
        return np.asarray(_logits(self._config, *self._head, self._residuals[row]))

    def _text(self, row: int, column: int) -> str:
        return visible(text_of(self._tokenizer, int(self.ids[row, column])))

    def __repr__(self) -> str:
        last = min(len(self.tokens.ids), max((show.columns() - 12) // 16, 1))
        places = range(len(self.tokens.ids) - last, len(self.tokens.ids))
        rows = [
            [name, *(f"{self._text(i, t)[:10]} {self.probabilities[i, t]:.2f}" for t in places)]
            for i, name in enumerate(self.rows)
        ]
        of = "" if last == len(self.tokens.ids) else f" (the last {last} of {len(self.tokens.ids)})"
        heads = [visible(self.tokens.texts[t])[:10] for t in places]
        title = f"{self.title}: likeliest next token after each layer, and its probability{of}"
        return show.table(title, ["layer", *heads], rows)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(visible(t))}</th>" for t in self.tokens.texts)
        body = ""
        for i, name in enumerate(self.rows):
            cells = "".join(
                f'<td style="background:{show.colour(float(p))};color:#000" title="probability '
                f'{p:.3f}, entropy {entropy:.2f} nats">{html.escape(self._text(i, t))}</td>'
                for t, (p, entropy) in enumerate(zip(self.probabilities[i], self.entropies[i]))
            )
            body += f"<tr><th>{name}</th>{cells}</tr>"
        title = (
            f"{self.title}: likeliest next token after each layer; the colour is its probability"
        )
        return (
            f'<div style="overflow-x:auto"><b>{html.escape(title)}</b><table style="font-family:'
            f'monospace;font-size:85%"><tr><th>layer</th>{head}</tr>{body}</table></div>'
        )

    def plot(self) -> Any:
        """A matplotlib Figure: layers by tokens, the colour the probability of the likeliest next
        token, whose text is in the cell."""
        L, T = self.ids.shape
        width, height = min(max(5.0, 0.75 * T + 1.5), 20.0), max(2.5, 0.28 * L + 1.4)
        figure, axes = show.figure(f"Logit lens of {self.title}", width=width, height=height)
        place = axes[0, 0]
        show.heatmap(place, self.probabilities, "probability of the likeliest next token",
                     vmin=0, vmax=1, cmap="Blues")  # fmt: skip
        if T <= 30:
            for i in range(L):
                for t in range(T):
                    dark = self.probabilities[i, t] > 0.6
                    place.text(t, i, show.printed(self._text(i, t))[:8], ha="center", va="center",
                               fontsize=6, color="white" if dark else "black")  # fmt: skip
        place.set_yticks(range(L), self.rows, fontsize=7)
        place.set_ylabel("layer")
        place.set_xlabel("token read")
        label_tokens(place, self.tokens.texts)
        return figure


@functools.partial(jax.jit, static_argnums=0)
def _logits(config, norm, table, residual):
    hidden = rms_norm(residual[None], norm, config)
    return vocabulary.logits(config, table, hidden)[0, :, : config.vocab_size]


@functools.partial(jax.jit, static_argnums=0)
def _predictions(config, norm, table, residual, following):
    """`ids`, `probabilities`, `entropies` and `next_nats` of `LogitLens`, for one row."""
    logp = jax.nn.log_softmax(_logits(config, norm, table, residual), axis=-1)
    entropies = -jnp.sum(jnp.exp(logp) * logp, axis=-1)
    nats = -jnp.take_along_axis(logp[:-1], following[:, None], axis=-1)[:, 0]
    return jnp.argmax(logp, axis=-1), jnp.exp(jnp.max(logp, axis=-1)), entropies, nats
