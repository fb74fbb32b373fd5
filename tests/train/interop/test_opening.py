"""Models opened by name: runs, steps of runs, open models."""

import shutil

import numpy as np
from open_models import CONFIG, refused

from data.text import tokenizer as tokenizers
from train.config.run_names import split_name, split_step
from train.interop import opening


def first(params):
    return np.asarray(params["embedding"])


def test_a_step_of_a_run_is_opened_by_name(steps_run, hf_dir):
    original = opening.open_model(str(hf_dir))
    assert original.role == "policy" and original.config == CONFIG
    for name, factor in {
        f"{steps_run}": 7,
        f"{steps_run}@7": 7,
        f"{steps_run}@3": 3,
        f"{steps_run}@0": 1,
    }.items():
        opened = opening.open_model(name)
        assert opened.name == name and opened.config == CONFIG
        np.testing.assert_array_equal(first(opened.params), first(original.params) * factor)
        assert opened.tokenizer.fingerprint == tokenizers.load(steps_run).fingerprint
    assert opening.open_model(str(steps_run), dtype="bfloat16").config.dtype == "bfloat16"


def test_a_folder_whose_name_ends_like_a_step_is_itself(tmp_path):
    (tmp_path / "mail@3").mkdir()
    assert split_step(f"{tmp_path}/mail@3") == (f"{tmp_path}/mail@3", None)
    assert split_step("runs/mail@3") == ("runs/mail", 3)
    for name, parts in {
        "runs/a": ("runs/a", None, False),
        "runs/a@ema": ("runs/a", None, True),
        "runs/a@60@ema": ("runs/a", 60, True),
        "gs://a/b@c": ("gs://a/b@c", None, False),
        f"{tmp_path}/mail@3@ema": (f"{tmp_path}/mail@3", None, True),
        f"{tmp_path}/mail@3@7": (f"{tmp_path}/mail@3", 7, False),
    }.items():
        assert split_name(name) == parts and str(split_name(name)) == name


def test_what_is_not_there_is_named(steps_run, hf_dir, tmp_path):
    assert "no checkpoint of step 4; the nearest is" in refused(
        opening.open_model, f"{steps_run}@4"
    )
    assert "it has no reward model" in refused(opening.open_model, str(hf_dir), "reward")
    assert "so it has no step 4" in refused(opening.open_model, f"{hf_dir}@4")
    assert "so it has no averages" in refused(opening.open_model, f"{hf_dir}@ema")
    assert "hold no averages of its policy; a run keeps them with" in refused(
        opening.open_model, f"{steps_run}@3@ema"
    )
    assert "there is no such directory" in refused(opening.open_model, str(tmp_path / "none"))


def test_a_damaged_step_is_not_replaced_by_another(steps_run, tmp_path):
    copy = shutil.copytree(steps_run, tmp_path / "copy")
    (copy / "checkpoints/3/meta/metadata").write_text("{")
    assert "checkpoint 3 is damaged (meta: " in refused(opening.open_model, f"{copy}@3")
