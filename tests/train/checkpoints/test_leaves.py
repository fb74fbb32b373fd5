"""Parameters read from a checkpoint one at a time."""

import jax
import numpy as np
import open_models
import pytest
from open_models import CONFIG, save_role

from model.sharding import MeshConfig, make_mesh
from train.assembly import partition as parts_
from train.checkpoints import loading, networks, saved_models
from train.checkpoints.leaves import Leaves
from train.config import run as configs
from train.interop import convert


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of an imported model."""
    path = tmp_path_factory.mktemp("run")
    convert.import_model(str(open_models.write(path / "hf", open_models.VALUES)), path / "base")
    return path / "base"


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_parameters_one_by_one_are_those_of_a_load(dtype, run, tmp_path):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    whole = networks.abstract_params("policy", CONFIG, mesh)
    settings = configs.default()
    settings.lora.rank, settings.freeze.dtype = 2, dtype
    part = parts_.divide(configs.build(settings), {"policy": whole})["policy"]
    rng = np.random.default_rng(0)
    trained = jax.tree.map(
        lambda x: jax.device_put(rng.standard_normal(x.shape).astype(np.float32), x.sharding),
        part.trained(whole),
    )
    work = tmp_path / "run"
    work.mkdir()
    save_role(work, "policy", trained)
    _, loaded_fingerprint = loading.load_base(run, "policy", "policy", whole)
    origin = {"from": str(run), "role": "policy", "fingerprint": loaded_fingerprint}
    saved_models.save_parts(work, {"policy": part}, {"policy": origin})
    wanted = loading.load_params(work, "policy", whole)
    leaves = Leaves(work, "policy", whole)
    assert leaves.fingerprint() == loading.identity(work, "policy", wanted)
    assert Leaves(run, "policy", whole).fingerprint() == loaded_fingerprint
    for path in jax.tree_util.tree_leaves_with_path(wanted):
        keys = tuple(k.key for k in path[0])
        np.testing.assert_array_equal(leaves.read(keys), path[1])
