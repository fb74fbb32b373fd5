"""The one renderer: a conversation -> ids and the mask of what the assistant wrote.

An open model's tokenizer renders by its chat template (data/hf_tokenizer.py), our own as

    <bos> [<|system|> text <eos>] <|user|> text <eos> <|assistant|> text <eos> …

The markers are special ids, put in by id. The mask is 1 on the assistant's text and on the <eos>
that ends it, so a model learns to stop; it comes from rendering, never from looking for ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data.hf_tokenizer import HFTokenizer
from data.tokenizer import ASSISTANT, BOS, EOS, ROLES, Tokenizer


def render(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]):
    """A whole conversation -> (ids [n] int32, loss mask [n] float32)."""
    if isinstance(tokenizer, HFTokenizer):
        return tokenizer.render(messages)
    ids, mask = [BOS], [0.0]
    for message in messages:
        text = tokenizer.encode(message["content"])
        answer = float(message["role"] == "assistant")
        ids += [ROLES[message["role"]], *text, EOS]
        mask += [0.0] + [answer] * (len(text) + 1)
    return np.array(ids, np.int32), np.array(mask, np.float32)


def render_prompt(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]) -> np.ndarray:
    """A conversation that awaits an answer -> ids ending where it begins, [n] int32."""
    if isinstance(tokenizer, HFTokenizer):
        return tokenizer.render_prompt(messages)
    return np.append(render(tokenizer, messages)[0], np.int32(ASSISTANT))
