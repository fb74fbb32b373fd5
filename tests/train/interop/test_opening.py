"""Models opened by name: runs, steps of runs, open models."""

import shutil

import jax
import numpy as np
import open_models
import pytest
from open_models import CONFIG, refused

from data.text import tokenizer as tokenizers
from train.config.saved import split_step
from train.interop import convert, opening, published

VALUES = open_models.tensors()


@pytest.fixture(scope="module")
def published_dir(tmp_path_factory):
    return open_models.write(tmp_path_factory.mktemp("hf") / "model", VALUES)


@pytest.fixture(scope="module")
def run(published_dir, tmp_path_factory):
    """A run whose policy at step 3 is that of step 0 times 3, and at step 7 times 7."""
    path = tmp_path_factory.mktemp("run") / "base"
    convert.import_model(str(published_dir), path)
    params = published.load(published_dir)[1]
    for step in (3, 7):
        scaled = jax.tree.map(lambda x, k=step: x * k, params)
        open_models.save_role(path, "policy", scaled, step=step)
    return path


def first(params):
    return np.asarray(params["embedding"])


def test_a_step_of_a_run_is_opened_by_name(run, published_dir):
    original = opening.open_model(str(published_dir))
    assert original.role == "policy" and original.config == CONFIG
    for name, factor in {f"{run}": 7, f"{run}@7": 7, f"{run}@3": 3, f"{run}@0": 1}.items():
        opened = opening.open_model(name)
        assert opened.name == name and opened.config == CONFIG
        np.testing.assert_array_equal(first(opened.params), first(original.params) * factor)
        assert opened.tokenizer.fingerprint == tokenizers.load(run).fingerprint
    assert opening.open_model(str(run), dtype="bfloat16").config.dtype == "bfloat16"


def test_a_folder_whose_name_ends_like_a_step_is_itself(tmp_path):
    (tmp_path / "mail@3").mkdir()
    assert split_step(f"{tmp_path}/mail@3") == (f"{tmp_path}/mail@3", None)
    assert split_step("runs/mail@3") == ("runs/mail", 3)


def test_what_is_not_there_is_named(run, published_dir, tmp_path):
    assert "no checkpoint of step 4; the nearest is" in refused(opening.open_model, f"{run}@4")
    assert "it has no reward model" in refused(opening.open_model, str(published_dir), "reward")
    assert "so it has no step 4" in refused(opening.open_model, f"{published_dir}@4")
    assert "there is no such directory" in refused(opening.open_model, str(tmp_path / "none"))


def test_a_damaged_step_is_not_replaced_by_another(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "checkpoints/3/meta/metadata").write_text("{")
    assert "checkpoint 3 is damaged (meta: " in refused(opening.open_model, f"{copy}@3")
