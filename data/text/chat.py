"""The one renderer: a conversation -> ids and the weights of what the assistant wrote.

An open model's tokenizer renders by its chat template (data/text/hf_tokenizer.py), our own as

    <bos> [<|system|> text <eos>] <|user|> text <eos> <|assistant|> text <eos> …

The markers are special ids, put in by id. The mask is 1, or the message's weight, on the
assistant's text and on the <eos> that ends it, so a model learns to stop; it comes from rendering,
never from looking for ids. Messages are those of data/read/messages.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data.errors import DataError
from data.text.chat_template import REASONING
from data.text.hf_tokenizer import HFTokenizer
from data.text.tokenizer import ASSISTANT, BOS, EOS, ROLES, Tokenizer

# Fields of messages that our own format has no place for.
_FOREIGN = ("tool_calls", *REASONING)


def render(tokenizer: Tokenizer, messages: Sequence[Mapping], tools: list | None = None):
    """A whole conversation -> (ids [n] int32, loss mask [n] float32).

    Args:
      tools: of the record, for the chat template.

    Raises:
      TemplateError, DataError: the format has no place for what the messages hold, or it cannot be
        told which tokens are the assistant's.
    """
    ids, authors = _render(tokenizer, messages, tools)
    weights = [m.get("weight", 1.0) for m in messages]
    return ids, np.array([*weights, 0.0], np.float32)[authors]  # the last is of author -1


def render_prompt(
    tokenizer: Tokenizer, messages: Sequence[Mapping], tools: list | None = None
) -> np.ndarray:
    """A conversation that awaits an answer -> ids ending where it begins, [n] int32."""
    if isinstance(tokenizer, HFTokenizer):
        return tokenizer.render_prompt(messages, tools)
    return np.append(_render(tokenizer, messages, tools)[0], np.int32(ASSISTANT))


def _render(tokenizer, messages, tools):
    """ids, and the number of the assistant's message that each is to be learned of, or -1."""
    if isinstance(tokenizer, HFTokenizer):
        return tokenizer.render(messages, tools)
    ids, authors = [BOS], [-1]
    for number, message in enumerate(messages):
        _check(message, number, tools)
        text = tokenizer.encode(message["content"])
        author = number if message["role"] == "assistant" else -1
        ids += [ROLES[message["role"]], *text, EOS]
        authors += [-1] + [author] * (len(text) + 1)
    return np.array(ids, np.int32), np.array(authors, np.int32)


def _check(message, number: int, tools) -> None:
    what = next((f"'{key}'" for key in _FOREIGN if key in message), "")
    if message["role"] not in ROLES:
        what = f"role {message['role']!r}"
    if what or tools:
        where = f"messages[{number}]: {what}" if what else "'tools'"
        raise DataError(
            f"{where}: the built-in chat format has no place for it; start from an open model "
            "whose template has one (python -m train.convert, --config.init_from.policy=WORKDIR)",
            "chat_format",
        )
