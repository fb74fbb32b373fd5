"""Weights with NaN or infinity are refused at import, export, load and resume by their names."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import open_models
import open_tokenizers
import pytest
from open_models import UP, VALUES, refused, save_role

from data.text.hf_tokenizer import HFTokenizer
from train.checkpoints import checkpointer, fingerprints, loading
from train.interop import convert, export, published, weights
from train.step import TrainState


@pytest.mark.parametrize(
    "dtype, bad",
    [(np.float32, np.nan), (ml_dtypes.bfloat16, np.inf), (np.float16, np.nan), (float, -np.inf)],
)
def test_non_finite_weights_are_not_imported(dtype, bad, tmp_path):
    values = {n: v.astype(dtype) for n, v in VALUES.items()}
    values[UP][3, 5] = bad
    hf = open_models.write(tmp_path / "hf", values, files=2)
    file = json.loads((hf / "model.safetensors.index.json").read_text())["weight_map"][UP]
    assert f"{file}: {UP} holds NaN or infinity" in refused(published.load, hf)
    assert UP in refused(convert.import_model, str(hf), tmp_path / "run", dtype="float32")
    assert not (tmp_path / "run").exists()


def test_non_finite_weights_are_not_loaded_or_exported(hf_dir, tmp_path):
    params = published.load(hf_dir)[1]
    params["layers"]["up"] = params["layers"]["up"].at[1, 2, 3].set(np.nan)
    work = tmp_path / "run"
    work.mkdir()
    HFTokenizer(open_tokenizers.files()).save(work / "tokenizer")
    save_role(work, "policy", params)
    for function in (loading.load, lambda w: export.export_model(w, tmp_path / "out")):
        said = refused(function, work)
        assert "checkpoint 1: it holds NaN or infinity in its weights policy/layers/up" in said
        assert str(work) in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bad", ["policy", "opt_state"])
def test_a_run_is_not_resumed_from_non_finite_numbers(bad, tmp_path, monkeypatch):
    values = dict.fromkeys(("policy", "opt_state"), jnp.ones(3)) | {bad: jnp.array([1, np.nan, 2])}
    state = TrainState(
        jnp.int32(4), {"policy": {"up": values["policy"]}}, {"mu": values["opt_state"]},
        {"row": np.int32(1)},
    )  # fmt: skip
    saver = checkpointer.Checkpointer(tmp_path, keep=1)
    with monkeypatch.context() as patch:  # as a version that did not look
        patch.setattr(fingerprints, "survey", lambda trees: ({}, []))
        saver.save(state, {})
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    said = refused(saver.restore_newest, abstract)
    assert "checkpoint 4: it holds NaN" in said and f" {bad}/" in said
    saver.close()


def test_what_float16_cannot_hold_is_not_exported(tmp_path):
    tensor = weights.Tensor(UP, (2,), lambda: np.array([1, 70_000], np.float32))
    said = refused(weights.write_safetensors, tmp_path, [tensor], "float16")
    assert UP in said and "--dtype=bfloat16" in said
    tensor = weights.Tensor(UP, (2,), lambda: np.array([1, np.nan], np.float32))
    assert f"{UP} holds NaN" in refused(weights.write_safetensors, tmp_path, [tensor], "bfloat16")
