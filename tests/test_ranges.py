"""Every number among the settings has a range, and a value outside of it is refused by its key."""

import ast
import dataclasses
import importlib
import math
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stage_fixtures
import tiny_ppo

import ranges
from model import sharding
from model.generate import Sampling
from ranges import ConfigError, Range
from train import loop, optimizer
from train.config.run import RunConfig, build, build_group, default, keys
from train.runtime.records import read_metrics

ROOT = Path(__file__).resolve().parents[1]
# Values of the fields without defaults.
REQUIRED = {
    "TransformerConfig": dict(
        vocab_size=20, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
        mlp_dim=32,
    ),
    "RopeScaling": dict(kind="linear", factor=2.0),
    "Sampling": dict(max_new_tokens=8),
    "DataConfig": dict(source="a.txt"),
    "SourceConfig": dict(source="a.txt"),
    "ImproveConfig": dict(
        policy="a", reward="", prompts="a.txt", conversations="a.txt", rounds=1, questions=1,
        pool=1, answers=2, max_new_tokens=8, temperature=1.0, top_p=1.0, seed=0, annotators="a",
        each=1, reference="last", judge="", gates="", limit=0,
    ),
}  # fmt: skip
# Rows of tables, results, requests, and a command's flags, which absl checks: no settings.
OTHERS = ("Objective", "Slice", "Task", "Metric", "Benchmark", "Rolling", "Generation", "Options",
          "Measured", "Result")  # fmt: skip
NEVER = (math.nan, math.inf, -math.inf, 1e20, 10**20, True, False, "3", None)


