"""Recipes become dataclasses; what cannot be run is said with its key and what to type."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest

from data.errors import DataError
from model.sharding import MeshConfig, make_mesh
from model.sizes import SIZES
from ranges import ConfigError
from train.assembly.inputs import resolve_models
from train.checkpoints import saved_models
from train.config import saved
from train.config.run import ModelConfig, RunConfig, build, default
from train.objectives import registry

ROOT = Path(__file__).resolve().parents[3]
RECIPES = sorted(
    ".".join(p.relative_to(ROOT).with_suffix("").parts) for p in ROOT.glob("configs/**/[a-z]*.py")
)


def changed(**leaves):
    """The default recipe with leaves changed, `data__length=8` for data.length."""
    recipe = default()
    for name, value in leaves.items():
        *groups, leaf = name.split("__")
        tree = recipe
        for group in groups:
            tree = tree[group]
        tree[leaf] = value
    return recipe


def test_the_default_recipe_is_the_dataclass_default():
    assert build(default()) == RunConfig()
    recipe = default().to_dict()
    # The recipe names the roles and fields that a command line may set, empty until it does.
    assert (
        set(recipe.pop("init_from").values()) == set(recipe["data"].pop("fields").values()) == {""}
    )
    values = dataclasses.asdict(RunConfig())
    assert (values.pop("init_from"), values["data"].pop("fields")) == ({}, {})
    assert values == recipe


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_builds(recipe, monkeypatch):
    monkeypatch.setattr(saved, "recipe_of", lambda name: default())
    choices = {"configs.of_run": ["run=runs/first"]}
    choices |= {"configs.chains.support": ["text=a.txt,chats=b.jsonl,preferences=c.jsonl"]}
    choices["configs.pods"] = ["recipe=llama3-70b,slice=v5p-128"]
    config = importlib.import_module(recipe).get_config(*choices.get(recipe, []))
    runs = config.stages if "stages" in config else {recipe: config}
    for name in runs:
        run = build(runs[name])
        assert run.stage in registry.STAGES
        assert not run.model.size or run.model.build(vocab_size=100)


def test_the_choices_of_a_recipe():
    from configs import pretrain
    from configs.chains import support

    run = build(pretrain.get_config("size=1b"))
    assert (run.model.size, run.steps) == ("1b", 10_000)
    assert build(pretrain.get_config("size=1b,smoke")).model.size == "tiny"
    with pytest.raises(
        ValueError, match=r"no choice 'sise'; it has size=125m, smoke; did you mean size\?"
    ):
        pretrain.get_config("sise=1b")
    with pytest.raises(ValueError, match=r"all your files are: no chats\. Type"):
        support.get_config("text=a.txt")
    example = support.EXAMPLES["text"]  # named, it is a file like any other
    stages = support.get_config(f"text={example},chats=b.jsonl,preferences=c.jsonl").stages
    assert (stages.pretrain.data.source, stages.sft.data.source) == (example, "b.jsonl")
    assert support.get_config().stages.pretrain.data.source == example
    assert support.get_config("text=a.txt,chats=b.jsonl").order == ("pretrain", "sft")


@pytest.mark.parametrize(
    "leaf,value,message",
    [
        ("stepz", 5, r"unknown config key stepz; did you mean steps\?"),
        ("optimizer__peak_rl", 1.0, r"unknown config key optimizer\.peak_rl; did you mean optim"),
        ("rl__kl_coeff", 0.1, r"unknown config key rl\.kl_coeff; did you mean rl\.kl_coef\?"),
        ("data__qqqq", 1, r"unknown config key data\.qqqq; known: source, "),
        ("steps", "10 s", r"steps='10 s' is no budget"),
        ("steps", 10.0, r"steps=10\.0 is a float; it must be an int"),
        ("steps", True, r"steps=True is a bool; it must be an int"),
        ("steps", (1, 2), r"steps=\(1, 2\) is a tuple; it must be an int"),
        ("optimizer__peak_lr", "1e-3", r"optimizer\.peak_lr='1e-3' is a str; it must be a float"),
        ("data__pack", 1, r"data\.pack=1 is a int; it must be a bool"),
        ("data__on_long", ("cut",), r"data\.on_long=\('cut',\) is a tuple; it must be a str"),
        ("data__source", 5, r"data\.source=5; it must be a str or a tuple"),
        ("model", "tiny", r"model='tiny' is not a group of settings"),
        ("init_from", "runs/sft", r"init_from='runs/sft'; set --config\.init_from\.NAME=VALUE"),
        ("steps", 0, r"steps=0; it must be at least 1"),
        ("log_every", -1, r"log_every=-1; it must be at least 0"),
        ("accumulate", 0, r"accumulate=0; it must be at least 1"),
        ("accumulate", 5, r"data\.batch_size=32 is not a multiple of accumulate=5"),
        ("rl__missing_eos", "drop", r"missing_eos='drop'; choose keep, penalty, replace or mask"),
        ("rl__kl_loss_estimator", "k4", r"rl\.kl_loss_estimator='k4'; choose k1, k2 or k3"),
        ("rl__overlong_buffer", 65, r"rl\.overlong_buffer=65 is more than rl\.response_length"),
        ("rewards__regex", 1.0, r"rewards\.regex needs --config\.rewards\.pattern"),
        ("rewards__pattern", "(", r"rewards\.pattern='\(' is not a regular expression"),
        ("rewards__length", 1.0, r"rewards\.length needs --config\.rewards\.target_length"),
        ("grpo__baseline", "best", r"grpo\.baseline='best'; choose mean or others"),
        ("grpo__loss_mean", "row", r"grpo\.loss_mean='row'; choose token or sequence or constant"),
        ("grpo__group_size", 1, r"grpo\.group_size=1; it must be at least 2 and at most"),
        ("grpo__max_draws", 0, r"grpo\.max_draws=0; it must be at least 1"),
        ("rl__kl_estimator", "k4", r"rl\.kl_estimator='k4'; choose k1, k2 or k3"),
        ("dpo__loss", "hinge", r"dpo\.loss='hinge'; choose sigmoid or ipo"),
        ("dpo__beta", 0.0, r"dpo\.beta=0\.0; it must be above 0"),
        ("dpo__label_smoothing", 0.5, r"dpo\.label_smoothing=0\.5; it must be at least 0 and bel"),
        ("rl__temperature", 0.0, r"rl\.temperature=0\.0; it must be above 0"),
    ],
)
def test_a_bad_leaf_is_an_error(leaf, value, message):
    with pytest.raises(ConfigError, match=message):
        build(changed(**{leaf: value}))


def test_errors_of_the_parts_come_through():
    with pytest.raises(DataError, match=r"data\.on_long='split'"):
        build(changed(data__on_long="split"))
    with pytest.raises(ValueError, match=r"optimizer\.schedule='linear'; choose"):
        build(changed(optimizer__schedule="linear"))


def test_ints_pass_for_floats_and_lists_become_tuples():
    run = build(changed(optimizer__peak_lr=1, data__source=["a", "b"]))
    assert (run.optimizer.peak_lr, type(run.optimizer.peak_lr)) == (1.0, float)
    assert run.data.source == ("a", "b")


def test_roles_left_empty_are_not_set():
    run = build(changed(init_from={"policy": "runs/sft", "reward": ""}))
    assert run.init_from == {"policy": "runs/sft"}


def test_free_keys_are_free():
    run = build(changed(data__fields={"prompt": "{instruction}"}))
    assert run.data.fields == {"prompt": "{instruction}"}


def test_a_named_size_and_what_differs_from_it():
    config = ModelConfig(size="tiny", num_layers=3, remat="full").build(vocab_size=50)
    assert (config.num_layers, config.embed_dim, config.remat) == (3, 32, "full")
    assert config.vocab_size == 50
    with pytest.raises(ConfigError, match=r"model\.size='tiney'; .*; did you mean tiny\?"):
        ModelConfig(size="tiney").build(50)
    assert ModelConfig(size="Llama3_1_8B").build(50) == ModelConfig(size="llama3.1-8b").build(50)
    names = {re.sub(r"[._-]", "", name) for name in SIZES}
    assert len(names) == len(SIZES)


@pytest.mark.parametrize(
    ("size", "meant"),
    [
        ("2m", "1m"),
        ("100M", "125m"),
        ("7b", "llama2-7b or mistral-7b or qwen2.5-7b"),
        ("9b", "gemma2-9b"),
        ("350m", "smollm2-360m"),
        ("qwen3", "qwen3-8b"),
    ],
)
def test_a_size_that_there_is_not_has_a_nearest(size, meant):
    with pytest.raises(ConfigError, match=rf"; did you mean {re.escape(meant)}\?$"):
        ModelConfig(size=size).build(50)


# What the stages check before they read data.


def check(mesh=None, **leaves):
    return registry.validate(build(changed(**leaves)), make_mesh(mesh or MeshConfig()))


PPO = dict(
    stage="ppo", init_from={"policy": "a", "reward": "b"}, data__batch_size=16, steps=16,
    rl__rollout_batch=64, rl__epochs=2,
)  # fmt: skip


def test_stages_that_can_run_pass():
    assert check() is registry.STAGES["pretrain"]
    assert check(stage="reward", init_from={"policy": "a"}).schema == "preference"
    assert check(**PPO) is registry.STAGES["ppo"]
    check(**(PPO | {"init_from": {"policy": "a"}, "rl__reward_function": "m:f"}))


@pytest.mark.parametrize(
    "leaves,message",
    [
        (dict(stage="pretraining"), r"stage='pretraining'; choose pretrain, sft, reward"),
        (
            dict(stage="sft", init_from={"reward": "x"}),
            r"init_from\.reward: stage sft reads policy",
        ),
        (
            dict(stage="dpo", init_from={"policy": "a"}, data__share_prompt=True),
            r"stage dpo reads .* set --config\.data\.share_prompt=False",
        ),
        (
            PPO | dict(init_from={"reward": "b"}),
            r"starts from a trained policy; type --config\.init",
        ),
        (PPO | dict(init_from={"policy": "", "reward": "b"}), r"starts from a trained policy"),
        (
            PPO | dict(init_from={"policy": "a"}),
            r"stage ppo needs scores: type --config\.init_from",
        ),
        (PPO | dict(rl__rollout_batch=40), r"rollout_batch=40 is not a multiple of the minibatch"),
        (
            PPO | dict(stage="grpo", grpo__group_size=6),
            r"rl\.rollout_batch=64 counts answers, and is not a multiple of grpo\.group_size=6",
        ),
        (PPO | dict(steps=12), r"steps=12 is not a multiple of the 8 optimizer steps"),
        (PPO | dict(rl__eval_prompts=100), r"rl\.eval_prompts is 100, which the mesh's 8 batch"),
        (
            dict(stage="sft", init_from={"policy": "a"}, model__mimetic=True),
            r"model\.mimetic initializes a new model, and this one starts from a",
        ),
        (dict(data__batch_size=12), r"microbatch .* is 12, which the mesh's 8 batch shards"),
        (dict(data__batch_size=16, accumulate=4), r"microbatch .* is 4, which the mesh's 8"),
    ],
)
def test_a_stage_that_cannot_run_is_an_error(leaves, message):
    with pytest.raises(ConfigError, match=message):
        check(**leaves)


def test_fewer_batch_shards_take_smaller_microbatches():
    check(MeshConfig(data=2, fsdp=2, tensor=2), data__batch_size=16, accumulate=4)


def test_an_architecture_is_not_changed_by_settings_that_a_start_leaves_out(tmp_path):
    """A run that starts from another has its architecture, and says so of settings that differ."""
    model = ModelConfig(size="tiny").build(9)
    saved_models.save_models(tmp_path, {"policy": model})

    def models(**settings):
        config = RunConfig(
            stage="sft", init_from={"policy": str(tmp_path)}, model=ModelConfig(**settings)
        )
        return resolve_models(config, registry.STAGES["sft"], 9)

    assert models(num_layers=2, remat="full")["policy"] == dataclasses.replace(model, remat="full")
    assert models(size="tiny")["policy"] == model
    for settings in (dict(num_layers=3), dict(rope_base=500.0), dict(max_length=8)):
        with pytest.raises(ConfigError, match=f"model.{next(iter(settings))}=.* keeps it"):
            models(**settings)
    with pytest.raises(ConfigError, match=r"leave model.size empty"):
        models(size="tiny", num_layers=3)


def test_a_group_without_a_setting_that_has_no_default():
    recipe = default().to_dict()
    del recipe["data"]["source"]
    with pytest.raises(ConfigError, match=r"data\.source is missing"):
        build(recipe)
