"""The one renderer: a conversation -> ids and the mask of what the assistant wrote.

    <bos> [<|system|> text <eos>] <|user|> text <eos> <|assistant|> text <eos> …

The markers are special ids, put in by id. The mask is 1 on the assistant's text and on the <eos>
that ends it, so a model learns to stop; it comes from rendering, never from looking for ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data.tokenizer import ASSISTANT, BOS, EOS, ROLES, Tokenizer


def render(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]):
    """A whole conversation -> (ids [n] int32, loss mask [n] float32)."""
    ids, mask = [BOS], [0.0]
    for message in messages:
        text = tokenizer.encode(message["content"])
        answer = float(message["role"] == "assistant")
        ids += [ROLES[message["role"]], *text, EOS]
        mask += [0.0] + [answer] * (len(text) + 1)
    return np.array(ids, np.int32), np.array(mask, np.float32)


def render_prompt(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]) -> np.ndarray:
    """A conversation that awaits an answer -> ids ending in <|assistant|>, [n] int32."""
    return np.append(render(tokenizer, messages)[0], np.int32(ASSISTANT))
