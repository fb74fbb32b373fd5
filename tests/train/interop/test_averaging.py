"""Averages of weights."""

import json
import shutil

import jax
import numpy as np
import pytest
from open_models import refused

from train.checkpoints import loading
from train.interop import averaging, export, opening


def weights(name):
    return jax.tree.leaves(jax.device_get(opening.open_model(str(name)).params))


@pytest.mark.parametrize("shares, factor", [((), 11 / 3), (("1", "0", "3"), 22 / 4)])
def test_an_average_is_that_of_every_weight(shares, factor, steps_run, tmp_path):
    names = [f"{steps_run}@{step}" for step in (0, 3, 7)]
    averaging.average(names, tmp_path / "soup", shares)
    for soup, first in zip(weights(tmp_path / "soup"), weights(names[0]), strict=True):
        np.testing.assert_allclose(soup, first * factor, rtol=1e-6)
    assert json.loads((tmp_path / "soup/config.json").read_text())["from"] == names
    assert export.source_dtype(tmp_path / "soup") == "float32"


def test_an_average_of_equal_models_is_the_model(steps_run, tmp_path):
    averaging.average([f"{steps_run}@3", f"{steps_run}@3"], tmp_path / "soup")
    config, params = loading.load(tmp_path / "soup")
    assert config == opening.open_model(str(steps_run)).config
    for soup, one in zip(jax.tree.leaves(params), weights(f"{steps_run}@3"), strict=True):
        np.testing.assert_array_equal(soup, one)


def test_what_cannot_be_averaged_is_refused(steps_run, tmp_path):
    other = shutil.copytree(steps_run, tmp_path / "other")
    models = json.loads((other / "models.json").read_text())
    models["policy"]["rope_base"] = 77.0
    (other / "models.json").write_text(json.dumps(models))
    at_0, at_3 = f"{steps_run}@0", f"{steps_run}@3"
    for message, names, *shares in (
        ("two models or more", [at_0]),
        ("the nearest is", [at_0, f"{steps_run}@5"]),
        ("has another architecture", [at_0, str(other)]),
        ("--shares has 1 numbers, and there are 2 models", [at_0, at_3], ["1"]),
        ("--shares=a,1: give numbers", [at_0, at_3], ["a", "1"]),
        ("--shares=0,0: give numbers", [at_0, at_3], ["0", "0"]),
        ("does not exist", [at_0, str(tmp_path / "none")]),
    ):
        assert message in refused(averaging.average, names, tmp_path / "soup", *shares)
    assert not (tmp_path / "soup").exists()
    (tmp_path / "soup").mkdir()
    (tmp_path / "soup" / "a").touch()
    assert "is not empty" in refused(averaging.average, [at_0, at_3], tmp_path / "soup")
