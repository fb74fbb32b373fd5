"""Grouped matmuls: rows that are sorted by group, each by the matrix of its group.

Axes: R rows, n groups, D inputs, F outputs.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm, tgmm

from model.kernels.base import LANES

# Blocks of the Pallas kernel, in VMEM twice with their float32 sums: about 10 MiB in bfloat16.
TILE_ROWS, TILE = 512, 1024


def ragged_matmul(rows: Array, w: Array, sizes: Array, transposed: bool = False) -> Array:
    """Rows by the matrix of their group, by XLA.

    Args:
      rows: [R, D], sorted by group. w: [n, D, F], or [n, F, D] if `transposed`.
      sizes: [n] int32, with a sum of at most R.

    Returns:
      [R, F].
    """
    return jax.lax.ragged_dot(rows, w.swapaxes(1, 2) if transposed else w, sizes)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def grouped_matmul(
    rows: Array, w: Array, sizes: Array, transposed: bool = False, interpret: bool = False
) -> Array:
    """`ragged_matmul` by JAX's Pallas kernels for TPU.

    XLA multiplies every row with every group there, and masks: n times the work.

    Returns:
      [R, F]; rows beyond the groups are undefined.
    """
    R = rows.shape[0]
    rows = _whole_tiles(rows)
    tiling = _tiling(rows.shape[0], rows.shape[1], w.shape[1 if transposed else 2])
    return gmm(rows, w, sizes, rows.dtype, tiling, transpose_rhs=transposed, interpret=interpret)[
        :R
    ]


def _grouped_fwd(rows, w, sizes, transposed, interpret):
    return grouped_matmul(rows, w, sizes, transposed, interpret), (rows, w, sizes)


def _grouped_bwd(transposed, interpret, saved, g):
    rows, w, sizes = saved
    d_rows = grouped_matmul(g, w, sizes, not transposed, interpret)
    # The rows of each group by each other; `tgmm` transposes its left operand back itself.
    left, right = (_whole_tiles(x) for x in ((g, rows) if transposed else (rows, g)))
    tiling = _tiling(left.shape[0], left.shape[1], right.shape[1])
    dw = tgmm(left.swapaxes(0, 1), right, sizes, w.dtype, tiling, interpret=interpret)
    return d_rows, dw, None


grouped_matmul.defvjp(_grouped_fwd, _grouped_bwd)


def _whole_tiles(rows: Array) -> Array:
    """[R, D] with rows of zeros, up to whole tiles."""
    return jnp.pad(rows, ((0, -len(rows) % _row_tile(len(rows))), (0, 0)))


def _row_tile(R: int) -> int:
    return min(TILE_ROWS, -(-R // LANES) * LANES)


def _tiling(R: int, D: int, F: int) -> tuple[int, int, int]:
    return _row_tile(R), min(TILE, -(-D // LANES) * LANES), min(TILE, -(-F // LANES) * LANES)
