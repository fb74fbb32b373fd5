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

from data.errors import DataError
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
    plain = [{k: v for k, v in m.items() if k != "parts"} for m in messages]
    ids, authors = tokenizer.render(plain, tools)
    weights = [m.get("weight", 1.0) for m in messages]
    mask = np.array([*weights, 0.0], np.float32)[authors]  # author -1 takes the last: 0
    if any("parts" in message for message in messages):
        _weigh_parts(tokenizer, ids, authors, messages, mask)
    return ids, mask


def _weigh_parts(
    tokenizer: Tokenizer, ids: np.ndarray, authors: np.ndarray, messages: Sequence[Mapping],
    mask: np.ndarray,
) -> None:  # fmt: skip
    """Sets the weights in `mask` [n] of the tokens of parts of messages.

    A message's `parts` are [text, weight or None] pairs whose texts make up its content. A token
    belongs to the part that has its last byte.

    Raises:
      DataError: the chat format changes the text of a part.
    """
    pieces = [tokenizer.token_bytes[i] for i in ids.tolist()]
    text, lengths = b"".join(pieces), np.array([len(piece) for piece in pieces])
    ends = np.cumsum(lengths)
    at = 0  # in `text`
    for number, message in enumerate(messages):
        if len(written := np.flatnonzero(authors == number)):
            at = int(ends[written[0]] - lengths[written[0]])
        else:
            at = max(at, text.find(message["content"].strip().encode(), at))
        for part, weight in message.get("parts", ()):
            content = part.strip().encode()
            start = text.find(content, at)
            if start >= 0:
                at = start + len(content)
            if weight is None or not content:
                continue
            if start < 0:
                raise DataError(
                    f"the chat format changes the text {part.strip()!r:.60}, so that its tokens "
                    "have no weight of their own; leave data.passages.weights out",
                    "bad_weight",
                )
            inside = (lengths > 0) & (ends > start) & (ends <= at)
            mask[inside] = weight * message.get("weight", 1.0)


def render_prompt(
    tokenizer: Tokenizer, messages: Sequence[Mapping], tools: list | None = None
) -> np.ndarray:
    """A conversation that awaits an answer -> ids [n] int32; the answer begins after them."""
    return tokenizer.render_prompt(messages, tools)
