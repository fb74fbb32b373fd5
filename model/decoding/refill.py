"""Sampling in a few slots: prompts take the slots of answers that end (continuous batching).

The cache holds `slots` rows in place of one for every answer, and time follows the mean length of
answers rather than the longest. Each answer has the columns, and so the sums, that it has in
`model.generate`: its tokens are the same, whatever its slot. A refill stays within a batch shard:
shards read and answer their own prompts, so that no row of the cache moves between devices.

Axes: G batch shards; of each shard, S slots, M answers to M/n prompts with n samples a prompt, and
F answers that begin at a refill. P prompt length (left padded), R response length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from model.config import TransformerConfig
from model.generate import (
    Sample,
    Sampling,
    draw,
    prepare,
    prompt_positions,
    step,
    stops,
    uniforms,
)
from model.layers.kv_cache import KVCache, init_cache, keys_transposed, map_arrays
from model.sharding import batch_shards, constrain

# A refill waits until one of this many slots is free: prompts are read together.
PARTS = 4


class _State(NamedTuple):
    """Answers in their slots, and those that have ended.

    Attributes:
      cache: of G·S rows, P + R columns. answer: [G, S] int32, the slot's answer among the shard's.
      t: [G, S] int32, the number of its tokens. ids: [G, S] int32, the newest. alive: [G, S] bool,
      false in a free slot. prompt_length: [G, S] int32.
      begun: [G] int32, the number of answers that have had a slot.
      response: [G, M, R] int32. logprobs: [G, M, R] float32. length: [G, M] int32.
    """

    cache: KVCache
    answer: Array
    t: Array
    ids: Array
    alive: Array
    prompt_length: Array
    begun: Array
    response: Array
    logprobs: Array
    length: Array


class _Inputs(NamedTuple):
    """prompts: [G, M/n, P] int32; mask: [G, M/n, P] bool; uniform: [G, M, R] (`uniforms`)."""

    prompts: Array
    mask: Array
    uniform: Array


def _shards() -> int:
    """G, of the current mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else batch_shards(mesh)


