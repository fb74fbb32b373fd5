"""The search for the fastest settings, with a compiler that is a formula."""

import pytest

from configs import pretrain
from tpu.fit import sweep
from tpu.fit.sweep import Sweep

GIB = 2**30
SAVED = {"none": 8.0, "minimal": 4.0, "matmuls": 3.5, "qkv": 3.0, "projections": 2.0,
         "offload": 0.5, "full": 1.0}  # fmt: skip


def peak(recipe):
    shards = recipe.mesh.fsdp * recipe.mesh.expert
    rows = recipe.data.batch_size / shards
    return rows * SAVED[recipe.model.remat] / recipe.mesh.tensor + 2


def compile_one(recipe):
    """Memory grows with the rows of a chip and falls with recomputation and `tensor`; these cost
    time, and blocks of 512 and two shards of the experts save some."""
    if recipe.mesh.tensor == 4:
        raise ValueError("4 shards do not divide 6 heads")
    if peak(recipe) > 40:
        return {"fits": False, "error": "out of memory", "peak_bytes_per_chip": peak(recipe) * GIB}
    chips = recipe.mesh.fsdp * recipe.mesh.expert * recipe.mesh.tensor
    rows, recomputed = recipe.data.batch_size / chips, 0.2 * (8 - SAVED[recipe.model.remat])
    seconds = 1 + rows * (1 + recomputed) * (1 + recipe.mesh.tensor / 50)
    seconds *= 1.0 if recipe.model.attention_block == 512 else 1.1
    seconds *= {1: 1.2, 2: 1.0}.get(recipe.mesh.expert, 1.3)
    return {
        "fits": True, "peak_bytes_per_chip": peak(recipe) * GIB,
        "predicted_step_seconds": seconds, "tokens_per_second_per_chip": 1000 * rows / seconds,
    }  # fmt: skip


def search(typed=(), by_rule=peak, **settings):
    """(report of the best, the search, the lines that it printed)."""
    config = pretrain.get_config()
    config.data.batch_size, config.mesh.data, config.mesh.fsdp = 32, 1, 8
    config.update_from_flattened_dict(settings)
    lines = []
    found = Sweep(compile_one, by_rule, 32.0, typed, lines.append)
    return found.run(config), found, lines


def test_it_climbs_one_setting_at_a_time():
    best, found, lines = search()
    assert best["settings"] == {
        "remat": "none", "fsdp": 4, "expert": 2, "tensor": 1, "rows": 32, "block": 512,
    }  # fmt: skip
    tried = [line.split()[:6] for line in lines[1:]]
    assert tried[:5] == [
        ["none", "8", "1", "1", "32", "1024"],  # 34 GiB
        ["none", "4", "2", "1", "32", "1024"],
        ["none", "2", "4", "1", "32", "1024"],  # slower
        ["none", "2", "2", "2", "32", "1024"],  # slower
        ["minimal", "4", "2", "1", "64", "1024"],  # `none` would take 66 GiB: not compiled
    ]
    assert tried[-1][0] == "minimal" and tried[-2][-1] == "512"
    assert found.left_out and found.table()[0]["peak_bytes_per_chip"] == 34 * GIB
    summary = found.summary(best)
    assert (
        f"the fastest of {len(lines) - 1} compiled, and {found.left_out} that exceed"
        in (summary[1])
    )
    assert "--config.model.remat=none" in summary[2] and "--config.mesh.expert=2" in summary[2]


def test_what_is_typed_stays():
    best, _, lines = search({"model.remat", "mesh.expert", "mesh.tensor"}, **{"model.remat": "qkv"})
    assert {tuple(line.split()[:4:3]) for line in lines[1:]} == {("qkv", "1")}
    assert best["settings"]["expert"] == 1 and best["settings"]["rows"] > 32


def test_what_the_compiler_or_the_mesh_refuses_is_a_line():
    _, _, lines = search({"mesh.expert"}, lambda recipe: 0.0, **{"mesh.tensor": 2})
    assert any("4 shards do not divide" in line for line in lines)
    assert any(line.endswith("does not fit") for line in lines)


def test_nothing_fits():
    best, found, lines = search(by_rule=lambda recipe: 99.0)
    assert not best["fits"] and "about 99 GiB" in best["error"] and len(lines) == 1
    assert "none of 0 compiled" in found.summary(best)[1]


@pytest.mark.parametrize("times,rows", [(2, 64), (0.5, 16)])
def test_rows_that_the_mesh_divides(times, rows):
    config = pretrain.get_config()
    config.data.batch_size, config.mesh.data, config.mesh.fsdp = 32, 1, 16
    assert sweep._rows(config, times).data.batch_size == rows
    config.mesh.fsdp = 32
    assert (sweep._rows(config, 0.5) is None) and sweep._axis("tensor", config, 0.5) is None
