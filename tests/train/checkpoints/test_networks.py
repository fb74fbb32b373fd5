"""Sizes are checked before anything is allocated, whichever file gave them."""

import dataclasses
import json

import open_models
import pytest

from model.sharding import MeshConfig, make_mesh
from ranges import ConfigError
from train.checkpoints import loading, networks, saved_models


def test_a_model_that_fits_no_memory_is_one_line(tmp_path):
    saved_models.save_models(tmp_path, {"policy": open_models.CONFIG})
    path = tmp_path / "models.json"
    models = json.loads(path.read_text())
    models["policy"] |= {"embed_dim": 2**22, "mlp_dim": 2**22, "num_layers": 1000}
    path.write_text(json.dumps(models))
    with pytest.raises(ConfigError, match=r"the policy of .*: [\d,.]+ GiB of arrays on a device"):
        loading.load(tmp_path)


def test_the_largest_model_that_settings_allow_is_refused_and_a_small_one_is_not():
    mesh = make_mesh(MeshConfig())
    largest = dataclasses.replace(
        open_models.CONFIG, embed_dim=2**24, mlp_dim=2**24, num_layers=10_000, vocab_size=2**24
    )
    with pytest.raises(ConfigError, match=r"^x: "):
        networks.check_memory(networks.abstract_params("policy", largest, mesh), "x")
    networks.check_memory(networks.abstract_params("policy", open_models.CONFIG, mesh), "x")
