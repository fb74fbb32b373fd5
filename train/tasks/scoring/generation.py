"""Answers to prompts: batched by length, sampled until each is stopped by an id or a text.

Axes: B prompts, n samples a prompt, P prompt length (left padded), R response length.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data.text.base import Tokenizer
from model import sharding
from model.config import TransformerConfig
from model.generate import Decoding, Sampling, advance, begin, prepare
from ranges import ConfigError
from train.tasks.base import Answer, Generation
from train.tasks.scoring.tokens import encode_prompt, prefix_id

# Tokens that are sampled between two searches for stop texts.
BETWEEN = 16
# Prompts are padded to this many tokens at least; of longer ones each doubling has four widths.
NARROW = 32


class PromptIds(NamedTuple):
    """A prompt as ids.

    Attributes:
      number: on which its random keys depend. stop: texts that end an answer. sampling: with the
        tokenizer's ids.
    """

    number: int
    ids: list[int]
    stop: Sequence[str]
    sampling: Sampling


def batch_width(length: int, most: int) -> int:
    """The width of a batch whose longest prompt has `length` tokens, at most `most`."""
    step = max(NARROW, (1 << length.bit_length()) >> 3)
    return min(-(-length // step) * step, most)


def first_stop(text: str, stop: Sequence[str]) -> int:
    """The index of the first stop text; -1 without one."""
    return min((i for s in stop if s and (i := text.find(s)) >= 0), default=-1)


class AnswerSampler:
    """Answers of one architecture.

    Args:
      rows: answers that each of the mesh's batch shards samples at once, unless one prompt alone
        has more samples.
    """

    def __init__(
        self, config: TransformerConfig, tokenizer: Tokenizer, mesh: jax.sharding.Mesh, rows: int
    ):
        self.config, self.tokenizer, self.mesh, self.rows = config, tokenizer, mesh, rows
        self._prepare = jax.jit(partial(prepare, config))
        self._begin = jax.jit(self._start, static_argnames="sampling")
        self._advance = jax.jit(self._go_on, static_argnames="sampling", donate_argnames="state")
        self._fetch = jax.jit(lambda *arrays: arrays, out_shardings=sharding.replicated(mesh))

    def _start(self, params, prompts, mask, numbers, seed, sampling: Sampling) -> Decoding:
        """The first token of each answer; its draws depend on the seed, the number of its request
        and its own among the samples."""
        request_keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)
        fold_in_samples = jax.vmap(jax.random.fold_in, (None, 0))
        keys = jax.vmap(fold_in_samples, (0, None))(request_keys, jnp.arange(sampling.samples))
        return begin(self.config, params, prompts, mask, keys.reshape(-1), sampling)

    def _go_on(self, params, state, running, until, sampling: Sampling) -> Decoding:
        """The next tokens of the answers that are `running` [B·n]."""
        state = state._replace(alive=state.alive & running)
        return advance(self.config, params, state, sampling, until)

    def prompt(self, number: int, request: Generation) -> PromptIds:
        """A request with its number as ids."""
        ids = encode_prompt(self.tokenizer, request.prompt) or [prefix_id(self.tokenizer)]
        sampling = self.sampling(
            request.max_new_tokens, temperature=request.temperature, samples=request.samples
        )
        return PromptIds(number, ids, request.stop, sampling)

    def sampling(self, max_new_tokens: int, **settings: Any) -> Sampling:
        """A Sampling with the tokenizer's ids.

        Raises:
          ConfigError: the answer alone would fill the context.
        """
        if max_new_tokens >= (most := self.config.max_length):
            raise ConfigError(
                f"max_new_tokens={max_new_tokens} leaves no room for a prompt in the {most} tokens "
                "that the model reads; give fewer"
            )
        ids = self.tokenizer
        return Sampling(
            max_new_tokens,
            stop_ids=ids.stop_ids,
            pad_id=ids.pad_id,
            banned_ids=ids.banned_ids,
            **settings,
        )

    def __call__(
        self, params: Any, prompts: Sequence[PromptIds], seed: int,
        done: Collection[int] = frozenset(),
    ) -> Iterator[tuple[int, tuple[Answer, ...]]]:  # fmt: skip
        """Yields (number of a prompt, its answers) as they are sampled.

        Args:
          done: numbers of prompts that are not needed; a batch with nothing else is skipped.

        Raises:
          FloatingPointError: a log-probability is not finite.
        """
        groups: dict[Sampling, list[PromptIds]] = {}
        for prompt in prompts:
            groups.setdefault(prompt.sampling, []).append(prompt)
        if all(prompt.number in done for prompt in prompts):
            return
        with jax.set_mesh(self.mesh):
            params = self._prepare(params)
        for sampling, group in groups.items():
            group.sort(key=lambda prompt: (-len(prompt.ids), prompt.number))
            shards = sharding.batch_shards(self.mesh)
            # A batch that is the only one has no more prompts than it needs.
            needed = -(-len(group) // shards)
            size = min(max(self.rows // sampling.samples, 1), needed) * shards
            for start in range(0, len(group), size):
                batch = group[start:][:size]
                if any(prompt.number not in done for prompt in batch):
                    yield from self._answers(params, batch, size, seed)

    def _answers(
        self, params: Any, group: Sequence[PromptIds], size: int, seed: int
    ) -> Iterator[tuple[int, tuple[Answer, ...]]]:
        """Yields the answers of one batch of `size` prompts, of which `group` are real."""
        sampling = group[0].sampling
        n, room = sampling.samples, self.config.max_length - sampling.max_new_tokens
        width = batch_width(max(len(prompt.ids) for prompt in group), room)
        prompts, mask = np.zeros((size, width), np.int32), np.zeros((size, width), bool)
        numbers = np.zeros(size, np.int32)
        for row, (number, ids, *_) in enumerate(group):
            kept = ids[-width:]
            prompts[row, width - len(kept) :], mask[row, width - len(kept) :] = kept, True
            numbers[row] = number
        local = sharding.local_rows(self.mesh, size)
        inputs = [sharding.put_batch(x[local], self.mesh) for x in (prompts, mask, numbers)]
        with jax.set_mesh(self.mesh):
            state = self._begin(params, *inputs, seed, sampling=sampling)
            texts, cut = self._texts(params, state, group)
        for row, (number, ids, *_) in enumerate(group):
            own = range(row * n, (row + 1) * n)
            lost = max(len(ids) - room, 0)
            yield number, tuple(Answer(texts[i], cut[i], lost) for i in own)

    def _texts(
        self, params: Any, state: Decoding, group: Sequence[PromptIds]
    ) -> tuple[list[str], list[bool]]:
        """(the answers, whether each ended at the largest number of tokens) to the first prompts of
        a batch, those of `group`.

        Raises:
          FloatingPointError: a log-probability is not finite.
        """
        sampling = group[0].sampling
        R, n = sampling.max_new_tokens, sampling.samples
        rows, count, until = len(state.ids), len(group) * n, 1
        local = sharding.local_rows(self.mesh, rows)
        texts, running = [""] * count, np.arange(rows) < count
        while True:
            response, mask, alive, logprobs = jax.device_get(
                self._fetch(state.response, state.response_mask, state.alive, state.logprobs)
            )
            for row in np.flatnonzero(running).tolist():
                prompt = group[row // n]
                if not np.isfinite(logprobs[row]).all():
                    raise FloatingPointError(
                        f"request {prompt.number}: a sampled token's log-probability is not finite"
                    )
                text = self.tokenizer.decode(response[row, mask[row]])
                end = first_stop(text, prompt.stop)
                texts[row] = text[:end] if end >= 0 else text
                running[row] = end < 0 and alive[row]
            if until == R or not running.any():
                return texts, running[:count].tolist()
            until = min(until + BETWEEN, R)
            put = sharding.put_batch(running[local], self.mesh)
            state = self._advance(params, state, put, until, sampling=sampling)
