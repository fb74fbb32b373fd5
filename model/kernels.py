"""Attention that never holds a [T, S] matrix: the backends behind model/attention.py.

`splash` is JAX's Pallas kernel for TPU, `cudnn` cuDNN's flash attention on NVIDIA, and `chunked`
the same computation in plain XLA, for everything else. All three see the rows of one device.

Axes: B batch, T query length, S key length, H query heads, K key/value heads, G = H // K query
heads a key head, N head size; b length of a block.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash_lib
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

# Far below any logit, and finite: a row with no visible key (padding) softmaxes to a mean, not NaN.
MASKED = -1e30
# What the backward pass of a kernel reads beside its arguments; a remat policy may save the name.
RESIDUALS = "attention_residuals"
# The TPU's registers hold 128 lanes; Pallas blocks are multiples of it.
LANES = 128
# Keys up to which `auto` takes a form whose memory grows with T·S (`xla`, and cuDNN's bias).
LONG = 2048

# Products of queries, keys, values and weights are summed in float32, whatever dtype they have.
einsum32 = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


class Settings(NamedTuple):
    """What is static of an attention.

    Attributes:
      window: keys a query sees at most, its own included; 0 is all.
      softcap: logits x become softcap·tanh(x / softcap); 0 leaves them.
      scale: of the queries; 0 is 1/√N.
      block: queries and keys of a block. compute_block: keys that splash takes at once.
      interpret: run the TPU kernel in Pallas' interpreter, for tests.
    """

    window: int = 0
    softcap: float = 0.0
    scale: float = 0.0
    block: int = 1024
    compute_block: int = 512
    interpret: bool = False


class BackendError(ValueError):
    """A backend that cannot run what is asked of it."""


def choose(backend: str, platform: str, length: int, head_dim: int, dtype, softcap: float) -> str:
    """The backend that runs: `backend`, or for `auto` the best one of the platform.

    Args:
      platform: of the devices: `cpu`, `gpu`, `cuda`, `tpu`. length: queries that a device holds of
        a row. dtype: of the queries.

    Raises:
      BackendError: the backend that was asked for cannot run here. The message says why.
    """
    nvidia = platform in ("gpu", "cuda")
    obstacles = {"xla": "", "chunked": "", "splash": "", "cudnn": ""}
    if platform != "tpu":
        obstacles["splash"] = f"it is a TPU kernel, and this is {platform}"
    elif length % LANES:
        obstacles["splash"] = f"rows of {length} tokens are not a multiple of {LANES}"
    if not nvidia:
        obstacles["cudnn"] = f"it runs on NVIDIA GPUs, and this is {platform}"
    elif softcap:
        obstacles["cudnn"] = "cuDNN has no soft cap"
    elif jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        obstacles["cudnn"] = f"it computes in bfloat16, and model.dtype is {jnp.dtype(dtype)}"
    elif head_dim > 128 or head_dim % 8:
        obstacles["cudnn"] = f"heads of {head_dim} are over 128 or not a multiple of 8"
    if backend == "auto":
        if not obstacles["splash"]:
            return "splash"
        if length > LONG:
            return "chunked"
        return "xla" if obstacles["cudnn"] else "cudnn"
    if obstacles[backend]:
        raise BackendError(
            f"model.attention={backend}: {obstacles[backend]}; "
            "set --config.model.attention=auto to take what runs here"
        )
    return backend


def check_branches(backend: str, length: int, shards: int, window: int) -> None:
    """Segments that fork (`branch_ids` of model/attention.py) run in plain XLA alone.

    Raises:
      BackendError: it would be another backend, too long a row, a split one, or a window.
    """
    obstacles = {
        f"model.attention={backend} does not know them": backend not in ("auto", "xla"),
        f"rows of {length} tokens are longer than {LONG}": length > LONG,
        "mesh.sequence splits rows": shards > 1,
        "this architecture has a sliding window": window > 0,
    }
    for obstacle, is_there in obstacles.items():
        if is_there:
            raise BackendError(
                f"candidates that share a prompt: {obstacle}; set --config.data.share_prompt=False"
            )


def sees(queries, keys, window: int):
    """Whether keys are visible to queries, both by index: causal, and within the window."""
    mask = queries >= keys
    if window:
        mask &= queries - keys < window
    return mask


# --- splash: Pallas, TPU ---


def fit_block(block: int, length: int) -> int:
    """The largest multiple of 128 that is at most `block` and divides `length`, at least 128."""
    fits = [b for b in range(LANES, min(block, length) + 1, LANES) if length % b == 0]
    return fits[-1] if fits else LANES


def splash_kernel(order: np.ndarray, length: int, group: int, settings: Settings):
    """The kernel of one key head, for `splash`: which blocks are visible, found in advance.

    Args:
      order: [shards, T] int32, the index in the row of each query that a shard holds.
      length: S, keys. group: G.

    Returns:
      A pytree of arrays and functions; `kernel.manual_sharding_spec` shards its queries.
    """
    shards, T = order.shape
    window = (settings.window - 1 if settings.window else None, 0)
    mask = masks.LocalMask((shards * T, length), window, 0)
    mask.q_sequence = order.reshape(-1).astype(np.int32)
    # A shard holds two runs of neighbours (model/sequence.py): a block should lie within one.
    queries = fit_block(settings.block, T // 2 if shards > 1 and T % (2 * LANES) == 0 else T)
    keys = fit_block(settings.block, length)
    compute = fit_block(settings.compute_block, keys)
    sizes = splash_lib.BlockSizes(
        block_q=queries, block_kv=keys, block_kv_compute=compute,
        block_q_dkv=queries, block_kv_dkv=keys, block_kv_dkv_compute=compute,
        block_q_dq=queries, block_kv_dq=keys,
    )  # fmt: skip
    return splash_lib.make_splash_mqa(
        masks.MultiHeadMask([mask] * group),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=shards,
        attn_logits_soft_cap=settings.softcap or None,
        residual_checkpoint_name=RESIDUALS,
        interpret=settings.interpret,
    )


def splash(q, k, v, q_segments, kv_segments, kernel, settings: Settings):
    """q [B, T, H, N]; k, v [B, S, K, N]; segments [B, T], [B, S] -> [B, T, H, N]."""
    B, T, H, N = q.shape
    K = k.shape[2]
    q = (q * (settings.scale or N**-0.5)).reshape(B, T, K, H // K, N)
    ids = splash_lib.SegmentIds(q_segments, kv_segments)
    over_heads = jax.vmap(kernel, in_axes=(0, 0, 0, None))
    out = jax.vmap(over_heads)(
        q.transpose(0, 2, 3, 1, 4), k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3), ids
    )  # [B, K, G, T, N]
    return out.transpose(0, 3, 1, 2, 4).reshape(B, T, H, N)


# --- cuDNN: NVIDIA ---


def cudnn(q, k, v, q_segments, kv_segments, order, settings: Settings):
    """As `splash`. Segments reach cuDNN as a bias, [B, 1, T, S] in the activations' dtype.

    Args:
      order: [T] int32, the index in the row of each query.
    """
    mask = sees(order[:, None], jnp.arange(k.shape[1])[None, :], settings.window)
    mask = mask[None] & (q_segments[:, :, None] == kv_segments[:, None, :])
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask[:, None], scale=settings.scale or None, implementation="cudnn"
    )


# --- chunked: plain XLA ---


def visible_blocks(order: np.ndarray, length: int, settings: Settings) -> np.ndarray:
    """Which blocks of keys each block of queries sees, with no regard to segments.

    Args:
      order: [shards, T], as in `splash_kernel`. length: S.

    Returns:
      [shards, P, 3] int32: (block of queries, block of keys, 1), filled up with (0, 0, 0).
    """
    b = settings.block
    starts = np.arange(0, length, b)
    ends = np.minimum(starts + b, length) - 1
    lists = []
    for row in order:
        pairs = []
        for i in range(-(-len(row) // b)):
            queries = row[i * b : (i + 1) * b]
            seen = starts <= queries.max()
            if settings.window:
                seen &= queries.min() - ends < settings.window
            pairs += [(i, j, 1) for j in np.flatnonzero(seen)]
        lists.append(pairs)
    longest = max(map(len, lists))
    filled = [pairs + [(0, 0, 0)] * (longest - len(pairs)) for pairs in lists]
    return np.array(filled, np.int32)


def chunked(q, k, v, q_segments, kv_segments, order, blocks, settings: Settings):
    """As `splash`: online softmax over the visible blocks (Rabe & Staats 2021, arXiv:2112.05682;
    the gradient as in Dao et al. 2022, arXiv:2205.14135). Memory grows with T and S, not T·S.

    Args:
      order: [T] int32, the index in the row of each query. blocks: [P, 3] of `visible_blocks`.
    """
    B, T, H, N = q.shape
    S, K, b = k.shape[1], k.shape[2], settings.block
    T_full, S_full = -(-T // b) * b, -(-S // b) * b

    def blocked(x, full, fill):
        """[B, T, …] -> [T / b, B, b, …], the last block filled up."""
        width = [(0, 0)] * x.ndim
        width[1] = (0, full - x.shape[1])
        x = jnp.pad(x, width, constant_values=fill)
        return x.reshape(B, full // b, b, *x.shape[2:]).swapaxes(0, 1)

    queries = blocked(q.reshape(B, T, K, H // K, N), T_full, 0)
    # What fills up has segments that no token has, so that nothing sees it.
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
    """Of one pair of blocks: (q, k, v, float32 logits [B, K, G, b, b], who sees whom [B, b, b])."""
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
    total = jnp.where(total > 0, total, 1.0)  # what fills up the last block sees nothing
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
