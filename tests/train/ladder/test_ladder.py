"""Ladders: the runs, what is refused, what is said of too few, and the files at the end."""

import json

import numpy as np
import pytest
from stage_fixtures import recipe as stage_recipe

from model.config import TransformerConfig
from model.sizes import SIZES
from ranges import ConfigError
from train.checkpoints import saved_models
from train.config.run import default
from train.ladder import laws, run, rungs, study, texts
from train.ladder.rungs import Rung
from train.runtime import processes, resume
from train.runtime.metrics import Metrics


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(laws, "RESAMPLES", 60)  # test_laws.py has all


def recipe():
    config = default()
    config.data.batch_size, config.data.length, config.model.size = 4, 32, "tiny"
    return config


SIZES3 = ["tiny", "embed_dim=48", "tiny+embed_dim=64+mlp_dim=96"]


def test_a_ladder_is_every_size_with_every_budget_the_cheap_ones_first():
    runs = rungs.plan(recipe(), SIZES3, ["20x", "5x"])
    assert list(runs) == [
        "tiny-5x", "embed_dim48-5x", "tiny-20x", "tiny+embed_dim64+mlp_dim96-5x",
        "embed_dim48-20x", "tiny+embed_dim64+mlp_dim96-20x",
    ]  # fmt: skip
    size, config = runs["tiny+embed_dim64+mlp_dim96-5x"]
    assert size == SIZES3[2] and config.budget == "5x"
    assert (config.model.embed_dim, config.model.mlp_dim, config.model.num_layers) == (64, 96, None)


@pytest.mark.parametrize(
    "sizes, tokens, message",
    [
        ([], ["20x"], "--sizes names no size"),
        (["tiny", "1mm"], ["20x"], r"--sizes=1mm: model.size='1mm'; the sizes are .*did you mean"),
        (["embed_dimm=9"], ["20x"], "--sizes=embed_dimm=9: .*embed_dim"),
        (["embed_dim="], ["20x"], "embed_dim has no value"),
        (["tiny", "embed_dim=32"], ["20x"], "tiny and embed_dim=32 are the same model"),
        (["tiny"], ["20x", "20x"], "--tokens names 20x twice"),
        (["tiny"], ["20"], "--tokens='20' is no budget"),
        (["tiny"], ["2h"], "--tokens=2h; give 20x"),
    ],
)
def test_what_cannot_be_a_ladder_is_refused_before_any_run(sizes, tokens, message):
    with pytest.raises(ConfigError, match=message):
        rungs.plan(recipe(), sizes, tokens)


def test_only_pretraining_from_scratch_is_a_ladder(tmp_path):
    with pytest.raises(ConfigError, match="stage=sft: a ladder pretrains"):
        rungs.plan(stage_recipe("sft", tmp_path), ["tiny"], ["20x"])
    other = recipe()
    other.init_from.policy = "runs/base"
    with pytest.raises(ConfigError, match="no other size can start from those weights"):
        rungs.plan(other, ["tiny"], ["20x"])


def test_parameters_are_those_of_the_trained_model():
    model = TransformerConfig(vocab_size=100, **SIZES["tiny"])
    layer = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64 + 2 * 32
    assert rungs.count(model) == 128 * 32 + 32 + 2 * layer


# The study.


def ladder(sizes=(1e6, 2e6, 4e6, 8e6), ratios=(5, 20, 80), noise=0.001):
    rng, out = np.random.default_rng(0), []
    for n in sizes:
        for ratio in ratios:
            d = n * ratio
            loss = 1.7 + 300 / n**0.35 + 400 / d**0.3
            loss *= np.exp(noise * rng.standard_normal())
            out.append(Rung(f"{n:.0f}-{ratio}x", f"{n:.0f}", int(n), int(d), 6 * n * d, loss))
    return out


def test_too_few_runs_say_nothing_and_say_so():
    result = study.study(ladder(sizes=(1e6, 2e6, 4e6), ratios=(20,)))
    assert result.joint is None and result.compute is None
    joint, compute = result.remarks
    assert "too small for L(N, D)" in joint and "with 20 tokens a parameter" in joint
    assert "too small for L(C)" in compute and "It has 3." in compute
    prediction = study.predict(result, "1e20flops", int, "20x")
    assert texts.predicted(prediction) == "1e20flops: nothing can be said"


def test_a_ladder_of_one_ratio_has_no_law_of_two_variables():
    result = study.study(ladder(sizes=np.geomspace(1e6, 1e8, 7), ratios=(20,)))
    assert result.joint is None and result.compute is not None


