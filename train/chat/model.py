"""A policy that answers a conversation token by token, and a reward model that scores the answer.

Axes: P prompt length (left padded), R response length, T tokens of a conversation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from data.text.base import Tokenizer
from data.text.chat import render_prompt
from model.config import TransformerConfig
from model.generate import Sampling, advance, begin, prepare
from train.chat.answer import LIMIT, STOP, Answer
from train.chat.workdirs import check_workdir
from train.config.run_names import split_step
from train.interop import opening
from train.rl.rewards import score

Messages = Sequence[Mapping[str, str]]
# Prompts are padded to this length times a power of two, so that few turns of a conversation
# compile anything.
LEAST_WIDTH = 32

_begin = jax.jit(begin, static_argnames=("config", "sampling"))
_advance = jax.jit(advance, static_argnames=("config", "sampling"), donate_argnames="state")
_score = jax.jit(score, static_argnames="config")


def padded_width(length: int, most: int) -> int:
    """The length to which a prompt is padded, at most `most`."""
    width = LEAST_WIDTH
    while width < length:
        width *= 2
    return min(width, most)


def without_oldest(messages: Messages, count: int) -> list[Mapping[str, str]]:
    """Messages without the `count` oldest questions and their answers; a system message stays."""
    first = int(messages[0]["role"] == "system")
    return [*messages[:first], *messages[first + 2 * count :]]


class ChatModel:
    """A policy with its tokenizer.

    Args:
      name: to show. model, params: of `train.interop.opening.Opened`. seed: of sampling.
      sampling: its stop ids, banned ids and padding are replaced by those of the tokenizer, its
        temperature by that of each answer.

    Attributes:
      name. limit: the largest number of tokens of an answer.

    Raises:
      ValueError: the answer alone would fill the context.
    """

    def __init__(
        self,
        name: str,
        model: TransformerConfig,
        params: Any,
        tokenizer: Tokenizer,
        sampling: Sampling,
        seed: int = 0,
    ):
        self.name, self.limit = name, sampling.max_new_tokens
        self._room = model.max_length - self.limit
        if self._room < 8:
            raise ValueError(
                f"--max_new_tokens={self.limit} leaves no room for a question in the context of "
                f"{name}, {model.max_length} tokens; give fewer"
            )
        self._model, self._tokenizer, self._seed = model, tokenizer, seed
        self._params = jax.jit(prepare, static_argnums=0)(model, params)
        self._sampling = dataclasses.replace(
            sampling,
            stop_ids=tokenizer.stop_ids,
            banned_ids=tokenizer.banned_ids,
            pad_id=tokenizer.pad_id,
        )

    def fit(self, messages: Messages) -> tuple[np.ndarray, int]:
        """(ids of a conversation that awaits an answer, the number of its oldest turns that are
        left out because they do not fit).

        Raises:
          ValueError: the last question alone does not fit, or the chat format has no place for
            these messages.
        """
        turns = sum(message["role"] == "user" for message in messages)
        for forgotten in range(turns):
            ids = render_prompt(self._tokenizer, without_oldest(messages, forgotten))
            if len(ids) <= self._room:
                return ids, forgotten
        raise ValueError(
            f"the question has {len(ids)} tokens, and the context of {self.name} has room for "
            f"{self._room} besides an answer; ask something shorter"
        )

    def stream(self, ids: np.ndarray, draw: int, temperature: float) -> Iterator[Answer]:
        """The answer after each of its tokens; it is sampled as it is read.

        Args:
          ids: of `fit`. draw: the number of the answer, from which its random key is made.
        """
        width = padded_width(len(ids), self._room)
        prompt, mask = np.zeros((1, width), np.int32), np.zeros((1, width), bool)
        prompt[0, width - len(ids) :], mask[0, width - len(ids) :] = ids, True
        key = jax.random.fold_in(jax.random.key(self._seed), draw)
        sampling = dataclasses.replace(self._sampling, temperature=temperature)
        state = _begin(self._model, self._params, prompt, mask, key[None], sampling)
        written: list[int] = []
        while True:
            written.append(int(jax.device_get(state.ids)[0]))
            end = LIMIT if len(written) == self.limit else ""
            end = STOP if written[-1] in sampling.stop_ids else end
            text = self._tokenizer.decode(written)
            # The first bytes of a character become U+FFFD until the others are there.
            yield Answer(text if end else text.rstrip("\ufffd"), len(written), end)
            if end:
                return
            state = _advance(self._model, self._params, state, sampling, len(written) + 1)


class Scorer:
    """A reward model with its tokenizer, which need not be that of the policy.

    Args:
      model, params: of `train.interop.opening.Opened`.
    """

    def __init__(self, name: str, model: TransformerConfig, params: Any, tokenizer: Tokenizer):
        self.name, self._model, self._params, self._tokenizer = name, model, params, tokenizer

    def score(self, messages: Messages, ended: bool) -> float:
        """The score of the last message, an answer. Arguments and errors are those of `row`."""
        return self._score(*self.row(messages, ended))

    def row(self, messages: Messages, ended: bool) -> tuple[np.ndarray, np.ndarray]:
        """(ids of a conversation that ends with an answer, the answer's columns among them); the
        oldest turns are left out if need be.

        Args:
          ended: whether the answer ended by itself; else it is scored without the id that ends one.

        Raises:
          ValueError: the answer does not fit the context with its question, or the chat format has
            no place for these messages.
        """
        for forgotten in range(sum(message["role"] == "user" for message in messages)):
            recent = without_oldest(messages, forgotten)
            ids, authors = self._tokenizer.render(recent)
            columns = np.flatnonzero(authors == len(recent) - 1)
            while not ended and len(columns) > 1 and ids[columns[-1]] in self._tokenizer.stop_ids:
                columns = columns[:-1]
            if len(columns) and columns[-1] < self._model.max_length:
                return ids[: columns[-1] + 1], columns
        raise ValueError(f"question and answer do not fit the context of {self.name}")

    def _score(self, ids, columns) -> float:
        width = padded_width(len(ids), self._model.max_length)
        tokens, segments = np.zeros((1, width), np.int32), np.zeros((1, width), np.int32)
        tokens[0, : len(ids)], segments[0, : len(ids)] = ids, 1
        positions = np.arange(width, dtype=np.int32)[None]
        ends = columns[:1].astype(np.int32), columns[-1:].astype(np.int32)
        scores = _score(self._model, self._params, tokens, positions, segments, *ends)
        return float(scores[0])


def open_model(workdir: epath.PathLike, sampling: Sampling, seed: int, flag: str) -> ChatModel:
    """The policy of a run, RUN@STEP or RUN@ema, which the flag `flag` names."""
    check_workdir(split_step(str(workdir))[0], flag)
    name, _, config, params, tokenizer = opening.open_model(str(workdir), "policy")
    return ChatModel(name, config, params, tokenizer, sampling, seed)


def open_scorer(workdir: epath.PathLike) -> Scorer:
    """The reward model of a run, RUN@STEP or RUN@ema, which the flag --reward names."""
    check_workdir(split_step(str(workdir))[0], "reward", "reward")
    name, _, config, params, tokenizer = opening.open_model(str(workdir), "reward")
    return Scorer(name, config, params, tokenizer)
