"""Fingerprints of arrays: any bit, any mesh."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from model.sharding import MeshConfig, make_mesh
from train.checkpoints import fingerprints

DTYPES = (np.float32, ml_dtypes.bfloat16, np.float16, ml_dtypes.float8_e4m3fn, np.int32, np.int8,
          np.uint16, np.int64, np.float64)  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_every_bit_of_every_dtype_counts(dtype):
    values = np.arange(1, 7).reshape(2, 3).astype(dtype)
    content, found = values.tobytes(), set()
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        array = np.frombuffer(bytes(flipped), dtype).reshape(2, 3)
        found.add(fingerprints.survey({"item": {"x": array}})[0]["item"]["x"])
    assert fingerprints.survey({"item": {"x": values}})[0]["item"]["x"] not in found
    assert len(found) == 8 * len(content)


def test_dtype_shape_and_order_count():
    x = np.arange(12, dtype=np.float32)
    trees = [x, x[::-1].copy(), x.reshape(3, 4), x.reshape(4, 3), x.astype(np.int32)]
    texts = fingerprints.survey({str(i): {"x": tree} for i, tree in enumerate(trees)})[0]
    assert len({tuple(text.values()) for text in texts.values()}) == len(trees)
    assert (
        fingerprints.survey({"a": {"x": np.array([True, False])}})[0]
        != fingerprints.survey({"a": {"x": np.array([False, True])}})[0]
    )


def test_the_mesh_does_not_count():
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    x = np.random.default_rng(0).standard_normal((8, 6, 4)).astype(np.float32)
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("fsdp", None, "tensor")))
    with jax.set_mesh(mesh):
        assert fingerprints.survey({"a": {"x": spread}}) == fingerprints.survey({"a": {"x": x}})


def test_those_of_frozen_weights_are_what_they_always_were():
    """The formula with which old workdirs were written, on the host."""
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(ml_dtypes.bfloat16)
    for array in (jnp.asarray(x), jnp.asarray(x, jnp.float32)):
        bits = np.asarray(array, np.float32).view(np.uint32).reshape(-1)
        factors = np.arange(bits.size, dtype=np.uint32) * np.uint32(2654435761) | np.uint32(1)
        total = int(np.sum((bits ^ (bits >> 15)) * factors, dtype=np.uint32))
        assert fingerprints.fingerprint({"up": array}) == f"{total:08x}"


def test_arrays_that_are_not_finite_are_named():
    trees = {"policy": {"a": jnp.ones(2), "b": jnp.array([1, jnp.inf])}, "n": {"c": jnp.arange(3)}}
    assert fingerprints.survey(trees)[1] == ["policy/b"]
