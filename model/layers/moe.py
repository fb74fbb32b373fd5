"""Mixtures of experts: each token passes through the MLPs of the few experts that the router picks.

No token is dropped: rows are sorted by expert and multiplied group by group, by
`jax.lax.ragged_dot` or on TPU JAX's Pallas kernel. Experts are split over the mesh axis `expert`,
as the batch is: the tokens of all devices of that axis are gathered, each device computes its
experts' part of them, and the results are summed and scattered back.

Axes: B batch, T length, D embed, F mlp, E experts, k experts a token, M tokens, R rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from model import cpu, quantized, taps
from model.config import TransformerConfig
from model.kernels.grouped import grouped_matmul, ragged_matmul
from model.layers.mlp import ACTIVATIONS, Activation
from model.layers.projection import adapter, read
from model.sharding import BATCH_AXES, PARAMETER_AXES, batch_shards, platform
from model.taps import tap

# Mesh axes that split a weight's axis `embed`.
FSDP = PARAMETER_AXES["embed"]

# A weight of the experts, and A and B of its adapter if it has one.
Matrix: TypeAlias = tuple[Array, ...]


class RouterStats(NamedTuple):
    """Sums over the real tokens of a batch, from which the router's losses are computed.

    Attributes (each with a leading [L] when of all layers):
      chosen: [E] float32, counts of the tokens that picked each expert.
      probability: [E] float32, sums of its router probabilities.
      z: float32 scalar, of logsumexp(logits)².
    """

    chosen: Array
    probability: Array
    z: Array


def route(
    config: TransformerConfig, logits: Array, real: Array
) -> tuple[Array, Array, RouterStats]:
    """The experts of each token.

    Args:
      logits: [B, T, E] float32. real: [B, T] bool, false on padding, which is routed but not
        counted.

    Returns:
      (ids [B, T, k] int32, weights [B, T, k] float32, RouterStats).
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    weights, ids = jax.lax.top_k(probabilities, config.experts_per_token)
    if config.renormalize_experts:
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    picked = jnp.sum(ids[..., None] == jnp.arange(config.num_experts), axis=-2)  # [B, T, E]
    z = jax.nn.logsumexp(logits, axis=-1) ** 2
    stats = RouterStats(
        jnp.sum(jnp.where(real[..., None], picked, 0), axis=(0, 1)).astype(jnp.float32),
        jnp.sum(jnp.where(real[..., None], probabilities, 0.0), axis=(0, 1)),
        jnp.sum(jnp.where(real, z, 0.0)),
    )
    return ids, weights, stats


