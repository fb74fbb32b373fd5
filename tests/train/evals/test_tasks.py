"""Benchmarks as evaluations of a run, and the same numbers by the command afterwards."""

import json

import jax
import pytest
from documentation import ROOT

from data.errors import DataError
from data.text.tokenizer import train
from model import sharding
from ranges import ConfigError
from train import loop
from train.checkpoints.checkpointer import Checkpointer
from train.config.run import build, default
from train.evals import registry
from train.objectives.registry import STAGES
from train.runtime.records import read_metrics, read_records
from train.tasks.evaluation import command

BYTES = train("byte", [], 0)
CAPITALS = str(ROOT / "examples/evaluate/capitals.yaml")


def test_a_run_logs_the_numbers_of_the_command(tiny, tmp_path, monkeypatch, capsys):
    config, workdir = tiny, tmp_path / "run"
    copied = tmp_path / "copied.jsonl"
    copied.write_text((ROOT / "examples/evaluate/capitals.jsonl").read_text())
    towns = dict(type="task", task=CAPITALS, shots=1, limit=6)
    config.evals = {"towns": towns | {"every": 2}, "copy": towns | {"source": str(copied)}}
    config.evaluate.samples, config.evaluate.sample_tokens = 1, 2
    one = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    loop.run(config, workdir, one)
    assert "  step 4: towns: acc 0" in capsys.readouterr().out
    logged = {record["step"]: record for record in read_metrics(workdir, "eval")}
    assert logged[2]["towns/acc"] is not None and "copy/acc" not in logged[2]
    assert logged[4]["copy/acc_norm"] == logged[4]["towns/acc_norm"]
    samples = [s for s in read_records(workdir / "samples.jsonl") if s.get("eval") == "towns"]
    assert {"prompt", "response", "reference", "right"} <= samples[0].keys()
    content = Checkpointer(workdir, 2).meta(4)["content"]
    assert content["evals.towns"] == content["evals.copy"]

    monkeypatch.setattr(command, "begin", lambda *_: None)
    monkeypatch.setattr(command, "make_mesh", lambda _: one)
    assert command.run(command.Options(f"{workdir}@2", [CAPITALS], shots=[1], limit=6)) == 0
    assert logged[2]["towns/ece"] != logged[4]["towns/ece"]
    results = json.loads((workdir / "evals/@2/results.json").read_text())
    for metric, value in results["results"][0]["metrics"].items():
        assert logged[2][f"towns/{metric}"] == value["value"]
        assert logged[2].get(f"towns/{metric}_stderr") == value["stderr"]


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(task="arc_esy"), r"evals\.a\.task='arc_esy'; .*did you mean arc_easy"),
        (dict(task="core"), r"evals\.a\.task=core is a group of tasks"),
        (dict(task="piqa", fields={"text": "x"}), r"evals\.a\.fields is of rows of data"),
        (dict(task="piqa", length=8), r"evals\.a\.length is of rows of data"),
        (dict(task="piqa", source=["a.jsonl", "b.jsonl"]), r"evals\.a\.source has several files"),
        (dict(task="piqa", shots=-1), r"evals\.a\.shots=-1; it must be at least 0"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_read(settings, message):
    recipe = default()
    recipe.evals = {"a": dict(type="task", **settings)}
    with pytest.raises(ConfigError, match=message):
        registry.validate(build(recipe), STAGES["pretrain"])


def opened(stage="pretrain", changes=(), **settings):
    recipe = default()
    recipe.data.source = "long.txt"
    recipe.data.update(dict(changes))
    recipe.evals = {"a": dict(type="task", **settings)}
    config = build(recipe)
    return registry.EVALS["task"].open("a", config.evals["a"], config, STAGES[stage])(BYTES)


def test_documents_are_those_of_a_file_or_a_folder_or_of_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "long.txt").write_text("".join(f"{f'word{i} ' * 70}\n" for i in range(20)))
    folder = str(ROOT / "examples/evaluate")
    refusals = opened(task="refusals", source=folder)
    assert len(refusals.requests) == 16 and refusals.shots == 0
    with pytest.raises(DataError, match=r"nothing\.jsonl"):
        opened(task="piqa", source=str(tmp_path / "nothing.jsonl"))
    with pytest.raises(ConfigError, match=r"evals\.a\.shots makes no difference to refusals"):
        opened(task="refusals", source=folder, shots=1)
    assert "long.txt" in opened(task="memorisation", limit=2).documents[0]["where"]
    with pytest.raises(DataError, match="the run reads preference data"):
        opened("reward", task="memorisation")
    grounded = {
        "source": str(ROOT / "examples/questions.jsonl"),
        "fields": {"prompt": "{question}", "response": "{answer}", "sources": "{page}"},
        "passages": {"source": str(ROOT / "examples/help"), "cache_dir": str(tmp_path)},
    }
    asked = opened("sft", grounded, task="grounded", limit=4)
    assert [d["condition"] for d in asked.documents] == ["right", "wrong", "none", "search"]
