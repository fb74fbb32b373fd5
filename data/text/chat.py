"""Rendering: a conversation as ids, with the weights of what the assistant wrote.

How a conversation is written is the tokenizer's: a built-in one has a format of its own
(data/text/builtin.py), an open model's follows its chat template (data/text/hf_tokenizer.py).
Markers are special ids, inserted by id. The mask is 1, or the message's weight, on the assistant's
text and on the token that ends it, so that a model learns to stop; it comes from rendering, never
from searching the ids. Messages are those of data/schemas/messages.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data.text.base import Tokenizer


def render(
    tokenizer: Tokenizer, messages: Sequence[Mapping], tools: list | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A whole conversation -> (ids [n] int32, loss mask [n] float32).

    Args:
      tools: the record's tools, for the chat template.

    Raises:
      DataError: see Tokenizer.render.
    """
    ids, authors = tokenizer.render(messages, tools)
    weights = [m.get("weight", 1.0) for m in messages]
    return ids, np.array([*weights, 0.0], np.float32)[authors]  # author -1 takes the last: 0


def render_prompt(
    tokenizer: Tokenizer, messages: Sequence[Mapping], tools: list | None = None
) -> np.ndarray:
    """A conversation that awaits an answer -> ids [n] int32; the answer begins after them."""
    return tokenizer.render_prompt(messages, tools)