def test_noise_as_large_as_what_is_learned_is_said():
    result = study.study(ladder(sizes=(1e6, 1.1e6, 1.2e6), ratios=(20, 40), noise=0.05))
    assert any("too noisy to say how the loss falls" in text for text in result.remarks)


def test_a_run_that_more_tokens_made_worse_is_named():
    runs = ladder()
    runs[2] = runs[2]._replace(loss=runs[1].loss + 0.1)
    assert any(f"{runs[2].name} is worse than {runs[1].name}" in x for x in study._worse(runs))
    assert len(study._worse(runs)) == 1


def test_predictions_of_sizes_and_of_compute():
    result = study.study(ladder())
    assert not result.remarks
    count = {"125m": 125_000_000}.__getitem__
    size = study.predict(result, "125m", count, "20x")
    assert (size.parameters.value, size.tokens.value) == (125e6, 2.5e9)
    assert size.loss.low < 1.7 + 300 / 125e6**0.35 + 400 / 2.5e9**0.3 < size.loss.high
    assert study.predict(result, "125m@1e9tokens", count, "20x").tokens.value == 1e9
    compute = study.predict(result, "1e19flops", count, "20x")
    np.testing.assert_allclose(6 * compute.parameters.value * compute.tokens.value, 1e19)
    assert "best spent on" in texts.predicted(compute)
    assert "times the compute of the largest run" in study.far(result, compute)
    assert not study.far(result, study.predict(result, "1e16flops", count, "20x"))
    with pytest.raises(ConfigError, match="--predict=125m@2h; give tokens"):
        study.predict(result, "125m@2h", count, "20x")


# All of it, with runs that do not train.


@pytest.fixture
def trained(monkeypatch):
    """The names of the runs that were trained, in order; `fails` of them raise."""
    calls: list[str] = []

    def train(config, workdir, **options):
        calls.append(workdir.name)
        if workdir.name in fails:
            raise fails[workdir.name]
        model = config.model.build(100)
        number = 100 * (1 + sum(name == workdir.name for name in calls))
        object.__setattr__(config, "steps", number)
        workdir.mkdir()
        (workdir / "checkpoints" / str(number)).mkdir(parents=True)
        saved_models.save_models(workdir, {"policy": model})
        (workdir / "config.json").write_text(resume.config_json(config))
        n, d = rungs.count(model), float(config.budget[:-1])
        metrics = Metrics(workdir, 0, number, True)
        metrics.write(number, "eval", {"loss": 1.5 + 30 / n**0.3 + 2 / d**0.5}, {})
        metrics.close()

    fails: dict[str, Exception] = {}
    monkeypatch.setattr(rungs.loop, "run", train)
    calls_and_fails = calls, fails
    return calls_and_fails


def test_a_ladder_passes_over_failures_resumes_and_writes_its_files(trained, tmp_path, capsys):
    calls, fails = trained
    workdir, budgets = tmp_path / "ladder", ["5x", "20x"]
    workdir.mkdir()
    fails["embed_dim48-5x"] = ValueError("no room")
    fails["embed_dim48-20x"] = processes.Stopped("saved")
    with pytest.raises(processes.Stopped):
        run.run(recipe(), workdir, SIZES3, budgets, ["1m"])
    assert not (workdir / "ladder.json").exists()
    del fails["embed_dim48-20x"]
    before = list(calls)
    assert not run.run(recipe(), workdir, SIZES3, budgets, ["1m"])
    # The done ones are not trained again; the failed one is tried again.
    assert set(calls[len(before) :]).isdisjoint({"tiny-5x", "tiny-20x"})
    out = capsys.readouterr().out
    assert "embed_dim48-5x: ValueError: no room" in out and "too small for L(N, D)" in out
    del fails["embed_dim48-5x"]
    assert run.run(recipe(), workdir, SIZES3, budgets, ["1m", "1e12flops"])
    content = json.loads((workdir / "ladder.json").read_text())
    assert [r["name"] for r in content["runs"]] == list(rungs.plan(recipe(), SIZES3, budgets))
    assert set(content["laws"]["N, D"]) == {"E", "A", "B", "alpha", "beta"}
    assert content["failed"] == {} and len(content["predictions"]) == 2
    assert (workdir / "table.md").read_text().count("\n") == 8
    page = (workdir / "ladder.html").read_text()
    assert page.count("<svg") == 3 and "http" not in page and "NaN" not in page
    with pytest.raises(ConfigError, match="--predict=1mm"):
        run.run(recipe(), workdir, SIZES3, budgets, ["1mm"])
