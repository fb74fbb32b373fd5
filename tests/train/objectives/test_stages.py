"""The identities that every stage must hold, on 8 virtual devices and one tiny shape."""

import dataclasses
import functools
import json
import os
import shutil
import types
import typing

import numpy as np
import pytest
from stage_steps import MESHES, STAGES, assert_same, five_steps, make_mesh, stage_recipe

from data.text import tokenizer as tokenizers
from model.config import TransformerConfig
from ranges import ConfigError
from train import loop
from train.config import run as configs
from train.guards.settings import Kind
from train.runtime import resume
from train.runtime.records import read_metrics


@pytest.fixture(scope="module")
def reference(stages_dir, tmp_path_factory):
    """reference(stage): its five steps on one device."""

    @functools.cache
    def steps(stage):
        return five_steps(stage, "one", stages_dir, tmp_path_factory.mktemp(stage))

    return steps


def test_evaluations_count_what_their_shares_are_of(stages_dir):
    begin, *_, end = read_metrics(stages_dir / "ppo", "eval")
    assert begin["compared"] == begin["answers"] == end["answers"] == 32
    assert begin["win_rate"] == 0.5 and begin["repetition_rise_low"] == 0
    assert begin["repetition"] == begin["reference_repetition"] == end["reference_repetition"]
    *_, end = read_metrics(stages_dir / "dpo", "eval")
    assert end["pairs/all"] == end["pairs/overall"] > 0
    assert end["pairs/all"] % 3 == 0  # rankings of three answers


@pytest.mark.parametrize("stage", STAGES)
def test_losses_move(stages_dir, stage):
    records = read_metrics(stages_dir / stage, "train")
    losses, norms = np.array([(r["loss"], r["grad_norm"]) for r in records]).T
    assert len(records) == 8 and np.all(np.isfinite(losses)) and np.ptp(losses) > 1e-4
    assert norms.max() > 1e-4


def quick(*stages):
    """All stages; those are slow tests whose steps differ little from the quick ones'."""
    return [s if s in stages else pytest.param(s, marks=pytest.mark.slow) for s in STAGES]


@pytest.mark.parametrize("stage", quick("sft", "reward", "kto", "ppo"))
def test_accumulated_equals_big_batch(reference, stages_dir, tmp_path, stage):
    assert_same(five_steps(stage, "one", stages_dir, tmp_path, accumulate=4), reference(stage))


# The mesh `all` has three axes.
QUICK = {(s, "all") for s in ("sft", "reward", "kto", "ppo")} | {("pretrain", "sequence")}


@pytest.mark.parametrize(
    "stage,mesh",
    [
        pytest.param(s, m, marks=[] if (s, m) in QUICK else pytest.mark.slow)
        for s in STAGES
        for m in MESHES
        if m != "one"
    ],
)
def test_one_device_equals_eight(reference, stages_dir, tmp_path, stage, mesh):
    expected, change = reference(stage), None
    if (stage, mesh) == ("reward", "sequence"):  # rows of shared prompts are not split

        def change(config):
            config.data.share_prompt = False

        expected = five_steps(stage, "one", stages_dir, tmp_path / "one", change=change)
    assert_same(five_steps(stage, mesh, stages_dir, tmp_path, change=change), expected)


@pytest.mark.parametrize("stage", quick("sft", "ppo"))
def test_resumed_equals_uninterrupted(stages_dir, tmp_path, stage):
    """From every checkpoint: of PPO's, steps 3 and 6 lie in the middle of an experience."""
    config = stage_recipe(stage, stages_dir)
    done = stages_dir / stage
    workdir = tmp_path / stage
    shutil.copytree(done, workdir)
    for step in (6, 8):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    loop.run(config, workdir, make_mesh("one"))

    def records(path):
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        timing = ("elapsed_seconds", "tokens_per_second", "data_wait", "rollout/seconds",
                  "rollout/tokens_per_second", "rollout/share")  # fmt: skip
        return [
            {k: v for k, v in r.items() if k not in timing and not k.startswith("checkpoint/")}
            for r in lines
        ]

    assert records(workdir) == records(done)
    assert (workdir / "samples.jsonl").read_text() == (done / "samples.jsonl").read_text()


@pytest.mark.parametrize(
    "key,value,message",
    [
        (
            "optimizer.peak_lr",
            0.5,
            r"other settings:\noptimizer\.peak_lr: 0\.003 -> 0\.5 \(allowed when named\)\n"
            r"Type the old values, or add --allow_change=optimizer\.peak_lr; .*--workdir=NEW --c",
        ),
        ("model.embed_dim", 48, r"other settings:\nmodel\.embed_dim: None -> 48 \(refused\)\n"),
    ],
)
def test_a_changed_run_is_refused_and_the_old_one_is_untouched(
    stages_dir, tmp_path, key, value, message
):
    config = stage_recipe("pretrain", stages_dir)
    workdir = tmp_path / "pretrain"
    shutil.copytree(stages_dir / "pretrain", workdir)

    def files():
        return {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}

    before = files()
    section, field = key.split(".")
    config[section][field] = value
    with pytest.raises(ConfigError, match=message):
        loop.run(config, workdir, make_mesh("one"))
    assert files() == before


