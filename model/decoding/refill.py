"""Sampling in a few slots: prompts take the slots of answers that end (continuous batching).

The cache holds `slots` rows in place of one for every answer, and time follows the mean length of
answers rather than the longest. Each answer has the columns, and so the sums, that it has in
`model.generate`: its tokens are the same, whatever its slot. A refill stays within a batch shard:
shards read and answer their own prompts, so that no row of the cache moves between devices. Long
prompts are read a few at a time, and with several widths those of a refill are of similar lengths,
and read without the padding that all of them have.

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
# Columns of prompts of a shard that are read at once: enough for large products, whose operands
# would otherwise grow with the length of the prompts.
READ = 4096


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
    row_keys: Array, sampling: Sampling, slots: int, widths: int = 1,
) -> Sample:  # fmt: skip
    """The responses of `model.generate.generate` with a cache of `slots` rows. A refill has a cache
    of its own for the prompts that it reads, of 1/`PARTS` as many rows.

    Args:
      slots: answers that are sampled at once: a multiple of the mesh's batch shards, at least n
        for each.
      widths: number of widths, up to P, to which the prompts of a refill are padded; each is
        compiled.
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
    order = jnp.argsort(jnp.sum(inputs.mask, axis=2), axis=1)  # by length, where that matters
    if widths > 1:
        inputs = _in_order(inputs, order, n)
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
        state = _refill(config, params, inputs, state, sampling, F, widths)
        decode = partial(_decode, config, params, inputs, sampling=sampling)
        return jax.lax.while_loop(is_full, decode, state)

    state = jax.lax.while_loop(is_unfinished, body, state)
    if widths > 1:
        back = jnp.argsort(_answers_of(order, n), axis=1)
        response, logprobs, length = (
            _by_shard(_take(x, back)) for x in (state.response, state.logprobs, state.length)
        )
        state = state._replace(response=response, logprobs=logprobs, length=length)
    prompts = jnp.repeat(prompts, n, axis=0)
    response, logprobs = (x.reshape(rows, R) for x in (state.response, state.logprobs))
    mask = jnp.arange(R) < state.length.reshape(rows, 1)
    return Sample(jnp.concatenate([prompts, response], axis=1), mask, logprobs)


def _new_cache(config, params, sampling, rows, P) -> KVCache:
    split, length = "0" in params["layers"], P + sampling.max_new_tokens
    return init_cache(config, rows, length, split_layers=split, int8=sampling.int8_cache)


def _by_shard(x: Array) -> Array:
    return constrain(x, "act_batch", *["act_slot"] * (x.ndim - 1))


def _answers_of(prompts, n):
    """[G, k·n], the answers to prompts [G, k] of a shard."""
    return (prompts[..., None] * n + jnp.arange(n)).reshape(len(prompts), -1)


def _take(x, index):
    """The rows [G, k] of each shard of x [G, m, …]."""
    return jax.vmap(lambda x, index: x[index])(x, index)


def _in_order(inputs, order, n) -> _Inputs:
    """Inputs whose prompts [G, M/n] have an order, with their answers."""
    index = order, order, _answers_of(order, n)
    return _Inputs(*(_by_shard(_take(*pair)) for pair in zip(inputs, index, strict=True)))


def _refill(config, params, inputs, state, sampling, F, widths) -> _State:
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
    sizes = [-(-P * (i + 1) // widths) for i in range(widths)]
    reads = [partial(_read, config, params, sampling, G, width) for width in sizes]
    longest = jnp.max(jnp.sum(mask, axis=1))
    logits, fresh = jax.lax.switch(
        jnp.sum(longest > jnp.array(sizes[:-1], jnp.int32)), reads, prompts, mask
    )

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


def _read(config, params, sampling, G, width, prompts, mask) -> tuple[Array, KVCache]:
    """(logits after prompts [G·k, P], a cache of them alone), which reads the last `width` columns.
    A cache has as many columns as the slots': with fewer, sums over them may round otherwise."""
    rows, P = prompts.shape
    k, most = rows // G, max(READ // width, 1)
    count = next(c for c in range(1, k + 1) if k % c == 0 and k // c <= most)

    def read(part):
        prompts, mask = part
        cache = _new_cache(config, params, sampling, len(prompts), P)
        segments = mask.astype(jnp.int32)
        return step(config, params, prompts, prompt_positions(mask), segments, cache)

    def split(x):  # [count, G·k/count, width], of each shard its own rows
        x = x[:, P - width :].reshape(G, count, k // count, width).swapaxes(0, 1)
        return constrain(x.reshape(count, -1, width), "act_slot", "act_batch", "act_slot")

    def join(x, axis):
        x = jnp.moveaxis(x, 0, axis)
        shape = x.shape
        x = x.reshape(*shape[:axis], count, G, -1, *shape[axis + 2 :]).swapaxes(axis, axis + 1)
        return x.reshape(*shape[:axis], rows, *shape[axis + 2 :])

    def shift(x, slots_last):
        """x with its first `width` slots at those of the prompts' ends."""
        return jnp.roll(x, P - width, axis=-1 if slots_last else -2)

    if count == 1:
        logits, cache = read((prompts[:, P - width :], mask[:, P - width :]))
    else:
        logits, cache = jax.lax.map(read, (split(prompts), split(mask)))
        keys, values = (jax.tree.map(lambda x: join(x, x.ndim - 5), x) for x in cache[:2])
        logits, cache = join(logits, 0), KVCache(keys, values, join(cache.segment_ids, 0))
    if width == P:
        return logits, cache
    keys = map_arrays(shift, keys_transposed(config), cache.keys)
    values = map_arrays(shift, False, cache.values)
    return logits, KVCache(keys, values, shift(cache.segment_ids, True))


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
