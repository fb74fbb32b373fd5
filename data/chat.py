"""The one renderer: a conversation -> ids and the mask of what the assistant wrote.

An open model's tokenizer renders by its chat template (data/hf_tokenizer.py), our own as

    <bos> [<|system|> text <eos>] <|user|> text <eos> <|assistant|> text <eos> …

The markers are special ids, put in by id. The mask is 1 on the assistant's text and on the <eos>
that ends it, so a model learns to stop; it comes from rendering, never from looking for ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data.chat_template import REASONING
from data.hf_tokenizer import HFTokenizer
from data.templates import DataError
from data.tokenizer import ASSISTANT, BOS, EOS, ROLES, Tokenizer


def render(tokenizer: Tokenizer, messages: Sequence[Mapping], tools=None):
    """A whole conversation -> (ids [n] int32, loss mask [n] float32).

    The mask of what an assistant's message says is the message's `weight`, 1 where it has none.

    Raises:
      DataError: there is no place for something that a message says, or for `tools`.
    """
    ids, authors = render_authors(tokenizer, messages, tools)
    weights = [float(m.get("weight", 1.0)) for m in messages]
    return ids, np.array([*weights, 0.0], np.float32)[authors]


def render_authors(tokenizer: Tokenizer, messages: Sequence[Mapping], tools=None):
    """A whole conversation -> (ids [n] int32, the number of the assistant's message that each token
    is to be learned of, or -1, [n] int32)."""
    if isinstance(tokenizer, HFTokenizer):
        return tokenizer.render(messages, tools)
    _check_plain(messages, tools)
    ids, authors = [BOS], [-1]
    for i, message in enumerate(messages):
        text = tokenizer.encode(message["content"])
        ids += [ROLES[message["role"]], *text, EOS]
        authors += [-1] + [i if message["role"] == "assistant" else -1] * (len(text) + 1)
    return np.array(ids, np.int32), np.array(authors, np.int32)


def render_prompt(tokenizer: Tokenizer, messages: Sequence[Mapping], tools=None) -> np.ndarray:
    """A conversation that awaits an answer -> ids ending where it begins, [n] int32."""
    if isinstance(tokenizer, HFTokenizer):
        return tokenizer.render_prompt(messages, tools)
    return np.append(render_authors(tokenizer, messages, tools)[0], np.int32(ASSISTANT))


def _check_plain(messages, tools) -> None:
    """That our own form has a place for all that messages say: for system, user and assistant."""
    lost = "the record's tools" if tools else ""
    for i, message in enumerate(messages):
        if message["role"] not in ROLES:
            lost = f"a {message['role']} message (messages[{i}])"
        for key in ("tool_calls", *REASONING):
            lost = f"{key} (messages[{i}])" if message.get(key) else lost
    if lost:
        raise DataError(
            f"Seedpod's own chat format has no place for {lost}. Leave it out of the data, or "
            "train an imported model whose chat template has one",
            "chat_template",
        )
