"""Trying settings, with a compiler that is a formula."""

import pytest

from configs import pretrain
from tpu.fit.sweep import sweep


def compile_one(recipe):
    """Memory grows with rows and falls with remat and tensor; remat and tensor cost time."""
    rows = recipe.data.batch_size
    if rows % 2:
        raise ValueError(f"{rows} rows do not divide")
    remat = {"none": 8, "minimal": 4, "qkv": 3, "full": 1, "offload": 0.5}[recipe.model.remat]
    peak = (rows * remat / recipe.mesh.tensor + 2) * 2**30
    if peak > 40 * 2**30:
        return {"fits": False, "error": "out of memory", "peak_bytes_per_chip": peak}
    seconds = 1 + rows * (1.2 - remat / 20 + recipe.mesh.tensor / 50)
    speed = 1000 * rows / seconds
    return {"fits": True, "peak_bytes_per_chip": peak, "predicted_step_seconds": seconds,
            "tokens_per_second_per_chip": speed}  # fmt: skip


def recipe(**settings):
    config = pretrain.get_config()
    config.data.batch_size, config.mesh.data, config.mesh.fsdp = 8, 1, 8
    config.model.remat = "none"
    config.update_from_flattened_dict(settings)
    return config


def test_each_knob_starts_from_the_best_so_far():
    said = []
    best = sweep(recipe(), ["remat", "mesh", "batch"], compile_one, said.append)
    assert best["settings"] == {"remat": "minimal", "fsdp": 8, "tensor": 1, "rows": 8}
    lines = [line.split() for line in said[1:]]
    assert lines[0][:4] == ["none", "8", "1", "8"] and "does not fit" in said[1]
    assert [line[0] for line in lines[1:5]] == ["minimal", "qkv", "full", "offload"]
    assert [line[:3] for line in lines[5:8]] == [
        ["minimal", "4", "2"], ["minimal", "2", "4"], ["minimal", "1", "8"],
    ]  # fmt: skip
    assert [line[3] for line in lines[8:]] == ["16", "12"]  # 8 rows were compiled before


def test_the_largest_batch_that_fits():
    said = []
    best = sweep(recipe(**{"model.remat": "full"}), ["batch"], compile_one, said.append)
    assert best["settings"]["rows"] == 32  # 34 GiB; 64 rows do not fit, nor do 48
    assert [line.split()[3] for line in said[1:]] == ["8", "16", "32", "64", "48"]


def test_what_the_mesh_refuses_is_a_line_of_the_table():
    said = []
    best = sweep(recipe(**{"data.batch_size": 1}), ["batch"], compile_one, said.append)
    assert "1 rows do not divide" in said[1]
    assert best["settings"]["rows"] == 4


def test_an_unknown_knob_is_an_error():
    with pytest.raises(ValueError, match="--sweep=speed: choose from remat, mesh, batch"):
        sweep(recipe(), ["speed"], compile_one, print)
