"""Budgets: the steps that they are, recorded once; what is refused."""

import dataclasses
import json

import jax
import pytest

from model import sharding, weights
from ranges import ConfigError
from train import loop
from train.assembly import budget
from train.assembly.run import setup
from train.config.budget import Budget, from_steps, parse
from train.config.overrides import gather
from train.config.run import RunConfig, build, default
from train.config.saved import recipe_of
from train.objectives import registry
from train.runtime.records import read_metrics


@pytest.fixture
def mesh():
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    with jax.set_mesh(mesh):
        yield mesh


def test_forms():
    assert parse("20x") == Budget(20.0, "x") and parse(" 1.5H ") == Budget(1.5, "h")
    assert parse("1e18flops") == Budget(1e18, "flops") and parse("3e6 tokens").amount == 3e6
    assert from_steps("500") == {"steps": 500, "budget": ""}
    for text in ("20", "x", "0x", "-2x", "1e999x", "20 y", "1.2.3x", "nanh"):
        with pytest.raises(ConfigError, match="is no budget; write a number of steps, 20x"):
            parse(text)


def test_steps_take_a_budget_in_recipes_and_on_the_command_line():
    recipe = default()
    recipe.steps = "20x"
    assert build(recipe).budget == "20x"
    recipe.steps = "500"  # as a command line sets it where the recipe has a text
    assert (build(recipe).steps, build(recipe).budget) == (500, "")
    plain = default().to_dict()
    argv = ["train", "--config.steps=20x", "--config.seed=1"]
    assert gather(argv, plain) == ["train", "--config.seed=1", "--config.budget=20x"]
    chain = {"order": ("a",), "stages": {"a": plain}}
    assert gather(["c", "--config.stages.a.steps=2h"], chain)[1] == "--config.stages.a.budget=2h"
    with pytest.raises(ConfigError, match="steps='many' is no budget"):
        gather(["train", "--config.steps=many"], plain)
    # The last counts, and a number replaces the budget of a recipe.
    assert gather([*argv, "--config.steps=9"], plain)[2:] == ["--config.steps=9"]
    given = gather(["train", "--config.steps", "9"], plain | {"budget": "20x"})
    assert given[1:] == ["--config.steps", "9", "--config.budget="]


def test_tokens_a_parameter_count_embeddings_and_the_schedule_follows(tiny, tmp_path, mesh):
    tiny.steps = "0.5x"
    run = setup(build(tiny), tmp_path / "run", mesh)
    count = sum(x.size for x in jax.tree.leaves(run.abstract.trainable))
    tokens = tiny.data.batch_size * tiny.data.length
    config = run.ctx.config
    assert config.steps == round(0.5 * count / tokens) > 1
    rates = run.rates["policy"]
    assert rates[config.steps - 1] == rates[-1] < rates[config.steps - 2]
    assert f"× {count:,} parameters / {tokens:,} tokens a step" in budget.line(run)

    cost = weights.flops_per_token(run.ctx.models["policy"], tiny.data.length) * tokens
    resolved = budget.resolve(
        dataclasses.replace(run.ctx, config=dataclasses.replace(config, budget=f"{cost * 7}flops")),
        run.objective, {"policy": run.abstract.trainable["policy"]}, run.parts,
    )  # fmt: skip
    assert resolved.steps == 7
    tiny.steps = "1tokens"
    with pytest.raises(ConfigError, match=rf"is {1 / tokens:.2g} steps of {tokens} tokens; give a"):
        setup(build(tiny), tmp_path / "other", mesh)


def test_hours_are_steps_by_the_time_of_the_first_recorded_and_kept(
    tiny, tmp_path, mesh, monkeypatch, capsys
):
    seconds = [0.9]
    monkeypatch.setattr(budget.statistics, "median", lambda times: seconds[0])
    hours, plain = tmp_path / "hours", tmp_path / "plain"
    loop.run(tiny, plain, mesh)
    tiny.steps = "0.001h"
    loop.run(tiny, hours, mesh)
    config = json.loads((hours / "config.json").read_text())
    assert (config["steps"], config["budget"]) == (4, "0.001h")
    # The timed steps leave no trace: it is the run of as many steps.
    kept = ("step", "loss", "learning_rate")
    records = [[{k: r.get(k) for k in kept} for r in read_metrics(d, "train")]
               for d in (hours, plain)]  # fmt: skip
    assert records[0] == records[1] != []
    seconds[0] = 0.1
    loop.run(tiny, hours, mesh)
    assert "is finished at step 4; nothing to do" in capsys.readouterr().out
    assert recipe_of(str(hours)).steps == 4 and not recipe_of(str(hours)).budget


def test_a_stage_that_samples_has_no_budget():
    config = RunConfig(stage="ppo", budget="20x")
    with pytest.raises(ConfigError, match=r"budget=20x and stage=ppo, which samples"):
        budget.check(config, registry.STAGES["ppo"])
