"""Memory by rule against the compiler's, and the settings that follow from it."""

import json
from pathlib import Path

import pytest

from benchmarks import recipes
from configs import pods, pretrain
from model.sharding import ShardingError
from ranges import ConfigError
from tpu.chips import HBM_GIB
from tpu.fit import abstract, rules, sweep
from tpu.slices import parse
from train.config.run import build

REPORTS = json.loads((Path(__file__).parents[3] / "docs/recipes.json").read_text())


def of_pods(name):
    """(settings, size of the vocabulary) of a compiled recipe."""
    recipe, slice_, slices = recipes.CASES[name]
    config = pods.get_config(f"recipe={recipe},slice={slice_},slices={slices}")
    config.init_from.reward = "a reward stage" if recipe == "ppo" else ""
    return build(config), recipes.VOCABULARIES.get(recipe, 128_256)


@pytest.mark.parametrize("slice_", pods.SLICES)
def test_the_rule_is_near_the_compiler_for_every_recipe(slice_):
    """The state exactly, the peak from a tenth below to a quarter above."""
    for name, report in REPORTS.items():
        if not name.endswith(f", {slice_}"):  # not two slices
            continue
        config, vocabulary = of_pods(name)
        mesh = dict.fromkeys(("data", "fsdp", "expert", "sequence", "tensor"), 1) | report["mesh"]
        run = abstract.assemble(config, rules.abstract_mesh(mesh), vocabulary)
        state = abstract.gib((run.state.trainable, run.state.opt_state, run.frozen))
        assert state == pytest.approx(sum(report["state_gib"].values()), rel=1e-3), name
        peak = rules.peak_gib(run, mesh, config.accumulate, config.model.remat)
        assert 0.9 < peak / (report["peak_bytes_per_chip"] / 2**30) < sweep.RULE_ABOVE, name


def derive(name, recipe="llama3.1-8b, v5p-128", typed=(), **changes):
    config, vocabulary = of_pods(recipe)
    row = parse(name)
    return rules.derive(config, row.devices, 1, HBM_GIB[row.device_kind], vocabulary, typed)


def test_the_rule_by_hand():
    """128 rows of 8,192 tokens of Llama 3.1 8B."""
    compiled = derive("v5p-128")
    assert (compiled.mesh["fsdp"], compiled.accumulate, compiled.remat) == (64, 1, "minimal")
    # 256 devices and 128 rows: two devices share a row.
    shared = derive("v6e-256")
    assert (shared.mesh["fsdp"], shared.mesh["tensor"], shared.accumulate) == (128, 2, 1)
    # Its two chiplets a chip are two devices.
    assert derive("tpu7x-128").mesh["fsdp"] == 128 and derive("v4-128").mesh["fsdp"] == 64
    # A quarter of the devices, with a third of the memory each: in parts.
    small = derive("v6e-16")
    assert small.accumulate > 1 and small.remat == "projections" and small.peak < 0.9 * 32
    assert 128 % (small.accumulate * small.mesh["fsdp"]) == 0
    assert "16 microbatches" not in str(compiled) and "mesh fsdp 64, 1 microbatch, remat" in (
        str(compiled)
    )
    kept = derive("v5p-128", typed={"model.remat", "accumulate", "mesh.tensor"})
    assert kept.mesh["fsdp"] == 64 and kept.remat == "minimal"


def test_experts_stay_and_what_is_missing_is_said():
    mixture = derive("v5p-128", "mixtral-8x7b, v5e-256")
    assert (mixture.mesh["expert"], mixture.mesh["fsdp"]) == (8, 8)
    with pytest.raises(ConfigError, match=r"it needs about \d+\.\d GiB a device, and 90% of 16 "):
        derive("v5e-16", "llama3-70b, v5e-256")
    with pytest.raises(ShardingError, match=r"expert=8.* does not make 4 devices"):
        derive("v5p-8", "mixtral-8x7b, v5p-128")


def test_decoding_shards_follow_the_mesh():
    sampled = derive("v4-64", "ppo, v6e-256")
    assert sampled.decode_tensor == 8 and sampled.mesh["fsdp"] == 32
    assert derive("v5p-16", "ppo, v6e-256").decode_tensor == 8


def test_without_a_known_memory_microbatches_and_remat_stay():
    recipe = pretrain.get_config("smoke")
    recipe.accumulate, recipe.model.remat, recipe.data.batch_size = 2, "qkv", 16
    found = rules.derive(build(recipe), 8, models=300)
    assert found[:3] == (found.mesh, 2, "qkv") and found.mesh["fsdp"] == 8 and found.peak is None
