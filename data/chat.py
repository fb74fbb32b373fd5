"""The one renderer: a conversation -> ids and the weights of what the assistant wrote.

An open model's tokenizer renders by its chat template (data/hf_tokenizer.py), our own as

    <bos> [<|system|> text <eos>] <|user|> text <eos> <|assistant|> text <eos> …

The markers are special ids, put in by id. The mask is 1, or the message's weight, on the
assistant's text and on the <eos> that ends it, so a model learns to stop; it comes from rendering,
never from looking for ids. Messages are those of data/messages.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data.hf_tokenizer import HFTokenizer
from data.templates import DataError
from data.tokenizer import ASSISTANT, BOS, EOS, ROLES, Tokenizer

# Fields of messages that our own format has no place for.
_FOREIGN = ("tool_calls", "reasoning_content", "thinking", "reasoning")


def render(tokenizer: Tokenizer, messages: Sequence[Mapping], tools: list | None = None):
    """A whole conversation -> (ids [n] int32, loss mask [n] float32).

    Args:
      tools: of the record, for the chat template.

    Raises:
      TemplateError, DataError: the format has no place for what the messages hold, or it cannot be
        told which tokens a weight is of.
    """
    if isinstance(tokenizer, HFTokenizer):
        ids, mask = tokenizer.render(messages, tools=tools)
    else:
        ids, mask = _render(tokenizer, messages, tools)
    return ids, _weighted(mask, messages)


def render_prompt(
    tokenizer: Tokenizer, messages: Sequence[Mapping], tools: list | None = None
) -> np.ndarray:
    """A conversation that awaits an answer -> ids ending where it begins, [n] int32."""
    if isinstance(tokenizer, HFTokenizer):
        return tokenizer.render_prompt(messages, tools)
    return np.append(_render(tokenizer, messages, tools)[0], np.int32(ASSISTANT))


def _render(tokenizer, messages, tools):
    ids, mask = [BOS], [0.0]
    for number, message in enumerate(messages):
        _check(message, number, tools)
        text = tokenizer.encode(message["content"])
        answer = float(message["role"] == "assistant")
        ids += [ROLES[message["role"]], *text, EOS]
        mask += [0.0] + [answer] * (len(text) + 1)
    return np.array(ids, np.int32), np.array(mask, np.float32)


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


def _weighted(mask, messages):
    """The mask with each answer's part, a run of ones, multiplied by its message's weight."""
    weights = [m.get("weight", 1.0) for m in messages if m["role"] == "assistant"]
    if all(weight == 1 for weight in weights):
        return mask
    number = np.cumsum(np.diff(mask > 0, prepend=False) & (mask > 0))
    if len(mask) == 0 or number[-1] != len(weights):
        raise DataError(
            f"the chat template shows {len(weights)} answers as {int(number[-1])} pieces to learn "
            "from, so it cannot be told which of them a 'weight' is of",
            "chat_format",
        )
    return mask * np.append(np.float32(0), np.array(weights, np.float32))[number]
