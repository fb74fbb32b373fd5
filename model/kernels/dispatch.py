"""Attention over whole rows: chooses a backend, and runs it on each device's share.

Axes: B batch, T query length, S key length, H query heads, K key/value heads, G = H // K query
heads a key head, N head size.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from model import context_parallel
from model.config import TransformerConfig
from model.kernels.base import INPUTS, LANES, RESIDUALS, Settings, visible
from model.kernels.chunked import chunked, visible_blocks
from model.kernels.cudnn import cudnn
from model.kernels.plain import attend, causal_attention
from model.sharding import ACTIVATION_AXES, batch_shards, partition_spec, platform

# Keys up to which `auto` takes a form whose memory grows with T·S (`xla`, and cuDNN's bias).
LONG = 2048


class BackendError(ValueError):
    """A backend that cannot run here, or not this architecture."""


def choose(
    backend: str, platform: str, length: int, head_dim: int, dtype: DTypeLike, softcap: float
) -> str:
    """The backend to run: `backend`, or for `auto` the platform's best.

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
            f"model.attention={backend}: {obstacles[backend]}; set model.attention=auto to choose "
            "one that runs here"
        )
    return backend


def takes_last_queries(config: TransformerConfig, length: int) -> bool:
    """Whether the final layer computes the last positions alone where no other is wanted: in plain
    XLA on CPU, where layers are unrolled anyway. A mixture's router counts all positions."""
    plain = config.attention == "xla" or (config.attention == "auto" and length <= LONG)
    unrolled = not config.scan_unroll and not config.num_experts
    return platform() == "cpu" and context_parallel.shards() == 1 and plain and unrolled


def check_branches(backend: str, length: int, shards: int, window: int) -> None:
    """Checks that segments may fork (`branch_ids` of `causal_attention`), which plain XLA alone
    computes.

    Raises:
      BackendError: another backend, too long a row, a split one, or a window.
    """
    obstacles = {
        f"model.attention={backend} does not support them": backend not in ("auto", "xla"),
        f"rows of {length} tokens are longer than {LONG}": length > LONG,
        "mesh.sequence splits rows": shards > 1,
        "this architecture has a sliding window": window > 0,
    }
    for obstacle, is_there in obstacles.items():
        if is_there:
            raise BackendError(
                f"candidates that share a prompt: {obstacle}; set data.share_prompt=False"
            )


def attention(
    q: Array, k: Array, v: Array, segment_ids: Array, config: TransformerConfig,
    branch_ids: Array | None = None,
    *, window: int = 0, softcap: float = 0.0, scale: float = 0.0,
) -> Array:  # fmt: skip
    """Causal attention within segments, by the backend that `config.attention` names.

    Each device computes its rows and heads; over the mesh axis `sequence` also its share of the
    queries, to which it gathers the keys and values of the whole row (model/context_parallel.py).

    Args:
      q: [B, T, H, N]; k, v: [B, T, K, N]; segment_ids: [B, T] int32. All in the order of
        `context_parallel.split`, which is the row's own without a `sequence` axis. Where
        `takes_last_queries`, q may be of the last positions alone.
      branch_ids: as for `causal_attention`, which then runs on every platform.
      window, softcap, scale: as for `causal_attention`.

    Returns:
      [B, T, H, N].

    Raises:
      BackendError: the backend does not run on this platform or with this architecture.
    """
    B, T, H, N = q.shape
    shards = context_parallel.shards()
    length = T // shards
    backend = "xla"
    if branch_ids is None:
        backend = choose(config.attention, platform(), length, N, q.dtype, softcap)
    if backend != "splash":  # which names its own
        q, k, v = map(checkpoint_name, (q, k, v), INPUTS)
    if branch_ids is not None:
        check_branches(config.attention, length, shards, window)
        out = causal_attention(q, k, v, segment_ids, branch_ids, softcap=softcap, scale=scale)
        return checkpoint_name(out, RESIDUALS)
    if backend == "xla" and shards == 1:
        out = causal_attention(q, k, v, segment_ids, window=window, softcap=softcap, scale=scale)
        return checkpoint_name(out, RESIDUALS)
    # Blocks within one run of consecutive tokens see the fewest keys.
    block = min(config.attention_block, length // 2 if shards > 1 else length)
    settings = Settings(window, softcap, scale, block, config.attention_compute_block)
    order = context_parallel.order(T, shards)
    plan: Any  # a tree of arrays whose leading axis is the shards
    if backend == "splash":
        from model.kernels.splash import splash_kernel  # imports Pallas for TPU

        plan = splash_kernel(order, T, H // k.shape[2], settings)
    elif backend == "chunked":
        plan = jnp.asarray(order), jnp.asarray(visible_blocks(order, T, settings))
    else:
        plan = (jnp.asarray(order),)
    run = partial(_on_device, backend, settings, shards)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return run(q, k, v, segment_ids, plan)
    # Rows that the mesh does not divide (a last batch, a single prompt) are computed on every
    # device.
    rows = P(None) if B % batch_shards(mesh) else partition_spec(("act_batch",), ACTIVATION_AXES)

    def spec(*names):
        return P(*rows, *partition_spec(names, ACTIVATION_AXES, "attention"))

    heads = spec("act_length", "act_heads", "act_head_dim")
    kv_heads = spec("act_length", "act_kv_heads", "act_head_dim")
    if backend == "splash":
        plan_spec = plan.manual_sharding_spec(NamedSharding(mesh, P(None, context_parallel.AXIS)))
    else:
        plan_spec = P(context_parallel.AXIS)
    return jax.shard_map(
        run,
        in_specs=(heads, kv_heads, kv_heads, spec("act_length"), plan_spec),
        out_specs=heads,
        check_vma=False,  # Pallas calls do not say over which axes their results vary
    )(q, k, v, segment_ids, plan)


def _on_device(backend, settings, shards, q, k, v, segment_ids, plan):
    """Attention of one device's queries to the keys of its rows; arrays as it holds them."""
    kv_segments = segment_ids
    if shards > 1:
        k, v, kv_segments = (context_parallel.gather(x) for x in (k, v, segment_ids))
    if backend == "splash":
        from model.kernels.splash import splash

        return splash(q, k, v, segment_ids, kv_segments, plan, settings)
    order = plan[0][0]  # this shard's
    if backend == "chunked":
        return chunked(q, k, v, segment_ids, kv_segments, order, plan[1][0], settings)
    if backend == "cudnn":
        out = cudnn(q, k, v, segment_ids, kv_segments, order, settings)
        return checkpoint_name(out, RESIDUALS)
    mask = visible(order, jnp.arange(k.shape[1]), settings.window)
    mask = mask[None] & (segment_ids[:, :, None] == kv_segments[:, None, :])
    out = attend(q, k, v, mask, softcap=settings.softcap, scale=settings.scale)
    return checkpoint_name(out, RESIDUALS)


def prompt_attention(
    q: Array, k: Array, v: Array, segment_ids: Array, config: TransformerConfig, **settings
) -> Array:
    """`attention` of a prompt in prefill: over itself alone, as the cache is empty.

    Prompts are of any length, so it takes the platform's best backend for theirs. They are not
    split over the mesh axis `sequence`.
    """
    if context_parallel.shards() > 1:
        return causal_attention(q, k, v, segment_ids, **settings)
    config = dataclasses.replace(config, attention="auto")
    return attention(q, k, v, segment_ids, config, **settings)