def refill_size(slots: int, samples: int) -> int:
    """F, the answers that begin at a refill of `slots` slots: whole prompts."""
    return -(-max(slots // PARTS, 1) // samples) * samples


def generate(
    config: TransformerConfig, params: Mapping[str, Any], prompts: Array, prompt_mask: Array,
    row_keys: Array, sampling: Sampling, slots: int,
) -> Sample:  # fmt: skip
    """The responses of `model.generate.generate` with a cache of `slots` rows. A refill has a cache
    of its own for the prompts that it reads, of 1/`PARTS` as many rows.

    Args:
      slots: answers that are sampled at once: a multiple of the mesh's batch shards, at least n
        for each.
    """
    G, n, R = _shards(), sampling.samples, sampling.max_new_tokens
    rows = len(prompts) * n
    S, M = slots // G, rows // G
    params = prepare(config, params)
    inputs = _Inputs(
        _by_shard(prompts.reshape(G, M // n, -1)),
        _by_shard(prompt_mask.reshape(G, M // n, -1)),
        _by_shard(uniforms(row_keys, R).T.reshape(G, M, R)),
    )
    F, P = refill_size(S, n), prompts.shape[1]
    zeros = partial(jnp.zeros, (G, S))
    state = _State(
        cache=_new_cache(config, params, sampling, G * S, P),
        answer=zeros(jnp.int32),
        t=zeros(jnp.int32),
        ids=zeros(jnp.int32),
        alive=zeros(bool),
        prompt_length=zeros(jnp.int32),
        begun=jnp.zeros(G, jnp.int32),
        response=_by_shard(jnp.full((G, M, R), sampling.pad_id, jnp.int32)),
        logprobs=_by_shard(jnp.zeros((G, M, R), jnp.float32)),
        length=_by_shard(jnp.zeros((G, M), jnp.int32)),
    )

    def is_unfinished(state):
        return jnp.any(state.alive) | jnp.any(state.begun < M)

    def is_full(state):
        """Whether decoding goes on: too few slots are free for the prompts that wait."""
        waiting = M - state.begun
        free = jnp.sum(~state.alive, axis=1)
        is_due = jnp.sum(jnp.minimum(free, waiting)) >= jnp.sum(jnp.minimum(F, waiting))
        return jnp.any(state.alive) & (~is_due | jnp.all(waiting == 0))

    def body(state):
        state = _refill(config, params, inputs, state, sampling, F)
        decode = partial(_decode, config, params, inputs, sampling=sampling)
        return jax.lax.while_loop(is_full, decode, state)

    state = jax.lax.while_loop(is_unfinished, body, state)
    prompts = jnp.repeat(prompts, n, axis=0)
    response, logprobs = (x.reshape(rows, R) for x in (state.response, state.logprobs))
    mask = jnp.arange(R) < state.length.reshape(rows, 1)
    return Sample(jnp.concatenate([prompts, response], axis=1), mask, logprobs)


def _new_cache(config, params, sampling, rows, P) -> KVCache:
    split, length = "0" in params["layers"], P + sampling.max_new_tokens
    return init_cache(config, rows, length, split_layers=split, int8=sampling.int8_cache)


def _by_shard(x: Array) -> Array:
    return constrain(x, "act_batch", *["act_slot"] * (x.ndim - 1))


def _refill(config, params, inputs, state, sampling, F) -> _State:
    """Reads the next prompts of each shard, as many as have slots, and draws the first token of
    their answers."""
    (G, M, R), n, P = inputs.uniform.shape, sampling.samples, inputs.prompts.shape[2]
    S = state.alive.shape[1]
    free = jnp.sum(~state.alive, axis=1)
    count = jnp.minimum(jnp.minimum(free, M - state.begun), F) // n * n
    index = jnp.minimum(state.begun[:, None] // n + jnp.arange(F // n), M // n - 1)
    prompts, mask = (
        _by_shard(jnp.take_along_axis(x, index[..., None], axis=1)).reshape(-1, P)
        for x in (inputs.prompts, inputs.mask)
    )
    # As many columns as the slots have: with fewer, the sums over them may round otherwise.
    fresh = _new_cache(config, params, sampling, len(prompts), P)
    segments = mask.astype(jnp.int32)
    logits, fresh = step(config, params, prompts, prompt_positions(mask), segments, fresh)

    is_new = jnp.arange(F) < count[:, None]
    answer = jnp.where(is_new, state.begun[:, None] + jnp.arange(F), M)
    slot = jnp.argsort(state.alive, axis=1, stable=True)[:, :F]  # free slots first
    slot = jnp.where(is_new, slot, S)  # a write beyond the end is dropped
    uniform = _at(inputs.uniform, jnp.minimum(answer, M - 1), jnp.zeros_like(answer))
    ids, logprobs = draw(jnp.repeat(logits, n, axis=0), uniform.reshape(-1), sampling)
    ids, logprobs = ids.reshape(G, F), logprobs.reshape(G, F)
    lengths = jnp.repeat(jnp.sum(mask, axis=1, dtype=jnp.int32).reshape(G, -1), n, axis=1)
    is_alive = is_new & ~stops(ids, sampling) & (R > 1)
    put = jax.vmap(lambda x, slot, new: x.at[slot].set(new, mode="drop"))
    state = state._replace(
        cache=_place(config, state.cache, fresh, slot, P, n),
        answer=put(state.answer, slot, answer),
        t=put(state.t, slot, jnp.ones_like(slot)),
        ids=put(state.ids, slot, ids),
        alive=put(state.alive, slot, is_alive),
        prompt_length=put(state.prompt_length, slot, lengths),
        begun=state.begun + count,
    )
    return _record(state, answer, jnp.zeros_like(answer), ids, logprobs)


def _decode(config, params, inputs, state, sampling) -> _State:
    """Draws the next token of every answer in a slot."""
    (_, M, R), P, t = inputs.uniform.shape, inputs.prompts.shape[2], state.t
    rows = (state.ids, state.prompt_length + t - 1, state.alive.astype(jnp.int32))
    columns = jnp.maximum(P + t - 1, 0).reshape(-1)
    args = (x.reshape(-1, 1) for x in rows)
    logits, cache = step(config, params, *args, state.cache, columns)
    uniform = _at(inputs.uniform, state.answer, jnp.minimum(t, R - 1))
    ids, logprobs = draw(logits, uniform.reshape(-1), sampling)
    ids, logprobs = ids.reshape(t.shape), logprobs.reshape(t.shape)
    state = _record(state, jnp.where(state.alive, state.answer, M), t, ids, logprobs)
    return state._replace(
        cache=cache,
        t=jnp.where(state.alive, t + 1, t),
        ids=ids,
        alive=state.alive & ~stops(ids, sampling) & (t + 1 < R),
    )


def _at(x, answer, t):
    """[G, k]: x [G, M, R] of answers [G, k] at their tokens t [G, k]."""
    return jax.vmap(lambda x, answer, t: x[answer, t])(x, answer, t)


def _record(state, answer, t, ids, logprobs) -> _State:
    """Stores tokens t of answers, all [G, k]; an answer M is none."""
    put = jax.vmap(lambda x, answer, t, new: x.at[answer, t].set(new, mode="drop"))
    put_length = jax.vmap(lambda x, answer, t: x.at[answer].set(t + 1, mode="drop"))
    return state._replace(
        response=put(state.response, answer, t, ids),
        logprobs=put(state.logprobs, answer, t, logprobs),
        length=put_length(state.length, answer, t),
    )


def _place(config, cache, fresh, slot, P, n) -> KVCache:
    """The cache with the prompts of `fresh`, each n times, in slots [G, F] of their shards."""
    G = len(slot)

    def place(old, new, transposed):
        axis = old.ndim - 4  # 1 with all layers in an array
        columns = (..., slice(P)) if transposed else (..., slice(P), slice(None))

        def write(x, rows, slot):
            rows = jnp.repeat(rows[columns], n, axis=axis)
            return x.at[(*[slice(None)] * axis, slot, *columns)].set(rows, mode="drop")

        old_rows, new_rows = (
            x.reshape(*x.shape[:axis], G, -1, *x.shape[axis + 1 :]) for x in (old, new)
        )
        write_all = jax.vmap(write, (axis, axis, 0), axis)
        return write_all(old_rows, new_rows, slot).reshape(old.shape)

    segments = jax.vmap(lambda x, rows, slot: x.at[slot].set(jnp.repeat(rows, n, 0), mode="drop"))
    old, new = (x.segment_ids.reshape(G, -1, x.segment_ids.shape[1]) for x in (cache, fresh))
    return KVCache(
        map_arrays(place, keys_transposed(config), cache.keys, fresh.keys),
        map_arrays(place, False, cache.values, fresh.values),
        segments(old, new, slot).reshape(cache.segment_ids.shape),
    )
