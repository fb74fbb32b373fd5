"""Sampling with a key-value cache: one prefill, then one token a step until every row has stopped.

Ids in, ids out: the caller supplies the ids that stop a row. Rollouts, evaluation and chat all use
`generate`.

Axes: B prompts, n samples a prompt, P prompt length (left padded), R response length,
V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

import ranges
from model import cpu
from model.config import TransformerConfig
from model.kernels.base import MASKED
from model.layers.kv_cache import KVCache, init_cache, repeat_rows
from model.layers.stack import split_layers, transpose_layers
from model.transformer import Transformer
from model.vocabulary import log_probs
from ranges import CountOr0, NonNegative, Range, Size

# Ids in a block of `pick`.
_BLOCK = 128


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Settings of sampling; hashable, so that they can be a static argument.

    Attributes:
      max_new_tokens: R. temperature: 0 takes the likeliest id.
      top_k: keep the k likeliest ids; 0 keeps all. top_p: keep the smallest set of likeliest ids
        with this much probability (Holtzman et al. 2020, arXiv:1904.09751); 1 keeps all.
      stop_ids: ids that end a response and belong to it. pad_id: fills the row after them.
      banned_ids: ids never sampled, such as padding and role markers.
      samples: n, responses a prompt; the prompt is prefilled once for all of them.
      int8_cache: whether keys and values are cached in int8.
    """

    max_new_tokens: Size
    temperature: NonNegative = 1.0
    top_k: CountOr0 = 0
    top_p: Annotated[float, Range(0, 1, "(]")] = 1.0
    stop_ids: tuple[int, ...] = ()
    pad_id: CountOr0 = 0
    banned_ids: tuple[int, ...] = ()
    samples: Size = 1
    int8_cache: bool = False

    def __post_init__(self):
        ranges.check(self)


class Sample(NamedTuple):
    """Responses and their log-probabilities.

    Attributes:
      tokens: [B·n, P + R] int32, prompt and response; `pad_id` after the stop id. Rows are ordered
        [prompt, sample].
      response_mask: [B·n, R] bool, true through and including the stop id.
      logprobs: [B·n, R] float32, of each token under the distribution it was drawn from: after
        the temperature, over what top-k, top-p and banned ids leave. With none of these it is the
        whole softmax at the temperature, which is what PPO and GRPO compare with; greedy decoding
        gives that of temperature 1.
    """

    tokens: Array
    response_mask: Array
    logprobs: Array


def prompt_positions(mask: Array) -> Array:
    """[B, P] bool -> int32 positions that count real tokens only, on whichever side the padding
    is."""
    return jnp.maximum(jnp.cumsum(mask.astype(jnp.int32), axis=-1) - 1, 0)


