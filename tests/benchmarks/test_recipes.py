"""The table of recipes is what the reports say, of recipes that a run would start."""

import json

import pytest

from benchmarks import compiled, recipes
from configs import pods
from train.config import run as configs

REPORT = {
    "fits": True,
    "mesh": {"fsdp": 256},
    "seconds": {"compute": 3.0, "kernels": 0.5, "ici": 1.0, "dcn": 0.25},
    "predicted_step_seconds": 3.5,
    "serial_step_seconds": 4.75,
    "tokens_per_second_per_chip": 2340.4,
    "predicted_mfu": 0.5,
    "peak_bytes_per_chip": 12 * 2**30,
    "hbm_bytes_per_chip": 16 * 2**30,
    "compile_seconds": 81.2,
}


def test_rows_show_reports():
    text = recipes.document({"llama3.1-8b, 2 × v5e-256": REPORT})
    assert (
        "| llama3.1-8b | 2 × v5e-256 | fsdp 256 | 512 × 8,192 | `qkv` | **3.50** (4.75) | "
        "1.00; 0.25 | 2,340 | 50.0% | 12.0 of 16 |"
    ) in text
    assert "A program took 81 s to compile" in text
    programs = {"step": REPORT, "sample": REPORT | {"predicted_step_seconds": 40.0}}
    row = recipes.row("ppo, v5e-256", REPORT | {"programs": programs})
    assert "256 × (1,024 + 1,024)" in row and "**3.50** (40.0 a rollout)" in row
    row = recipes.row("reward, v6e-256", {"fits": False, "error": "out of memory: 9. Try"})
    assert "| tensor 2 × fsdp | 128 × 2 × 2,048 | `minimal` | out of memory: 9 |" in row


def test_weak_scaling_is_a_share_of_what_sixteen_chips_do():
    speeds = {"v6e-16": 2500.0, "v6e-256": 2400.0, "2 × v6e-256": 2375.0}
    reports = {
        f"mixtral-8x7b, {where}": REPORT | {"tokens_per_second_per_chip": speed}
        for where, speed in speeds.items()
    }
    text = recipes.document(reports)
    assert "| mixtral-8x7b | 2,500 (100.0%) | 2,400 (96.0%) | 2,375 (95.0%) |" in text
    assert text.count("**3.50**¹") == 2 and "¹ Compiled before" in text
    assert "¹" not in recipes.document({n: r | {"made": {}} for n, r in reports.items()})
    rows = "--config.data.batch_size=16"  # one a chip, as on the whole slice
    assert rows in recipes.RUNS["mixtral-8x7b, v6e-16"]


def test_the_committed_table_is_of_the_committed_reports():
    reports = json.loads((compiled.DOCS / "recipes.json").read_text())
    assert (compiled.DOCS / "recipes.md").read_text() == recipes.document(reports)
    assert set(reports) <= set(recipes.RUNS)


@pytest.mark.parametrize("case", recipes.CASES.values(), ids=str)
def test_every_recipe_is_one(case):
    recipe, name, slices = case
    config = configs.build(pods.get_config(f"recipe={recipe},slice={name},slices={slices}"))
    chips = {"v5e-256": 256, "v5p-128": 64, "v6e-256": 256}[name] * slices
    data, fsdp, expert, sequence, tensor = config.mesh.shape(chips)
    assert data == slices and config.data.batch_size % (data * fsdp * expert) == 0
    if config.stage == "ppo":
        assert config.rl.rollout_batch % (data * fsdp) == 0
        assert fsdp % config.rl.decode_tensor == 0


@pytest.mark.parametrize("arg", ["recipe=ppo", "slice=v5e-256", "recipe=ppo,slice=v4-8", None])
def test_a_choice_that_there_is_not(arg):
    with pytest.raises(ValueError, match=r"type --config=configs/pods\.py:recipe=R,slice=S"):
        pods.get_config(arg)