def settings_classes():
    """All frozen dataclasses, which are settings; read from the text, so that modules without any
    are not imported."""
    for floor in ("model", "data", "train", "tpu"):
        for path in sorted((ROOT / floor).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for node in ast.parse(path.read_text()).body:
                if getattr(node, "name", "") in OTHERS:
                    continue
                if isinstance(node, ast.ClassDef) and any(
                    "dataclass(frozen=True)" in ast.unparse(d) for d in node.decorator_list
                ):
                    yield getattr(importlib.import_module(module), node.name)


CLASSES = list(settings_classes())
KEYS = keys()
FIELDS = [(cls, name) for cls in CLASSES for name in ranges.fields_of(cls)]


def test_all_settings_were_found():
    assert {"RunConfig", "OptimizerConfig", "LoRA", *REQUIRED} <= {cls.__name__ for cls in CLASSES}
    assert len(FIELDS) > 120


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_number_declares_its_range(cls):
    for name, number in ranges.fields_of(cls).items():
        assert number.allowed, (
            f"{cls.__name__}.{name} has no range: write its type as one of ranges.py's, such as "
            "Count or NonNegative, and check it in __post_init__"
        )
        # Whatever the range is, its ends fit the numbers that are computed with.
        assert -1e12 <= number.allowed.low <= number.allowed.high <= 1e12
    # One that is no number alone may hold some: `float | None` would go unnoticed.
    for name, hint in typing.get_type_hints(cls).items():
        inside = {*typing.get_args(hint)} - {*ranges.fields_of(cls)}
        assert name in ranges.fields_of(cls) or not inside & {int, float} or hint == tuple[int, ...]


def made(cls, name, value):
    if ranges.fields_of(cls)[name].mapping:
        value = {"min_length" if name == "filters" else "5": value}
    return cls(**(REQUIRED.get(cls.__name__, {}) | {name: value}))


@pytest.mark.parametrize("cls,name", FIELDS, ids=[f"{c.__name__}.{n}" for c, n in FIELDS])
def test_what_no_field_takes(cls, name):
    number = ranges.fields_of(cls)[name]
    for value in (*NEVER, 10**400, *((1.5, 2.0) if number.kind is int else ())):
        if value is None and number.optional:
            continue
        with pytest.raises(ConfigError, match=rf"(^|\.){name}(\.\w+)?=.*; it must be "):
            made(cls, name, value)
    for value in (-1, 0, number.allowed.low, number.allowed.high):
        value = number.kind(value)
        if value not in number.allowed:
            with pytest.raises(ConfigError, match=rf"(^|\.){name}(\.\w+)?=.*; it must be "):
                made(cls, name, value)
            continue
        try:
            made(cls, name, value)
        except ValueError as error:  # what two fields say together is checked by the class
            assert "it must be at" not in str(error) and name in str(error)


def groups(cls=RunConfig, prefix=""):
    """(class, prefix of its keys) of a run's settings."""
    yield cls, prefix
    for name, kind in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(kind):
            yield from groups(kind, f"{prefix}{name}.")


@pytest.mark.parametrize("cls,prefix", list(groups()), ids=str)
def test_a_recipe_s_number_is_refused_by_its_whole_key(cls, prefix):
    recipe = default().to_dict()
    for name in filter(None, prefix.split(".")):
        recipe = recipe[name]
    for name, number in ranges.fields_of(cls).items():
        for value in () if number.mapping else NEVER:
            if value is None and number.optional:
                continue
            with pytest.raises(ConfigError) as error:
                build_group(recipe | {name: value}, cls, prefix, KEYS)
            assert str(error.value).startswith(f"{prefix}{name}={value!r}"[:30])
            assert "\n" not in str(error.value)


def test_ends_of_a_range():
    assert [x in Range(0, 1, "[)") for x in (-0.1, 0, 0.5, 1)] == [False, True, True, False]
    assert [x in Range(0, 1, "(]") for x in (0, 1, 1.1)] == [False, True, False]
    assert [x in Range(2, 9, also=0) for x in (0, 1, 2, 9, 10)] == [True, False, True, True, False]
    assert str(Range(1, 2**31 - 1, also=-1)) == "at least 1, or -1"
    assert str(Range(0, 0.5, "[)")) == "at least 0 and below 0.5"


def test_numpy_s_numbers_are_numbers():
    assert Sampling(np.int64(3), np.float32(0.5)).max_new_tokens == 3


def test_seeds_are_different_keys():
    number = ranges.fields_of(RunConfig)["seed"].allowed
    assert 2**32 - 1 in number and 2**32 not in number
    found = {tuple(jax.random.key_data(jax.random.key(s)).tolist()) for s in (0, 1, 2**32 - 1)}
    assert len(found) == 3


def test_the_kl_coefficient_cannot_change_its_sign():
    recipe = default()
    recipe.rl.kl_target, recipe.rl.kl_horizon = 6.0, 10
    with pytest.raises(ConfigError, match=r"rl\.kl_horizon=10 lets a rollout of 64 .* below 0"):
        build(recipe)


@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon"])
def test_an_optimizer_works_at_the_ends_of_its_ranges(name):
    """All settings at their lowest value, or at 0 if allowed: the update is finite and descends."""
    params = {"query": jnp.ones((1, 2, 1, 2)), "scale_norm": jnp.ones(2)}
    gradients = jax.tree.map(lambda x: x * 1e-3, params)
    for lowest in ("low", "zero"):
        given = {}
        for field, number in ranges.fields_of(optimizer.OptimizerConfig).items():
            value = number.allowed.low if lowest == "low" else 0
            if field != "peak_lr" and not number.mapping and value in number.allowed:
                given[field] = number.kind(value)
        config = optimizer.OptimizerConfig(name=name, **given)
        tx = optimizer.one_model(config, 3)
        updates, _ = jax.jit(tx.update)(gradients, tx.init(params), params)
        for update in jax.tree.leaves(updates):
            assert np.isfinite(update).all() and (update < 0).all()


def at_zero(recipe):
    """The recipe with every number at 0 that allows it, except the sizes of the model, the learning
    rates and the settings that give the score."""
    for cls, prefix in groups():
        tree = recipe
        for name in filter(None, prefix.split(".")):
            tree = tree[name]
        for name, number in ranges.fields_of(cls).items():
            kept = prefix in ("model.", "rewards.") or name == "peak_lr"
            if not kept and not number.mapping and 0 in number.allowed:
                tree[name] = number.kind(0)
    return build(recipe)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "sft", "ppo"])
def test_a_run_works_with_all_at_zero_that_may_be(stage, tmp_path):
    one, run = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1]), tmp_path / "run"
    if stage == "ppo":
        tiny_ppo.write_origins(tmp_path)
        recipe = tiny_ppo.recipe("ppo", tmp_path)
        loop.run(at_zero(recipe), run, one, open_data=tiny_ppo.OPEN_DATA)
    else:
        stage_fixtures.write_files(tmp_path)
        loop.run(at_zero(stage_fixtures.recipe(stage, tmp_path)), run, one)
    losses = [record["loss"] for record in read_metrics(run, "train")]
    assert len(losses) == 8 and np.isfinite(losses).all()
    assert stage == "ppo" or losses[-1] < losses[0]
