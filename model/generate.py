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
from model.layers.kv_cache import init_cache, repeat_rows
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
    """

    max_new_tokens: Size
    temperature: NonNegative = 1.0
    top_k: CountOr0 = 0
    top_p: Annotated[float, Range(0, 1, "(]")] = 1.0
    stop_ids: tuple[int, ...] = ()
    pad_id: CountOr0 = 0
    banned_ids: tuple[int, ...] = ()
    samples: Size = 1

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
    B, P = prompts.shape
    R, n = sampling.max_new_tokens, sampling.samples
    model = Transformer(config)
    stop_ids = jnp.array(sampling.stop_ids, jnp.int32)

    params = prepare(config, params)

    def run(*args):
        return model.apply({"params": params}, *args, method=Transformer.step)

    cache = init_cache(config, B, P + R, split_layers="0" in params["layers"])
    segments = prompt_mask.astype(jnp.int32)
    logits, cache = run(prompts, prompt_positions(prompt_mask), segments, cache)
    if n > 1:
        logits, prompts, segments = (jnp.repeat(x, n, axis=0) for x in (logits, prompts, segments))
        cache = repeat_rows(cache, n)
    prompt_length = jnp.sum(segments, axis=-1)
    # All random numbers at once: they take little memory, and a hash in every step takes time.
    keys = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))(row_keys, jnp.arange(R))
    uniform = jax.vmap(jax.vmap(jax.random.uniform))(keys)  # [R, B·n]

    def draw(logits, t):
        """The next id of each row, and its log-probability in the distribution it is drawn from."""
        if sampling.temperature == 0:
            ids = jnp.argmax(filter_logits(logits, sampling), axis=-1).astype(jnp.int32)
            return ids, log_probs(logits, ids, 1.0)
        logits = filter_logits(logits / sampling.temperature, sampling)
        return pick(logits, jax.lax.dynamic_index_in_dim(uniform, t, keepdims=False))

    def write(t, logits, alive, response, mask, logps):
        """Draws token t of every row that has not stopped: (ids, rows still alive, the response,
        its mask, its log-probabilities)."""
        ids, logp = draw(logits, t)
        ids = jnp.where(alive, ids, sampling.pad_id)
        put = partial(jax.lax.dynamic_update_index_in_dim, index=t, axis=1)
        response, mask = put(response, ids), put(mask, alive)
        logps = put(logps, jnp.where(alive, logp, 0))
        return ids, alive & ~jnp.isin(ids, stop_ids), response, mask, logps

    def body(state):
        t, cache, ids, alive, *written = state
        segment = jax.lax.dynamic_index_in_dim(written[1], t - 1, axis=1).astype(jnp.int32)
        positions = (prompt_length + t - 1)[:, None]
        logits, cache = run(ids[:, None], positions, segment, cache, P + t - 1)
        return t + 1, cache, *write(t, logits, alive, *written)

    empty = (
        jnp.full((B * n, R), sampling.pad_id, jnp.int32),
        jnp.zeros((B * n, R), bool),
        jnp.zeros((B * n, R), jnp.float32),
    )
    state = jnp.int32(1), cache, *write(0, logits, jnp.ones(B * n, bool), *empty)

    def is_running(state):
        # Without stop ids there is nothing to reduce over all devices.
        return (state[0] < R) & (jnp.any(state[3]) if sampling.stop_ids else True)

    final = jax.lax.while_loop(is_running, body, state)
    response, mask, logps = final[4:]
    return Sample(jnp.concatenate([prompts, response], axis=1), mask, logps)
