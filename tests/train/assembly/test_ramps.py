"""Runs with ramps: the same bits from every step on; what they count; what is refused."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from stage_fixtures import recipe, write_files

from model import sharding
from ranges import ConfigError
from train import loop
from train.assembly import budget, ramps
from train.assembly.run import setup
from train.attempt import Hooks
from train.checkpoints import loading
from train.config.run import build
from train.measures.costs import Costs
from train.objectives import registry
from train.runtime.records import read_metrics
from train.step import TrainState
from train.sweep.programs import Count, Steps
from train.terminal import messages

STEPS = 8


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ramps")
    write_files(directory)
    return directory


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:2])


BATCHES, LENGTHS = {"2": 4, "5": 8}, {"3": 16}


def settings(directory, stage="pretrain", batch_ramp=BATCHES, length_ramp=LENGTHS, **changes):
    """A recipe with batches of 4, 8 and 16 rows, of which the first ones are cut into three."""
    config = recipe(stage, directory)
    config.model.num_layers = 1
    config.data.heldout_limit = 16
    config.data.update(batch_ramp=batch_ramp, length_ramp=length_ramp)
    config.accumulate = 2
    config.evaluate.update(at_start=False, samples=0)
    config.update(steps=STEPS, log_every=1)
    config.checkpoint.update(every=1, keep=99)
    for key, value in changes.items():
        config.update_from_flattened_dict({key.replace("__", "."): value})
    return config


def kept(workdir):
    """The records of every step, without times."""
    names = ("step", "loss", "grad_norm", "learning_rate", "tokens", "rows", "epochs", "flops")
    return [{name: r[name] for name in names} for r in read_metrics(workdir, "train")]


def same_weights(a, b):
    trees = (jax.tree.leaves(jax.device_get(loading.load(path)[1])) for path in (a, b))
    for ours, theirs in zip(*trees, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module", params=["pretrain", "sft", "reward"])
def run(request, directory, mesh):
    """(recipe, workdir) of a whole run, and hooks with its programs."""
    lengths = {} if request.param == "reward" else LENGTHS
    config = settings(directory, request.param, length_ramp=lengths)
    workdir, steps = directory / f"{request.param}-ramp", Steps(Count())
    loop.run(config, workdir, mesh, hooks=Hooks(jit=steps))
    return config, workdir, Hooks(jit=steps)


@pytest.mark.slow
def test_a_run_resumed_anywhere_in_a_ramp_is_the_uninterrupted_one(run, mesh, tmp_path):
    config, workdir, hooks = run
    sizes = [4, 4, 8, 8, 8, 16, 16, 16]
    assert [r["rows"] for r in kept(workdir)] == np.cumsum(sizes).tolist()
    tokens = 48 * (config.data.sub_rows if config.stage == "reward" else 1)
    assert [r["tokens"] for r in kept(workdir)] == (tokens * np.cumsum(sizes)).tolist()
    for step in (1, 2, 4, 5):
        copy = tmp_path / f"at{step}"
        shutil.copytree(workdir, copy)
        for saved in (copy / "checkpoints").iterdir():
            if saved.name.isdecimal() and int(saved.name) > step:
                shutil.rmtree(saved)
        loop.run(config, copy, mesh, hooks=hooks)
        assert kept(copy) == kept(workdir)
        same_weights(copy, workdir)


def test_levels_have_their_own_costs_and_microbatches(directory, mesh, tmp_path):
    with jax.set_mesh(mesh):
        run = setup(build(settings(directory)), tmp_path / "new", mesh)
        levels = ramps.levels(run.ctx.config, sharding.batch_shards(mesh))
        text, costs = [" · ".join(parts) for parts in messages.ramp(run)], Costs(run)
        header = " · ".join(messages.header(run, tmp_path))
    shapes = [level.shape for level in levels]
    assert shapes == [(12, 16), (24, 16), (8, 48), (16, 48)]
    assert [level.config.accumulate for level in levels] == [1, 1, 1, 2]
    spent = [costs.of({"tokens": np.zeros(shape)}) for shape in shapes]
    assert [(c.rows, c.tokens) for c in spent] == [(n, 48 * n) for n in (4, 8, 8, 16)]
    flops = [c.flops for c in spent]
    # Short rows cost less, by attention alone.
    assert 0.8 < 4 * flops[0] / flops[3] < 1 and flops[3] == pytest.approx(2 * flops[2])
    wanted = np.dot([1, 1, 2, 1], flops) / flops[0]
    np.testing.assert_allclose(costs.work(6) - costs.work(1), wanted)
    assert "8 steps of 192 to 768 tokens" in header
    assert text[0].startswith("  until step 2: 12 rows of 16 tokens · 1 microbatch · ")
    assert text[3:] == [
        "  then 16 rows of 48 tokens · 2 microbatches",
        "  the step is compiled for each of these shapes: 4 programs",
    ]


@pytest.mark.slow
def test_a_ramp_changes_rows_and_not_what_is_learned_of_them(directory, mesh, tmp_path):
    """A level is a run of its batch size; microbatches add."""
    constant = dict(optimizer__schedule="constant")
    loop.run(
        settings(directory, batch_ramp={"2": 4}, length_ramp={}, **constant),
        tmp_path / "ramp",
        mesh,
    )
    small = settings(
        directory,
        batch_ramp={},
        length_ramp={},
        data__batch_size=4,
        steps=2,
        accumulate=1,
        **constant,
    )
    loop.run(small, tmp_path / "alone", mesh)
    losses = [[r["loss"] for r in kept(tmp_path / name)] for name in ("ramp", "alone")]
    assert losses[0][:2] == losses[1]
    held_out = read_metrics(tmp_path / "ramp", "eval")[-1]
    assert held_out["step"] == STEPS and held_out["loss"] > 0


@pytest.mark.slow
def test_a_fork_takes_a_ramp_that_read_the_same_rows(directory, mesh, tmp_path):
    flat = dict(batch_ramp={}, length_ramp={}, accumulate=1)
    loop.run(settings(directory, data__batch_size=4, **flat), tmp_path / "parent", mesh)
    larger = settings(directory, **flat)
    at_3 = f"{tmp_path / 'parent'}@3"
    with pytest.raises(ConfigError, match=r"has read 12 rows in 3 batches, .* read\n?.* 48: .*"
                       r'Add --config.data.batch_ramp="{3: 4}"'):  # fmt: skip
        loop.run(larger, tmp_path / "fork", mesh, fork=at_3)
    larger.data.batch_ramp = {"3": 4}
    loop.run(larger, tmp_path / "fork", mesh, fork=at_3)
    loop.run(larger, tmp_path / "planned", mesh)
    assert kept(tmp_path / "fork") == kept(tmp_path / "planned")[3:]
    same_weights(tmp_path / "fork", tmp_path / "planned")


def test_budgets_count_the_levels(directory, mesh, tmp_path):
    config = settings(directory, steps=f"{48 * (4 * 2 + 8 * 3 + 16 * 4)}tokens")
    with jax.set_mesh(mesh):
        ready = setup(build(config), tmp_path / "run", mesh)
        assert ready.ctx.config.steps == 9
        objective, parts = ready.objective, ready.parts
        whole = {"policy": jax.eval_shape(lambda: ready.abstract.trainable["policy"])}
        total = sum(
            messages.flops_per_step(ready, level.config) * level.among(9)
            for level in ramps.levels(ready.ctx.config, sharding.batch_shards(mesh))
        )
        in_flops = dataclasses.replace(ready.ctx.config, budget=f"{total:.6e}flops")
        ctx = dataclasses.replace(ready.ctx, config=in_flops)
        assert budget.resolve(ctx, objective, whole, parts).steps == 9
        with pytest.raises(ConfigError, match=r"batch_ramp\.5: it would end at step 5, .* steps=3"):
            setup(build(settings(directory, steps=f"{48 * 16}tokens")), tmp_path / "few", mesh)
    costs = [(range(2), 3.0), (range(2, 5), 1.0), (range(5, 9), 2.0)]
    assert [ramps.steps_for(x, costs) for x in (3, 7.5, 9, 29)] == [1, 3.5, 5, 15]


def test_hours_are_those_of_every_level(directory, mesh, tmp_path, monkeypatch):
    """With a clock of a quarter of a second for each row of a batch."""
    now = [0.0]

    def step(state, frozen, batch):
        now[0] += batch["tokens"].shape[0] / 4
        return state, {}

    monkeypatch.setattr(budget.time, "perf_counter", lambda: now[0])
    with jax.set_mesh(mesh):
        run = setup(build(settings(directory, steps="1h")), tmp_path / "run", mesh)
        state = TrainState(0, {}, {}, run.stage.source.init())
        assert budget.measured(run, state, step).steps == 5 + (3600 - 2 * 3 - 6 - 2 * 2) // 4


def test_what_takes_no_ramp_is_refused_with_the_reason(directory, mesh):
    def refused(stage, message, **changes):
        config = settings(directory, stage, **changes)
        with pytest.raises(ConfigError, match=message):
            registry.validate(build(config), mesh)

    policy, reward = dict(init_from__policy="x"), dict(init_from__reward="x")
    refused("ppo", r"batch_ramp: stage ppo makes its batches of rollouts", **policy, **reward)
    refused("dpo", r"length_ramp cuts rows of text and of conv.* dpo reads rows of pref", **policy)
    refused("pretrain", r"batches of 3 rows do not divide", batch_ramp={"2": 3})
    refused("pretrain", r"batch_ramp\.8: it would end at step 8, .*steps=8", batch_ramp={"8": 4})
    refused("pretrain", r"pretrain_data\.batch_ramp", pretrain_data__batch_ramp={"2": 4})
    refused("pretrain", r"optimizer\.cycles\.9: a cycle would begin", optimizer__cycles={"9": 1e-3})
