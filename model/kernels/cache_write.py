"""One new column of every row of a cache of keys or values, written in place on TPU.

XLA's update of one column for all rows makes the slots the outermost axis of the cache, and then
copies each layer into the order in which attention reads it, at every token. Its update of a column
a row is a loop over rows, of several microseconds each. Here a row's block of columns is read,
changed and written back, and the transfers of the rows overlap.

Axes: L layers, B rows, K key/value heads, S slots, N head size.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec as P

from model.sharding import ACTIVATION_AXES, batch_shards, partition_spec


def write_column(
    layers: Array, new: Array, layer: Array | int, slots: Array, interpret: bool = False
) -> Array:
    """layers [L, B, K, S, N] with new [B, K, 1, N] at the slots [B] of one layer.

    Args:
      interpret: run in Pallas' interpreter, for tests.
    """
    write = partial(_on_device, interpret=interpret)
    index = jnp.asarray(layer, jnp.int32).reshape(1)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return write(layers, new, index, slots)
    divides = layers.shape[1] % batch_shards(mesh) == 0
    rows = partition_spec(("act_batch",), ACTIVATION_AXES) if divides else P(None)
    heads = partition_spec(("act_kv_heads", "act_slot", "act_head_dim"), ACTIVATION_AXES)
    return jax.shard_map(
        write,
        in_specs=(P(None, *rows, *heads), P(*rows, *heads), P(None), P(*rows)),
        out_specs=P(None, *rows, *heads),
        check_vma=False,  # Pallas calls do not say over which axes their results vary
    )(layers, new, index, slots)


def _on_device(layers, new, layer, slots, interpret):
    _, B, K, _, N = layers.shape
    size = 32 // layers.dtype.itemsize  # slots of a tile of the TPU's memory

    def block(b, layer, slots):
        return layer[0], b, 0, slots[b] // size, 0

    shape = (1, 1, K, size, N)
    return pl.pallas_call(
        partial(_kernel, size=size),
        out_shape=jax.ShapeDtypeStruct(layers.shape, layers.dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(B,),
            in_specs=[
                pl.BlockSpec((1, K, 1, N), lambda b, layer, slots: (b, 0, 0, 0)),
                pl.BlockSpec(shape, block),
            ],
            out_specs=pl.BlockSpec(shape, block),
        ),
        input_output_aliases={3: 0},  # the cache, counted with the two scalar arguments
        interpret=interpret,
    )(layer, slots, new, layers)


def _kernel(layer, slots, new, block, out, *, size):
    del layer
    slot = slots[pl.program_id(0)] % size
    old = block[0, 0]  # [K, size, N]
    # Registers of the oldest chips select in 32 bits alone; the conversion is exact.
    wide = jnp.int32 if old.dtype == jnp.int8 else jnp.float32
    is_new = jax.lax.broadcasted_iota(jnp.int32, old.shape, 1) == slot
    out[0, 0] = jnp.where(is_new, new[0].astype(wide), old.astype(wide)).astype(old.dtype)