@jax.custom_vjp
def dispatch(x: Array, order: Array, place: Array) -> Array:
    """x [M, D] -> [R, D], the rows of (token, choice) pairs `order` [R]; pair i has token i // k.

    `place` [M, k] is its inverse: the row of each pair, R for one that has none. Rows that no
    pair points to are never read, so their content does not matter. The gradient of `dispatch` is
    `combine`, and the reverse: gathers in place of scatters.
    """
    return x[order // place.shape[1]]


@jax.custom_vjp
def combine(rows: Array, order: Array, place: Array) -> Array:
    """rows [R, D] -> [M, D], the sum of the rows of each token's pairs.

    A gather for each of the k choices: XLA:TPU adds rows that lie apart ten times as fast as those
    of one array [M, k, D].
    """
    choices = (picked(rows, place[:, j]).astype(jnp.float32) for j in range(place.shape[1]))
    return sum(choices, jnp.float32(0)).astype(rows.dtype)


def picked(rows: Array, place: Array) -> Array:
    """rows [R, D] by index `place`, 0 for R."""
    found = rows[jnp.minimum(place, rows.shape[0] - 1)]
    return jnp.where((place < rows.shape[0])[..., None], found, 0)


dispatch.defvjp(
    lambda x, *index: (dispatch(x, *index), index),
    lambda index, g: (combine(g, *index), None, None),
)
combine.defvjp(
    lambda rows, *index: (combine(rows, *index), index),
    lambda index, g: (dispatch(g, *index), None, None),
)


def expert_mlps(
    x: Array, ids: Array, weights: Array, gate: Matrix, up: Matrix, down: Matrix,
    first: Array | int, activation: Activation, product: Callable[..., Array],
    transposed: bool = False,
) -> Array:  # fmt: skip
    """The weighted sum of the outputs of this device's experts for each token.

    Args:
      x: [M, D]; ids: [M, k] int32 over all experts; weights: [M, k] float32.
      gate, up: ([n, D, F],); down: ([n, F, D],), of the experts first..first+n-1; each with A and B
        of its adapter (model/lora.py) if it has one.
      activation: of the gate. product: `ragged_matmul` or its like.
      transposed: down is ([n, D, F],).

    Returns:
      [M, D] in x's dtype; 0 for a token that none of these experts has.
    """
    (M, k), n = ids.shape, gate[0].shape[0]
    here = ids.reshape(-1) - first
    here = jnp.where((here >= 0) & (here < n), here, n)
    # A token's experts differ, so this many rows hold whatever the router does.
    R = M * min(k, n)
    order = jnp.argsort(here)  # by expert, those of other devices last
    place = jnp.zeros(M * k, jnp.int32).at[order].set(jnp.arange(M * k, dtype=jnp.int32))
    order, place = order[:R], jnp.where(here < n, place, R).reshape(M, k)
    sizes = jnp.sum(here[:, None] == jnp.arange(n), axis=0, dtype=jnp.int32)

    def project(x, w, *adapter, transposed=False):
        out = product(x, w, sizes, transposed)
        if adapter:
            a, b = adapter
            out = out + product(product(x, a, sizes), b, sizes)
        return out

    def tap_rows(name, rows):
        """`tap` of [R, F] as [1, M, k, F], those of each token together."""
        if not taps.active():
            return rows
        return tap(name, picked(rows, place)[None]).reshape(M * k, -1)[order]

    rows = dispatch(x, order, place)
    gate = tap_rows("mlp.gate", checkpoint_name(project(rows, *gate), "gate"))  # [R, F]
    h = activation(gate) * tap_rows("mlp.up", checkpoint_name(project(rows, *up), "up"))
    # Weighted before the last product: the gradient of the weights then needs no result of it.
    weight = dispatch(weights.reshape(-1, 1), order, place.reshape(-1, 1))  # [R, 1]
    h = (tap_rows("mlp.hidden", h) * weight).astype(x.dtype)
    return combine(project(h, *down, transposed=transposed), order, place)


def mixture(
    config: TransformerConfig, params: Mapping, x: Array, segment_ids: Array, cached: bool
) -> tuple[Array, RouterStats]:
    """A mixture of experts in place of the MLP.

    Args:
      x: [B, T, D]. params: {name: weight} of the layer. segment_ids: [B, T] int32, 0 is padding.
      cached: the step is one of decoding; otherwise T is split over the mesh axis `sequence`.

    Returns:
      ([B, T, D], RouterStats).
    """
    logits = tap("router.logits", cpu.matmul(x.astype(jnp.float32), params["router"]))
    ids, weights, stats = route(config, logits, segment_ids > 0)
    ids, weights = tap("router.experts", ids), tap("router.weights", weights)
    gate, up, down = (
        (
            quantized.dequantize(read(params, name, x.dtype), x.dtype),
            *adapter(params, name, x.dtype),
        )
        for name in ("expert_gate", "expert_up", "expert_down")
    )
    activation = ACTIVATIONS[config.activation]
    return experts(x, ids, weights, gate, up, down, activation, cached), stats


def experts(
    x: Array, ids: Array, weights: Array, gate: Matrix, up: Matrix, down: Matrix,
    activation: Activation, cached: bool,
) -> Array:  # fmt: skip
    """`expert_mlps` of all experts, however the current mesh divides them.

    Args:
      x: [B, T, D]; ids, weights: [B, T, k]; gate, up: ([E, D, F],); down: ([E, F, D],), each with
        its adapter's A and B if it has one.
      cached: as of `mixture`. Otherwise each device gathers the experts' weights itself.

    Returns:
      [B, T, D].
    """
    B, D = x.shape[0], x.shape[-1]
    k = ids.shape[-1]
    mesh = jax.sharding.get_abstract_mesh()

    def flat(x, ids, weights):
        return x.reshape(-1, D), ids.reshape(-1, k), weights.reshape(-1, k)

    product = grouped_matmul if platform() == "tpu" else ragged_matmul
    if mesh.empty:
        tokens, ids, weights = flat(x, ids, weights)
        out = expert_mlps(tokens, ids, weights, gate, up, down, 0, activation, product)
        return out.reshape(x.shape)
    # On axis 1: of the last axis, as XLA would gather `down`, the kernel needs a copy of the whole.
    gather = not cached
    # Rows that the mesh does not divide (a last batch, a single prompt) are on every device.
    split_rows = B % batch_shards(mesh) == 0

    def on_device(x, ids, weights, gate, up, down):
        tokens, ids, weights = flat(x, ids, weights)
        if split_rows:
            tokens, ids, weights = (
                jax.lax.all_gather(a, "expert", tiled=True) for a in (tokens, ids, weights)
            )
        if gather:
            gate, up, down = (
                (jax.lax.all_gather(w, FSDP, axis=1, tiled=True), *adapter)
                for w, *adapter in (gate, up, (down[0].swapaxes(1, 2), *down[1:]))
            )
        first = jax.lax.axis_index("expert") * gate[0].shape[0]
        out = expert_mlps(
            tokens, ids, weights, gate, up, down, first, activation, product, transposed=gather
        )
        out = jax.lax.psum(out, "tensor")  # each has a part of F
        if split_rows:
            out = jax.lax.psum_scatter(out, "expert", tiled=True)
        else:
            out = jax.lax.psum(out, "expert")
        return out.reshape(x.shape)

    whole, inputs, outputs = P("expert"), P("expert", "tensor"), P("expert", None, "tensor")
    widen, narrow = [outputs, whole, outputs], [inputs, inputs, whole]
    if gather:
        widen[0], narrow[0] = P("expert", FSDP, "tensor"), P("expert", "tensor", FSDP)
    rows = P(BATCH_AXES if split_rows else None, None if cached else "sequence")
    specs = (tuple(spec[: len(w)]) for spec, w in ((widen, gate), (widen, up), (narrow, down)))
    return jax.shard_map(
        on_device,
        in_specs=(rows, rows, rows, *specs),
        out_specs=rows,
        check_vma=False,  # Pallas calls do not say over which axes their results vary
    )(x, ids, weights, gate, up, down)
