"""All layers: their parameters, stacked, and the scan over them.

Axes: B batch, T length, D embed, L layers.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from model import cpu, quantized, taps, weights
from model.config import TransformerConfig
from model.kernels.base import RESIDUALS
from model.kernels.dispatch import takes_last_queries
from model.layers.attention import Carry, Rows
from model.layers.block import block
from model.layers.low_precision import FORMATS, quantize_weights
from model.layers.moe import RouterStats
from model.layers.norm import MEAN_SQUARE
from model.layers.rotary import rotary_settings, rotation
from model.sharding import constrain, platform


def remat_policy(name: str) -> Callable:
    """The `jax.checkpoint` policy of a value of config.remat: the arrays of a layer that are saved
    for the backward pass.

    Outputs are saved by name: a policy that looks for matmuls does not see those in
    `cpu.matmul`.
    """
    policies = jax.checkpoint_policies
    if name == "full":
        return policies.nothing_saveable
    if name == "offload":
        return policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[MEAN_SQUARE],
            names_which_can_be_offloaded=[
                "layer_input", *sorted(weights.saved_outputs("qkv")), RESIDUALS
            ],
            offload_src="device",
            offload_dst="pinned_host",
        )  # fmt: skip
    of_kernels = () if name in ("matmuls", "projections") else (RESIDUALS,)
    return policies.save_only_these_names(*weights.saved_outputs(name), *of_kernels, MEAN_SQUARE)


class _LayerWeights(nn.Module):
    """Declares the parameters of one layer."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, carry):
        for weight in weights.rows(self.config, "layers"):
            weights.create(self, weight, self.config)
        return carry, None


def init_layers(config: TransformerConfig) -> nn.Module:
    """A module that creates the parameters of all layers, stacked: `name` [L, …].

    Kinds of layer differ in what they compute, not in their parameters.
    """
    return nn.scan(
        _LayerWeights,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=config.num_layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )(config)


def split_layers(params: Mapping[str, Any]) -> dict[str, Any]:
    """Stacked parameters as one tree a layer, {"0": …}: where layers are unrolled, a loop around
    them then slices no weights in every iteration."""
    count = len(jax.tree.leaves(params)[0])
    return {str(i): jax.tree.map(lambda x, i=i: x[i], params) for i in range(count)}


def transpose_layers(config: TransformerConfig, layers: Mapping[str, Any]) -> dict[str, Any]:
    """`split_layers` with each projection a `cpu.TransposedWeight` in the activations' dtype,
    except experts and int8 weights."""

    def transpose(name, w):
        if not weights.is_adaptable(name) or quantized.is_quantized(w):
            return w
        weight = weights.adaptable(name)
        if weight.stacked > 1:
            return w
        D = math.prod(w.shape[: weight.inputs])
        rows = cpu.transposed_weight(w.reshape(D, -1).astype(config.activation_dtype))
        # Split over heads and mlp as before: over the embedding, the gather would leave it whole.
        inputs, outputs = weights.inner_axes(weight, config)
        return cpu.TransposedWeight(constrain(rows, f"act_{outputs[0]}", f"act_{inputs[0]}"))

    return {i: {name: transpose(name, w) for name, w in own.items()} for i, own in layers.items()}


def _split_final(params: Mapping[str, Any], count: int) -> tuple[Any, Any]:
    """(All layers but the last, the last), of `count` stacked ones. A split's gradient is one
    concatenation."""
    leaves, tree = jax.tree.flatten(params)
    parts = [jnp.split(x, [count - 1]) for x in leaves]
    first, last = zip(*((others, final[0]) for others, final in parts))
    return jax.tree.unflatten(tree, first), jax.tree.unflatten(tree, last)


def run_layers(
    config: TransformerConfig, params: Mapping[str, Any], carry: Carry, rows: Rows
) -> tuple[Carry, RouterStats | None]:
    """All layers: a scan over the repeats of the layer pattern, then the layers left over.

    Args:
      params: tree of [L, …], or of `split_layers`. carry, rows: of `block`.

    Returns:
      (the carry, RouterStats with a leading [L] or None).
    """
    kinds, cache = config.layer_kinds, carry[1]
    P = len(kinds)
    if config.matmul in FORMATS and cache is None:  # decoding reads the weights as they are
        params = quantize_weights(params, config.matmul)
    if cache is None and platform() == "tpu":
        rotations = {
            kind: rotation(rows.positions, config.head_dim, *rotary_settings(config, kind))
            for kind in dict.fromkeys(kinds)
        }
        # Without a barrier XLA would compute the sines anew in each layer.
        rows = rows._replace(rotations=jax.lax.optimization_barrier(rotations))

    def layer(kind, carry, params, in_scan, last=0):
        def run(params, carry):
            return block(config, kind, params, carry, rows, last)

        # Decoding has no backward pass, and a tapped value could not leave a rematerialised layer.
        if config.remat != "none" and cache is None and not taps.active():
            policy = remat_policy(config.remat)
            run = jax.checkpoint(run, policy=policy, prevent_cse=not in_scan)
        return run(params, carry)

    if "0" in params or taps.active():
        x, cache, _ = carry
        for i in range(config.num_layers):
            # A prompt is read for the cache and its last position.
            is_short = i == config.num_layers - 1 and cache is not None and rows.slot is None
            kind, last = kinds[i % P], rows.last if is_short else 0
            own = params[str(i)] if "0" in params else jax.tree.map(lambda w, i=i: w[i], params)
            carry = x, cache, i
            with taps.scope(f"layers.{i}"):
                (x, cache, _), _ = layer(kind, carry, own, in_scan=False, last=last)
        return (x, cache, config.num_layers), None

    def sequence(kinds, carry, params):
        """Layers of these kinds, of params [len(kinds), …]. Consecutive layers of one kind are
        one scan, so that one layer is compiled for each such run, not for each place of the
        pattern."""
        stats, start = [], 0
        for kind, neighbours in itertools.groupby(kinds):
            count = len(list(neighbours))
            run_params = jax.tree.map(lambda x, a=start, b=start + count: x[a:b], params)
            unroll = 1 if config.scan_unroll else count
            run = functools.partial(layer, kind, in_scan=True)
            carry, run_stats = jax.lax.scan(run, carry, run_params, unroll=unroll)
            stats.append(run_stats)
            start += count
        return carry, jax.tree.map(lambda *x: jnp.concatenate(x), *stats)

    def period(carry, params):
        if P == 1:
            return layer(kinds[0], carry, params, in_scan=True)
        return sequence(kinds, carry, params)

    count = config.num_layers
    if (
        is_short := rows.last
        and cache is None
        and takes_last_queries(config, rows.positions.shape[1])
    ):
        params, final = _split_final(params, count)
        count -= 1
    repeats = count // P
    scanned, rest = params, count - repeats * P
    if P > 1:
        scanned = jax.tree.map(lambda x: x[: repeats * P].reshape(repeats, P, *x.shape[1:]), params)
    unroll = max(min(config.scan_unroll or repeats, repeats), 1)
    carry, stats = jax.lax.scan(period, carry, scanned, unroll=unroll)
    if P > 1:
        stats = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stats)
    if rest:
        rest_params = jax.tree.map(lambda x: x[repeats * P :], params)
        carry, rest_stats = sequence(kinds[:rest], carry, rest_params)
        stats = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), stats, rest_stats)
    if is_short:
        carry, _ = layer(kinds[count % P], carry, final, in_scan=False, last=rows.last)
    return carry, stats
