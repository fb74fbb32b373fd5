"""Attention over blocks of keys in plain XLA, which holds no [T, S] matrix.

Axes: B batch, T query length, S key length, H query heads, K key/value heads, G = H // K query
heads a key head, N head size,
b length of a block.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from model.kernels.base import MASKED, RESIDUALS, Settings, einsum32, sees


def visible_blocks(order: np.ndarray, length: int, settings: Settings) -> np.ndarray:
    """The blocks of keys that each block of queries may see, segments aside.

    Args:
      order: [shards, T], as in `splash_kernel`. length: S.

    Returns:
      [shards, P, 3] int32: (block of queries, block of keys, 1), padded with (0, 0, 0).
    """
    b = settings.block
    starts = np.arange(0, length, b)
    last_keys = np.minimum(starts + b, length) - 1
    lists = []
    for row in order:
        pairs = []
        for i in range(-(-len(row) // b)):
            queries = row[i * b : (i + 1) * b]
            is_seen = starts <= queries.max()
            if settings.window:
                is_seen &= queries.min() - last_keys < settings.window
            pairs += [(i, j, 1) for j in np.flatnonzero(is_seen)]
        lists.append(pairs)
    longest = max(map(len, lists))
    padded = [pairs + [(0, 0, 0)] * (longest - len(pairs)) for pairs in lists]
    return np.array(padded, np.int32)


def chunked(
    q: Array, k: Array, v: Array, q_segments: Array, kv_segments: Array, order: Array,
    blocks: Array, settings: Settings,
) -> Array:  # fmt: skip
    """Attention with an online softmax over the visible blocks of keys (Rabe & Staats 2021,
    arXiv:2112.05682; the gradient as in Dao et al. 2022, arXiv:2205.14135). Memory grows with T and
    S, not T·S.

    Args:
      order: [T] int32, the index in the row of each query. blocks: [P, 3] of `visible_blocks`.
    """
    B, T, H, N = q.shape
    S, K, b = k.shape[1], k.shape[2], settings.block
    T_full, S_full = -(-T // b) * b, -(-S // b) * b

    def blocked(x, full, fill):
        """[B, T, …] -> [T / b, B, b, …], the last block padded."""
        width = [(0, 0)] * x.ndim
        width[1] = (0, full - x.shape[1])
        x = jnp.pad(x, width, constant_values=fill)
        return x.reshape(B, full // b, b, *x.shape[2:]).swapaxes(0, 1)

    queries = blocked(q.reshape(B, T, K, H // K, N), T_full, 0)
    # Padding has segments that no token has, so that nothing sees it.
    out = _flash(
        (queries, blocked(k, S_full, 0), blocked(v, S_full, 0)),
        blocked(q_segments, T_full, -1),
        blocked(kv_segments, S_full, -2),
        jnp.pad(order, (0, T_full - T)).reshape(-1, b),
        blocks,
        settings,
    )
    return out.swapaxes(0, 1).reshape(B, T_full, H, N)[:, :T]


def _logits(pair, qkv, q_segments, kv_segments, order, settings):
    """(q, k, v, float32 logits [B, K, G, b, b], mask [B, 1, 1, b, b]) of one pair of blocks."""
    (i, j, valid), b = pair, settings.block
    q, k, v = qkv[0][i], qkv[1][j], qkv[2][j]
    logits = einsum32("btkgn,bskn->bkgts", q, k)
    logits *= settings.scale or q.shape[-1] ** -0.5
    if settings.softcap:
        logits = settings.softcap * jnp.tanh(logits / settings.softcap)
    mask = sees(order[i][:, None], j * b + jnp.arange(b)[None, :], settings.window)
    mask = mask & (valid > 0) & (q_segments[i][:, :, None] == kv_segments[j][:, None, :])
    return q, k, v, logits, mask[:, None, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _flash(qkv, q_segments, kv_segments, order, blocks, settings):
    """qkv: q [T/b, B, b, K, G, N], k and v [S/b, B, b, K, N]; returns q's shape and dtype."""
    return _flash_fwd(qkv, q_segments, kv_segments, order, blocks, settings)[0]


def _flash_fwd(qkv, q_segments, kv_segments, order, blocks, settings):
    nq, B, b, K, G, N = qkv[0].shape

    def step(carry, pair):
        out, top, total = carry  # of all blocks: unnormalised output, largest logit, Σ exp
        i = pair[0]
        _, _, v, logits, mask = _logits(pair, qkv, q_segments, kv_segments, order, settings)
        new_top = jnp.maximum(top[i], jnp.max(jnp.where(mask, logits, MASKED), axis=-1))
        p = jnp.where(mask, jnp.exp(logits - new_top[..., None]), 0.0)
        shrink = jnp.exp(top[i] - new_top)
        seen = einsum32("bkgts,bskn->bkgtn", p.astype(v.dtype), v)
        out = out.at[i].set(out[i] * shrink[..., None] + seen)
        total = total.at[i].set(total[i] * shrink + jnp.sum(p, axis=-1))
        return (out, top.at[i].set(new_top), total), None

    zeros = jnp.zeros((nq, B, K, G, b), jnp.float32)
    start = jnp.zeros((nq, B, K, G, b, N), jnp.float32), zeros + MASKED, zeros
    (out, top, total), _ = jax.lax.scan(step, start, blocks)
    total = jnp.where(total > 0, total, 1.0)  # padding of the last block sees nothing
    out = jnp.einsum("ibkgtn->ibtkgn", out / total[..., None]).astype(qkv[0].dtype)
    out = checkpoint_name(out, RESIDUALS)
    log_total = checkpoint_name(top + jnp.log(total), RESIDUALS)
    return out, (qkv, q_segments, kv_segments, order, blocks, out, log_total)


def _flash_bwd(settings, saved, d_out):
    qkv, q_segments, kv_segments, order, blocks, out, log_total = saved
    scale = settings.scale or qkv[0].shape[-1] ** -0.5
    dot = einsum32("ibtkgn,ibtkgn->ibkgt", out, d_out)  # Σₛ p·dp of each query

    def step(carry, pair):
        dq, dk, dv = carry
        i, j, _ = pair
        q, k, v, logits, mask = _logits(pair, qkv, q_segments, kv_segments, order, settings)
        p = jnp.where(mask, jnp.exp(logits - log_total[i][..., None]), 0.0)
        dp = einsum32("btkgn,bskn->bkgts", d_out[i], v)
        ds = p * (dp - dot[i][..., None])
        if settings.softcap:
            ds *= 1 - (logits / settings.softcap) ** 2
        ds = (ds * scale).astype(q.dtype)
        dq = dq.at[i].add(einsum32("bkgts,bskn->btkgn", ds, k))
        dk = dk.at[j].add(einsum32("bkgts,btkgn->bskn", ds, q))
        dv = dv.at[j].add(einsum32("bkgts,btkgn->bskn", p.astype(q.dtype), d_out[i]))
        return (dq, dk, dv), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), qkv)
    grads, _ = jax.lax.scan(step, zeros, blocks)
    return jax.tree.map(lambda g, x: g.astype(x.dtype), grads, qkv), None, None, None, None


_flash.defvjp(_flash_fwd, _flash_bwd)