@pytest.mark.parametrize(
    "stage,name,setting",
    [
        ("pretrain", "text.txt", "data"),
        ("reward", "preferences.jsonl", "data"),
        ("ppo", "text.txt", "pretrain_data"),
    ],
)
def test_the_bytes_of_the_data_decide_whether_a_run_goes_on(
    stages_dir, tmp_path, capsys, stage, name, setting
):
    """A finished run, so that nothing is trained: elsewhere, changed, and changed as allowed."""
    config, workdir, path = stage_recipe(stage, stages_dir), tmp_path / stage, tmp_path / name
    shutil.copytree(stages_dir / stage, workdir)
    shutil.copy(stages_dir / name, path)
    config[setting].source = str(path)
    loop.run(config, workdir, make_mesh("one"))
    before, stat = path.read_bytes(), path.stat()
    path.write_bytes(before.replace(b"file", b"life", 1))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other_rows = rf"(?s){setting}: rows '\w+' -> .*allow_change={setting};"
    with pytest.raises(ConfigError, match=other_rows):
        loop.run(config, workdir, make_mesh("one"))
    assert capsys.readouterr().out.count("warning") == 0
    loop.run(config, workdir, make_mesh("one"), allow_change=(setting,))
    assert f"warning: {setting} has changed rows" in capsys.readouterr().out


POLICY = types.SimpleNamespace(trainable=("policy",))


def test_places_of_data_may_change_where_the_rows_are_known():
    def text(path):
        mixture = {"a": {"source": path, "weight": 1.0}}
        data = {"source": path, "heldout_source": [path], "mixture": mixture, "length": 9}
        return json.dumps({"data": data, "pretrain_data": {"tfds_dir": path}, "steps": 1})

    rows = {"tokenizer": "t", "data": "1", "pretrain_data": "2"}
    run = types.SimpleNamespace(origins={}, content=rows, objective=POLICY)
    meta = {"frozen": {}, "config": text("here"), "content": rows}
    changes = resume.check_resume("w", meta, run, text("there"), 1)
    assert len(changes) == 4 and all(change.kind is Kind.FREE for change in changes)
    with pytest.raises(ConfigError, match=r"data\.heldout_source: .* \(allowed when named\)"):
        resume.check_resume("w", {"frozen": {}, "config": text("here")}, run, text("there"), 1)
    run.content = rows | {"pretrain_data": "3"}
    with pytest.raises(ConfigError, match=r"pretrain_data: rows '2' -> rows '3' \(allowed when"):
        resume.check_resume("w", meta, run, text("here"), 1)
    (change,) = resume.check_resume("w", meta, run, text("here"), 1, ("pretrain_data",))
    assert (change.setting, change.kind) == ("pretrain_data", Kind.NAMED)


def test_a_run_saved_under_older_names_is_the_same_run():
    def check(saved, now):
        run = types.SimpleNamespace(origins={}, content={}, objective=POLICY)
        saved = {"frozen": {}, "config": json.dumps(saved)}
        return resume.check_resume("w", saved, run, json.dumps(now), 1)

    saved = {"ppo": {"kl_coef": 0.1, "gamma": 1.0}}
    assert check(saved, {"rl": {"kl_coef": 0.1}, "ppo": {"gamma": 1.0}}) == []
    with pytest.raises(ConfigError, match=r"other settings:\nrl\.kl_coef: 0\.1 -> 0\.2"):
        check(saved, {"rl": {"kl_coef": 0.2}, "ppo": {"gamma": 1.0}})


def test_a_replaced_tokenizer_is_refused(stages_dir, tmp_path):
    workdir = tmp_path / "pretrain"
    shutil.copytree(stages_dir / "pretrain", workdir)
    tokenizers.train("byte", [], 0, fim=True).save(workdir / "tokenizer")
    with pytest.raises(ConfigError, match=r"another tokenizer \(.*Restore .*tokenizer"):
        loop.run(stage_recipe("pretrain", stages_dir), workdir, make_mesh("one"))


def test_a_run_with_another_frozen_model_is_refused(stages_dir, tmp_path):
    config = stage_recipe("ppo", stages_dir)
    workdir = tmp_path / "ppo"
    shutil.copytree(stages_dir / "ppo", workdir)
    config.init_from["reference"] = str(stages_dir / "pretrain")
    with pytest.raises(ConfigError, match=r"was trained with the reference of .*/sft"):
        loop.run(config, workdir, make_mesh("one"))


@pytest.mark.parametrize("stage", ["ppo", "grpo"])
def test_the_first_minibatch_of_a_rollout_has_ratio_one(stages_dir, stage):
    lines = [json.loads(x) for x in (stages_dir / stage / "metrics.jsonl").read_text().splitlines()]
    first = next(r for r in lines if r["kind"] == "train")
    assert abs(first["ratio"] - 1) < 1e-5 and first["clip_fraction"] == 0
    assert abs(first["rollout/kl"]) < 1e-4
    rollouts = [r for r in lines if "rollout/kl" in r]
    assert [r["step"] for r in rollouts] == [1, 5], "two epochs of two minibatches a rollout"
    if stage == "grpo":  # samples in int8, and a rollout ahead
        assert [r["rollout/staleness"] for r in rollouts] == [0, 4]
        assert 1e-4 < first["rollout/logprob_gap_mean"] < 0.1
        assert abs(first["rollout/importance_mean"] - 1) < 0.1
    else:
        assert first["rollout/logprob_gap_max"] < 1e-4


def test_every_config_field_is_read(fields_read):
    """A setting that nothing reads is a lie; the stages of the fixture open every branch."""

    def names(cls):
        types = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if dataclasses.is_dataclass(types[field.name]):
                yield from names(types[field.name])
            else:
                yield f"{cls.__name__}.{field.name}"

    every = {*names(configs.RunConfig), *names(TransformerConfig)}
    # A model's settings go on to its TransformerConfig, which would refuse one it does not have.
    every -= {f"ModelConfig.{f.name}" for f in dataclasses.fields(TransformerConfig)}
    assert every - fields_read == set()
