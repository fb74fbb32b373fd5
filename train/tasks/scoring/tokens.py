"""Token ids of requests for log-likelihoods, as lm-evaluation-harness makes them.

Two things differ from it: the name of a special token in a plain text is text and no special
token, and of a whole text the id that the tokenizer puts before it is not predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from data.errors import DataError
from data.text.base import Tokenizer
from data.text.chat import render_prompt
from ranges import ConfigError
from train.tasks.base import Likelihoods, Prompt, Rolling


class Passage(NamedTuple):
    """Ids whose last ones are predicted, each from those before it.

    Attributes:
      ids: n + 1 of them; the model reads the first n. scored: number of the last ids that are
        predicted. cut: ids that were left out at the start because they did not fit.
    """

    ids: list[int]
    scored: int
    cut: int = 0


def prefix_id(tokenizer: Tokenizer) -> int:
    """The id after which a text without a context is predicted: the one that opens a text, or of a
    tokenizer without one the one that ends a text."""
    return tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """Ids of a plain prompt, after those that the tokenizer puts before every text (Llama's BOS),
    or of a conversation that awaits an answer."""
    if isinstance(prompt, str):
        return [*tokenizer.prefix, *tokenizer.encode(prompt)]
    return render_prompt(tokenizer, prompt).tolist()


def passage(context: Sequence[int], continuation: Sequence[int], max_length: int) -> Passage:
    """The Passage of a continuation; ids of the context that do not fit are cut off on the left.

    Raises:
      DataError: the continuation is empty, or longer than `max_length`.
    """
    if not continuation:
        raise DataError("a continuation adds no token to its context", "no_tokens")
    if len(continuation) > max_length:
        raise DataError(
            f"a continuation has {len(continuation)} tokens, and the model reads {max_length}",
            "too_long",
        )
    ids = [*context, *continuation]
    cut = max(len(ids) - max_length - 1, 0)
    return Passage(ids[cut:], len(continuation), cut)


def continuation_passages(
    tokenizer: Tokenizer, request: Likelihoods, max_length: int
) -> list[Passage]:
    """The Passage of each continuation.

    White space at the end of a plain context goes to its continuation, whose ids are those of both
    texts together from the number of the context's ids on. In a conversation it continues the
    prompt's ids.

    Raises:
      DataError: a continuation has no tokens, or too many.
    """
    encoded: dict[str, list[int]] = {}  # the choices of a question have their context in common
    passages = []
    for context, text in request.continuations:
        if isinstance(context, str):
            plain = context.rstrip()
            context, text = plain, context[len(plain) :] + text
        if not context:
            before, after = [prefix_id(tokenizer)], tokenizer.encode(text)
        else:
            key = repr(context)
            before = encoded[key] = encoded.get(key) or encode_prompt(tokenizer, context)
            if isinstance(context, str):
                after = encode_prompt(tokenizer, context + text)[len(before) :]
            else:
                after = tokenizer.encode_further(text)
        passages.append(passage(before, after, max_length))
    return passages


def window_passages(tokenizer: Tokenizer, request: Rolling, max_length: int) -> list[Passage]:
    """The windows of a text, of `max_length` tokens at most.

    The first scores all its tokens, those after it `request.stride` each, with as many before them
    as fit. A stride of 0 is `max_length`: each window then sees one token before those it scores,
    and the last, which scores what is left, as many as fit.

    Raises:
      ConfigError: a stride that would leave tokens out.
    """
    if request.stride > max_length:
        raise ConfigError(
            f"stride={request.stride} is more than the {max_length} tokens that the model reads; "
            "give a smaller one, or 0"
        )
    ids = [prefix_id(tokenizer), *tokenizer.encode(request.text)]
    stride, count = request.stride or max_length, len(ids) - 1
    passages, begin, end = [], 0, min(max_length, count)
    while begin < count:
        passages.append(Passage(ids[max(end - max_length, 0) : end + 1], end - begin))
        begin, end = end, min(end + stride, count)
    return passages
