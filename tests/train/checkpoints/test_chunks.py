"""The chunks of large arrays: layer by layer on disk, and the same when they are restored."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from model.sharding import MeshConfig, make_mesh
from train.checkpoints import chunks, networks, stored
from train.checkpoints.checkpointer import Checkpointer
from train.step import TrainState


@pytest.mark.parametrize("mesh", [dict(data=1, fsdp=1), dict(data=2, fsdp=4)], ids=str)
def test_a_stack_is_saved_layer_by_layer_and_restored_as_it_was(mesh, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "SMALL", 100)
    monkeypatch.setattr(chunks, "MOST", 3000)
    count = np.prod([*mesh.values()])
    placed = NamedSharding(make_mesh(MeshConfig(**mesh), jax.devices()[:count]), P(None, "fsdp"))
    rng = np.random.default_rng(0)

    def array(*shape):
        return jax.device_put(rng.standard_normal(shape).astype(np.float32), placed)

    policy = {"layers": {"up": array(5, 8, 32), "norm": array(5, 4)}, "embedding": array(64, 32)}
    rest = {"mu": array(5, 64)}, {"s": np.zeros(2)}, np.array(0)
    state = TrainState(np.array(1), {"policy": policy}, *rest)
    checkpoints = Checkpointer(tmp_path, keep=1)
    checkpoints.save(state, {}, wait=True)
    abstract = networks.to_abstract(state)
    step, restored, _ = checkpoints.restore_newest(abstract)
    checkpoints.close()
    assert step == 1
    jax.tree.map(np.testing.assert_array_equal, restored.trainable, state.trainable)
    assert restored.trainable["policy"]["layers"]["up"].sharding == placed
    path = stored.open_newest(tmp_path)
    saved = ocp.PyTreeCheckpointHandler().metadata(path / "policy").tree
    shapes = {n: x.storage.chunk_shape for n, x in saved["layers"].items()}
    assert shapes["up"][0] == 1 and shapes["norm"][0] == 5
    assert np.prod(saved["embedding"].storage.chunk_shape) * 4 <= 3000
    up = stored.StoredArray(path, "policy", ("layers", "up"), policy["layers"]["up"])
    assert up.rows == 1 and up.dtype == np.float32
    part = up.read((3, slice(2, 8, 2), slice(0, 32)))
    np.testing.assert_array_equal(part, np.asarray(policy["layers"]["up"])[3, 2:8:2])
