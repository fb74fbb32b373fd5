"""The TPU kernel that writes a column of the cache, in Pallas' interpreter, against an index."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.kernels.cache_write import write_column

L, B, K, N = 2, 3, 2, 8


@pytest.mark.parametrize("dtype, slots", [("bfloat16", 40), ("float32", 24), ("int8", 64)])
def test_one_column_of_each_row_changes(dtype, slots):
    """In the first, a middle and the last tile, which 40 slots of bfloat16 fill in half."""
    rng = np.random.default_rng(0)
    layers = rng.integers(-100, 100, (L, B, K, slots, N)).astype(np.int8)
    new, at = np.full((B, K, 1, N), 101, np.int8), np.array([0, slots // 2, slots - 1])
    args = (jnp.asarray(x, dtype) for x in (layers, new))
    got = jax.jit(write_column, static_argnames="interpret")(*args, 1, at, interpret=True)
    for row, slot in enumerate(at):
        layers[1, row, :, slot] = 101
    np.testing.assert_array_equal(np.asarray(got, np.int8), layers)
