"""The content of a training record: sums that a resumed run continues, rates by group."""

import functools
import io
import json
import zipfile

import jax
import numpy as np
import pytest
from stage_fixtures import sharing

from data.shuffle import permute
from model.sharding import MeshConfig, make_mesh
from train import loop
from train.measures import rates
from train.measures.totals import Totals
from train.optimizer import OptimizerConfig
from train.report import provenance
from train.runtime.records import read_metrics

TIMES = ("elapsed_seconds", "tokens_per_second", "data_wait", "checkpoint/held_seconds")


def records(workdir) -> list[dict]:
    return [
        {name: x for name, x in record.items() if name not in TIMES}
        for record in read_metrics(workdir, "train")
    ]


def documents_begun(workdir, rows) -> int:
    """The number of documents that begin in the first rows of the order of seed 0, by the places
    in the row cache."""
    with zipfile.ZipFile(io.BytesIO((workdir / "rows/text.zip").read_bytes()[32:])) as file:
        examples, ends = (
            np.load(io.BytesIO(file.read(f"origins/{name}.npy"))) for name in ("examples", "ends")
        )
    parts, seen, begun = np.split(examples, ends[:-1]), set(), []
    for part in parts:
        begun.append(len({*part.tolist()} - seen))
        seen |= {*part.tolist()}
    return sum(begun[row] for row in permute(np.arange(rows), len(ends), 0))


def test_a_record_says_how_far_the_run_is_and_a_resumed_one_goes_on_from_there(tiny, tmp_path):
    tiny.statistics = "groups,noise"
    tiny.accumulate, tiny.log_every, tiny.evaluate.at_start = 2, 1, False
    tiny.optimizer.lr_multipliers = {"hidden": 0.5, "final_norm": 2.0}
    one_device = make_mesh(MeshConfig(), jax.devices()[:1])
    run = functools.partial(loop.run, mesh=one_device, hooks=sharing())
    run(tiny, tmp_path / "run")
    whole = records(tmp_path / "run")
    last, size = whole[-1], tiny.data.batch_size
    assert (last["rows"], last["tokens"]) == (4 * size, 4 * size * tiny.data.length)
    assert last["examples"] == documents_begun(tmp_path / "run", 4 * size) > 0
    assert last["epochs"] > 0 and last["epochs"] == pytest.approx(4 * whole[0]["epochs"])
    assert last["flops"] == pytest.approx(4 * whole[0]["flops"])
    rate = last["learning_rate"]
    assert last["learning_rate/hidden"] == 0.5 * rate and last["learning_rate/embedding"] == rate
    assert (last["learning_rate/vector_min"], last["learning_rate/vector_max"]) == (rate, 2 * rate)
    assert {"noise_scale", "update_ratio/hidden", "grad_norm/vector"} <= set(last)

    newest = tmp_path / "run/checkpoints/4"
    newest.rename(tmp_path / "4")  # as if it had been stopped
    run(tiny, tmp_path / "run")
    assert records(tmp_path / "run") == whole
    lines = (tmp_path / "run/attempts.jsonl").read_text().splitlines()
    attempts = [json.loads(line) for line in lines]
    assert [attempt["step"] for attempt in attempts] == [0, 2]
    assert attempts[0]["data"] == attempts[1]["data"] and len(attempts[0]["data"]["data"]) == 16
    assert attempts[0]["versions"]["jax"] and attempts[0]["command"] and attempts[0]["host"]


def test_a_checkpoint_of_an_earlier_version_has_the_sums_of_its_steps():
    step = Totals(100, 4, 1e6)
    old = Totals.restored({"rollouts": {"taken": 2}}, 3, step, 1e7)
    assert old == Totals(300, 12, 2.3e7, None)
    old.add(step)
    assert old.values(None, {}).keys() == {"tokens", "rows", "flops"}
    assert Totals.restored({"totals": old.values(None, {})}, 9, step, 0.0) == old


def test_rates_by_group_are_those_of_mup_and_of_multipliers():
    params = {"policy": {"embedding": 0, "layers": {"query": 0, "attention_norm": 0}}}
    params = jax.tree.map(lambda _: np.zeros(1), params)
    groups = functools.partial(rates._groups, params=params)
    assert groups(OptimizerConfig(), 1.0) == {}
    assert groups(OptimizerConfig(), 4.0) == {"embedding": 1, "hidden": 1 / 4, "vector": 1}
    muon = OptimizerConfig(name="muon", lr_multipliers={"hidden": 3.0})
    assert groups(muon, 4.0) == {"embedding": 1, "hidden": 3 / 2, "vector": 1}


def test_an_attempt_has_the_changes_to_the_source_up_to_a_length(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "_source", lambda: ("a+changes", "é" * 30))
    monkeypatch.setattr(provenance, "MOST_DIFF", 20)
    for step in (0, 5):
        provenance.add_attempt(tmp_path, step, {"data": "abc"}, {})
    first, second = map(json.loads, (tmp_path / "attempts.jsonl").read_text().splitlines())
    assert (first["commit"], first["diff"], first["diff_cut"]) == ("a+changes", "é" * 20, 10)
    assert (first["step"], second["step"]) == (0, 5)