def filter_logits(logits: Array, sampling: Sampling) -> Array:
    """Logits [B, V], `MASKED` at ids that top-k, top-p and `banned_ids` exclude."""
    V = logits.shape[-1]
    if sampling.banned_ids:
        banned = jnp.isin(jnp.arange(V), jnp.array(sampling.banned_ids))
        logits = jnp.where(banned, MASKED, logits)
    if sampling.top_k:
        kth = jax.lax.top_k(logits, min(sampling.top_k, V))[0][:, -1:]
        logits = jnp.where(logits < kth, MASKED, logits)
    if sampling.top_p < 1:
        order = jnp.sort(logits, axis=-1)[:, ::-1]
        before = jnp.cumsum(jax.nn.softmax(order, axis=-1), axis=-1)
        is_kept = before - jax.nn.softmax(order, axis=-1) < sampling.top_p
        least = jnp.min(jnp.where(is_kept, order, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < least, MASKED, logits)
    return logits


def pick(logits: Array, uniform: Array) -> tuple[Array, Array]:
    """Draws an index of each row: where the cumulative sum of probabilities passes a number.

    It takes one random number a row in place of one a logit, and sums in two steps, over blocks and
    then within one, so that there is no cumulative sum over [B, V].

    Args:
      logits: [B, V] float32. uniform: [B] in [0, 1).

    Returns:
      ([B] int32, never one of probability 0; their log-probabilities [B] float32).
    """
    B, V = logits.shape
    top = jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(logits - top)
    blocks = jnp.pad(weights, ((0, 0), (0, -V % _BLOCK))).reshape(B, -1, _BLOCK)
    sums = jnp.cumsum(jnp.sum(blocks, axis=-1), axis=-1)
    total = sums[:, -1]
    block, rest = _first_above(sums, uniform * total)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    offset, _ = _first_above(jnp.cumsum(inside, axis=-1), rest)
    ids = block * _BLOCK + offset
    picked = jnp.take_along_axis(logits - top, ids[:, None], axis=-1)[:, 0]
    return ids, picked - jnp.log(total)


def _first_above(sums, target):
    """(The index of the first of each row of cumulative sums [B, n] above `target` [B], the target
    less the sum before it)."""
    # Rounding may have brought the target to the last sum, which none is above.
    target = jnp.minimum(target, jnp.nextafter(sums[:, -1], -1.0))
    index = jnp.sum(sums <= target[:, None], axis=-1, dtype=jnp.int32)
    before = jnp.take_along_axis(sums, jnp.maximum(index - 1, 0)[:, None], axis=-1)[:, 0]
    return index, target - jnp.where(index > 0, before, 0.0)


def prepare(config: TransformerConfig, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Parameters in the form that decoding reads: where layers are unrolled, a tree a layer, on CPU
    perhaps transposed.

    `generate` applies it to parameters of any other form; a caller that samples often from the same
    parameters prepares them once.
    """
    if config.scan_unroll or "0" in params["layers"]:
        return params
    layers = split_layers(params["layers"])
    if cpu.stores_transposed(config.activation_dtype):
        layers = transpose_layers(config, layers)
    return {**params, "layers": layers}


def generate(
    config: TransformerConfig, params: Mapping[str, Any], prompts: Array, prompt_mask: Array,
    row_keys: Array, sampling: Sampling,
) -> Sample:  # fmt: skip
    """Samples n responses a prompt. Trace it under `jit`, with `config` and `sampling` static.

    Args:
      params: of `Transformer(config)`, or of `prepare`.
      prompts: [B, P] int32, left padded; prompt_mask: [B, P] bool, true on real tokens.
      row_keys: [B·n] random keys, one a response: a draw depends on its key alone.
    """
    params = prepare(config, params)
    state = begin(config, params, prompts, prompt_mask, row_keys, sampling)
    state = advance(config, params, state, sampling, sampling.max_new_tokens)
    if sampling.samples > 1:
        prompts = jnp.repeat(prompts, sampling.samples, axis=0)
    tokens = jnp.concatenate([prompts, state.response], axis=1)
    return Sample(tokens, state.response_mask, state.logprobs)


class Decoding(NamedTuple):
    """Responses that are being sampled.

    Attributes:
      t: int32, the number of columns of the responses that are filled.
      cache: of prompts and responses, P + R slots. ids: [B·n] int32, the newest tokens.
      alive: [B·n] bool, false for rows that have stopped.
      response, response_mask, logprobs: [B·n, R], as in `Sample`.
      prompt_length: [B·n] int32. uniform: [R, B·n], the random number of each draw.
    """

    t: Array
    cache: KVCache
    ids: Array
    alive: Array
    response: Array
    response_mask: Array
    logprobs: Array
    prompt_length: Array
    uniform: Array


def begin(
    config: TransformerConfig, params: Mapping[str, Any], prompts: Array, prompt_mask: Array,
    row_keys: Array, sampling: Sampling,
) -> Decoding:  # fmt: skip
    """Reads the prompts and draws the first token of each response.

    `begin`, and `advance` in any number of calls up to R, sample the tokens of `generate`.

    Args:
      params: of `prepare`. The others: as for `generate`.
    """
    B, P = prompts.shape
    R, n = sampling.max_new_tokens, sampling.samples
    split = "0" in params["layers"]
    cache = init_cache(config, B, P + R, split_layers=split, int8=sampling.int8_cache)
    segments = prompt_mask.astype(jnp.int32)
    positions = prompt_positions(prompt_mask)
    logits, cache = step(config, params, prompts, positions, segments, cache)
    if n > 1:
        logits, segments = (jnp.repeat(x, n, axis=0) for x in (logits, segments))
        cache = repeat_rows(cache, n)
    prompt_length = jnp.sum(segments, axis=-1)
    state = Decoding(
        t=jnp.int32(0),
        cache=cache,
        ids=jnp.full(B * n, sampling.pad_id, jnp.int32),
        alive=jnp.ones(B * n, bool),
        response=jnp.full((B * n, R), sampling.pad_id, jnp.int32),
        response_mask=jnp.zeros((B * n, R), bool),
        logprobs=jnp.zeros((B * n, R), jnp.float32),
        prompt_length=prompt_length,
        uniform=uniforms(row_keys, R),
    )
    return _write(state, logits, sampling)


def advance(
    config: TransformerConfig, params: Mapping[str, Any], state: Decoding, sampling: Sampling,
    until: Array | int,
) -> Decoding:  # fmt: skip
    """Draws tokens until every row has `until` of them, at most R, or has stopped.

    Args:
      params: of `prepare`. until: a number, traced or not.
    """
    P = state.cache.segment_ids.shape[1] - sampling.max_new_tokens
    until = jnp.minimum(until, sampling.max_new_tokens)

    def body(state):
        t = state.t
        segment = jax.lax.dynamic_index_in_dim(state.response_mask, t - 1, axis=1)
        positions = (state.prompt_length + t - 1)[:, None]
        logits, cache = step(
            config, params, state.ids[:, None], positions, segment.astype(jnp.int32), state.cache,
            P + t - 1,
        )  # fmt: skip
        return _write(state._replace(cache=cache), logits, sampling)

    def is_running(state):
        # Without stop ids there is nothing to reduce over all devices.
        return (state.t < until) & (jnp.any(state.alive) if sampling.stop_ids else True)

    return jax.lax.while_loop(is_running, body, state)


def uniforms(row_keys: Array, R: int) -> Array:
    """The random numbers of all draws, [R, rows] in [0, 1), at once: they take little memory, and a
    hash in every step takes time."""
    keys = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))(row_keys, jnp.arange(R))
    return jax.vmap(jax.vmap(jax.random.uniform))(keys)


def step(config: TransformerConfig, params: Mapping[str, Any], *args: Any) -> Any:
    """`Transformer.step` of parameters."""
    return Transformer(config).apply({"params": params}, *args, method=Transformer.step)


def draw(logits: Array, uniform: Array, sampling: Sampling) -> tuple[Array, Array]:
    """(The next id [B] int32 of each row, its log-probability [B] float32), given logits [B, V] and
    random numbers [B] in [0, 1)."""
    if sampling.temperature == 0:
        ids = jnp.argmax(filter_logits(logits, sampling), axis=-1).astype(jnp.int32)
        return ids, log_probs(logits, ids, 1.0)
    return pick(filter_logits(logits / sampling.temperature, sampling), uniform)


def stops(ids: Array, sampling: Sampling) -> Array:
    """Whether ids end a row."""
    return jnp.isin(ids, jnp.array(sampling.stop_ids, jnp.int32))


def _write(state: Decoding, logits: Array, sampling: Sampling) -> Decoding:
    """Draws the next token of every row that has not stopped."""
    t = state.t
    uniform = jax.lax.dynamic_index_in_dim(state.uniform, t, keepdims=False)
    ids, logprobs = draw(logits, uniform, sampling)
    ids = jnp.where(state.alive, ids, sampling.pad_id)
    put = partial(jax.lax.dynamic_update_index_in_dim, index=t, axis=1)
    return state._replace(
        t=t + 1,
        ids=ids,
        alive=state.alive & ~stops(ids, sampling),
        response=put(state.response, ids),
        response_mask=put(state.response_mask, state.alive),
        logprobs=put(state.logprobs, jnp.where(state.alive, logprobs, 0)),
    )
