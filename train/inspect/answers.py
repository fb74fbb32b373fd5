"""Answers that a model samples, with the probability of each of their tokens."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from data.text.base import Tokenizer
from model.config import TransformerConfig
from model.generate import Sampling, generate, prepare
from printable import escaped
from train.chat.model import padded_width
from train.inspect.tokens import Tokens, coloured, text_of

_generate = jax.jit(generate, static_argnames=("config", "sampling"))
_prepare = jax.jit(prepare, static_argnums=0)


class Answer(NamedTuple):
    """One answer.

    Attributes:
      text. ids: [n] int32, with the id that ended it. texts: of each id.
      logprobs: [n] float32, of each under the distribution that it was drawn from.
      ended: whether the model ended it; else it was cut.
    """

    text: str
    ids: np.ndarray
    texts: tuple[str, ...]
    logprobs: np.ndarray
    ended: bool


class Answers(Sequence[Answer]):
    """The answers to one prompt. `title` names the model and how they were sampled."""

    def __init__(self, title: str, answers: Sequence[Answer]):
        self.title, self._answers = title, list(answers)

    def __getitem__(self, index):
        return self._answers[index]

    def __len__(self) -> int:
        return len(self._answers)

    def __iter__(self) -> Iterator[Answer]:
        return iter(self._answers)

    def _heads(self) -> list[str]:
        return [
            f"{i}: {len(a.ids)} tokens{'' if a.ended else ', cut'}, log-probability "
            f"{float(a.logprobs.sum()):.1f}"
            for i, a in enumerate(self)
        ]

    def __repr__(self) -> str:
        parts = zip(self._heads(), self, strict=True)
        return "\n".join([self.title, *(f"\n{head}\n{escaped(a.text)}" for head, a in parts)])

    def _repr_html_(self) -> str:
        blocks = []
        for head, answer in zip(self._heads(), self, strict=True):
            p = np.exp(answer.logprobs)
            hints = [f"probability {x:.3f}" for x in p]
            blocks.append(f"<div>{html.escape(head)}</div>{coloured(answer.texts, 1 - p, hints)}")
        title = f"{self.title}; the deeper the colour, the less likely the token"
        return f"<div><b>{html.escape(title)}</b>{''.join(blocks)}</div>"


def sample(
    title: str, config: TransformerConfig, params: object, tokenizer: Tokenizer, tokens: Tokens,
    sampling: Sampling, seed: int,
) -> Answers:  # fmt: skip
    """Samples answers to a prompt.

    Args:
      params: of `Transformer(config)`. tokens: the prompt.

    Raises:
      ValueError: the prompt leaves no room for the answer.
    """
    room = config.max_length - sampling.max_new_tokens
    length = len(tokens.ids)
    if length > room:
        raise ValueError(
            f"the prompt has {length} tokens, and beside an answer of {sampling.max_new_tokens} "
            f"the context of {config.max_length} has room for {max(room, 0)}; give fewer "
            "max_new_tokens"
        )
    width = padded_width(length, room)
    prompt, mask = np.zeros((1, width), np.int32), np.zeros((1, width), bool)
    prompt[0, width - length :], mask[0, width - length :] = tokens.ids, True
    keys = jax.random.split(jax.random.key(seed), sampling.samples)
    out = _generate(config, _prepare(config, params), prompt, mask, keys, sampling)
    rows, masks, logprobs = (np.asarray(x) for x in out)
    answers = []
    for row, inside, logp in zip(rows[:, width:], masks, logprobs, strict=True):
        ids = row[inside]
        texts = tuple(text_of(tokenizer, int(i)) for i in ids)
        ended = bool(len(ids)) and int(ids[-1]) in tokenizer.stop_ids
        answers.append(Answer(tokenizer.decode(ids.tolist()), ids, texts, logp[inside], ended))
    return Answers(title, answers)
