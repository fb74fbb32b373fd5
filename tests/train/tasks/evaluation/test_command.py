"""`python -m train.evaluate` on a small open model: its files, its tables, two models compared."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import open_models
import pytest
from documentation import ROOT
from quick_compile import FLAGS
from rich.console import Console

from ranges import ConfigError
from train.tasks import registry
from train.tasks.base import Generation, Rolling
from train.tasks.evaluation import command, pace, pairs, table
from train.tasks.evaluation.benchmark import Result
from train.tasks.evaluation.command import Options
from train.tasks.metrics import Paired

CAPITALS = str(ROOT / "examples/evaluate/capitals.yaml")
BROKEN = """
kind: multiple_choice
description: its choices have another name
source: capitals.jsonl
prompt: "{{country}}"
choices: "{{towns}}"
gold: "{{capital}}"
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two open models of other weights."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("ab"):
        open_models.write(folder / name, open_models.tensors(seed=seed))
    return folder


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """The process of the test stays as it is."""
    monkeypatch.setattr(command, "begin", lambda out, kept: out.mkdir(parents=True, exist_ok=True))


def copy_task(folder, times=1):
    """The task in a folder, its documents repeated."""
    records = (ROOT / "examples/evaluate/capitals.jsonl").read_text()
    (folder / "capitals.jsonl").write_text(records * times)
    (folder / "capitals.yaml").write_text(Path(CAPITALS).read_text())


def evaluate(models, out, tasks=(CAPITALS,), **options):
    code = command.run(Options(str(models / "a"), tasks, out=str(out), **options))
    return code, json.loads((out / "results.json").read_text())


def test_results_are_written_compared_and_shown(models, tmp_path, capsys):
    code, record = evaluate(
        models, tmp_path / "out", shots=(0, 2), limit=6, against=str(models / "b")
    )
    assert code == 0 and record["failed"] == {}
    zero, two = record["results"]
    assert [(r["task"], r["shots"], r["items"]) for r in (zero, two)] == [
        ("capitals", 0, 6), ("capitals", 2, 6)
    ]  # fmt: skip
    assert zero["documents"] == two["documents"] and zero["requests"] != two["requests"]
    assert zero["cut"] == 0 and two["cut"] == 6  # a context of 64 tokens holds no example
    assert record["model"]["weights"] != record["against"]["model"]["weights"]
    items = [
        json.loads(line)
        for line in (tmp_path / "out" / zero["folder"] / "items.jsonl").read_text().splitlines()
    ]
    right = [item["outcome"]["acc"] for item in items]
    value = zero["metrics"]["acc"]
    mean = sum(right) / 6
    assert value["value"] == mean
    assert value["stderr"] == pytest.approx(math.sqrt(mean * (1 - mean) / 5))
    assert zero["tokens"] == sum(part["tokens"] for item in items for part in item["response"])
    compared = record["against"]["comparisons"]
    assert {(row["shots"], row["metric"]) for row in compared} >= {(0, "acc"), (2, "acc_norm")}
    text = capsys.readouterr().out
    assert "capitals" in text and "Curve:" in text and "against" in text
    svg = (tmp_path / "out" / "shots-capitals.svg").read_text()
    assert svg.startswith("<svg xmlns=") and svg.count("<circle") == svg.count('class="error"') == 2

    # The other model's items are used again, as are those of the first.
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*/settings.json")}
    _, again = evaluate(models, tmp_path / "out", shots=(0, 2), limit=6, against=str(models / "b"))
    assert "24 of 24" not in capsys.readouterr().out.replace("12 of 12", "")
    for entry, same in zip(record["results"], again["results"], strict=True):
        assert entry == same
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*/settings.json")}


def test_other_settings_get_a_folder_of_their_own(models, tmp_path, capsys):
    _, first = evaluate(models, tmp_path / "out", limit=3)
    _, second = evaluate(models, tmp_path / "out", limit=4)
    text = " ".join(capsys.readouterr().out.split())
    old, new = first["results"][0]["folder"], second["results"][0]["folder"]
    assert f"{old} has items with limit=3 instead of 4, which stay there" in text
    open_models.write(models / "a", open_models.tensors(seed=7))  # trained again
    evaluate(models, tmp_path / "out", limit=4)
    assert f"{new} has items with other weights" in " ".join(capsys.readouterr().out.split())
    open_models.write(models / "a", open_models.tensors(seed=0))
    command.run(Options(str(models / "b"), [CAPITALS], limit=4, out=str(tmp_path / "out")))
    assert "has items" not in capsys.readouterr().out  # another model's
    assert old != new and (tmp_path / "out" / old / "items.jsonl").exists()


def test_a_task_that_fails_costs_no_other(models, tmp_path, capsys):
    copy_task(tmp_path)
    (tmp_path / "broken.yaml").write_text(BROKEN)
    tasks = (str(tmp_path / "broken.yaml"), CAPITALS)
    code, record = evaluate(models, tmp_path / "out", tasks, limit=2)
    assert code == 1 and [r["task"] for r in record["results"]] == ["capitals"]
    assert list(record["failed"]) == ["broken"] and "towns" in record["failed"]["broken"]
    assert "error: broken: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "workdir, tasks, shots, message",
    [
        ("", ["piqa"], [], "--workdir is missing"),
        ("x", [], [], "--tasks is missing; type --tasks=arc_easy,piqa"),
        ("x", ["arc_esy"], [], r"did you mean arc_easy"),
        ("x", ["piqa"], ["0", "five"], "'five' is no number; type --shots=0,5"),
    ],
)
def test_mistakes_are_named_before_anything_is_read(workdir, tasks, shots, message):
    with pytest.raises(ConfigError, match=message):
        command.main(False, (), shots, dict(workdir=workdir, tasks=tasks, dtype=None))


def test_data_is_a_folder_or_of_a_task_that_is_asked(models, tmp_path):
    file = str(ROOT / "examples/evaluate/capitals.jsonl")
    with pytest.raises(ConfigError, match="capitls is none of the tasks capitals; did you mean"):
        evaluate(models, tmp_path, data=[f"capitls={file}"])
    code, record = evaluate(models, tmp_path, limit=1, data=[f"capitals={file}"])
    assert code == 0 and record["results"][0]["source"] == file


def test_a_group_of_tasks_has_its_own_numbers_of_examples():
    asked = command.plan(Options("x", ["core", "arc_easy"], shots=[1]))
    shots = {task.name: numbers for task, numbers in asked.tasks}
    assert shots["arc_easy"] == (10, 1) and shots["hellaswag"] == (0, 10)
    assert asked.notes == ["core has its own numbers of examples; --shots is not for it"]


def test_the_time_left_follows_each_kind_s_cost_and_forgets_compilation(monkeypatch):
    text, answer = Rolling("x" * 100), Generation("x" * 20, max_new_tokens=10)
    clock = iter([50.0, 50.01, 51.0, 53.0, 53.0, 60.0, 64.0])
    monkeypatch.setattr(pace.time, "monotonic", lambda: next(clock))
    left = pace.Pace([("rolling", text)] * 5 + [("generation", answer)] * 3)
    left.begin()
    assert left.add("rolling", text) is None  # however long it took
    assert left.add("rolling", text) is None  # of the same batch
    assert left.add("rolling", text) == pytest.approx(0.99 / 100 * (2 * 100 + 3 * 100))
    assert left.add("rolling", text) == pytest.approx(2.99 / 200 * (100 + 3 * 100))
    assert left.add("rolling", text) == pytest.approx(2.99 / 300 * 300)
    left.begin()
    left.add("generation", answer)
    assert left.add("generation", answer) == pytest.approx(4.0)


def test_a_verdict_is_in_words():
    def said(p, is_better=True, items=9):
        return pairs.verdict(Paired(0.1, 0, 0, p, items, 0), is_better)

    assert said(0.01) == "better" and said(0.01, is_better=False) == "worse"
    assert said(0.2) == "no difference" and said(math.nan) == "too few items"
    assert said(math.nan, items=0) == "no item in common"


def test_a_lower_perplexity_is_better():
    task = registry.find("lambada")

    def result(losses):
        outcomes = [{"acc": 0.0, "loss": x} for x in losses]
        values = {name: metric(outcomes) for name, metric in task.metrics.items()}
        return Result(task, 0, values, {}, 3, 0, 3, 0.0, (), outcomes)

    rows = pairs.compare([result([1.0, 1.1, 1.2])], [result([2.0, 2.1, 2.3])])
    assert [(row.metric, row.verdict) for row in rows] == [
        ("acc", "no difference"), ("perplexity", "better")
    ]  # fmt: skip
    assert rows[1].value < rows[1].other and rows[1].paired.difference < 0


def test_a_verdict_is_that_of_the_items_that_are_tested():
    task = registry.find("wikitext")

    def result(rates):  # bits per byte of texts of 1 byte, and of one of 1000
        outcomes = [
            {"loss": bits * n * math.log(2), "words": 1, "bytes": n, "bits_per_byte": bits}
            for bits, n in zip(rates, [1] * 8 + [1000], strict=True)
        ]
        values = {name: metric(outcomes) for name, metric in task.metrics.items()}
        return Result(task, 0, values, {}, 9, 0, 9, 0.0, (), outcomes)

    (row,) = pairs.compare([result([1.0] * 8 + [2.1])], [result([2.0] * 9)])
    assert row.value > row.other and row.paired.difference < 0 and row.verdict == "better"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_tables_fit_the_terminal(width, monkeypatch):
    console = Console(width=width, record=True)
    monkeypatch.setattr(table, "console", console)
    test = Paired(-0.183, -0.313, 0.054, 4e-4, 200, 0)
    row = pairs.Comparison("truthfulqa_mc1", 10, "acc_bytes", 0.4312, 0.25, "acc_bytes", test, "")
    other = row._replace(metric="perplexity", item="loss_of_each_token", verdict="no difference")
    for shown in table.comparisons([row._replace(verdict="better"), other]):
        console.print(shown)
    (head, label, line, last) = console.export_text().splitlines()
    assert len(last.rstrip()) <= width and "no difference" in last and "<0.001" in last
    assert label == "truthfulqa_mc1 10-shot" and line.rstrip().endswith("better")
    assert all(word in line for word in ("acc_bytes", "0.431", "0.250", "−0.183", "<0.001"))
    assert ("−0.183 [−0.313, +0.054]" in line) == (width >= 80)
    assert last.startswith("  perplexity") and ("loss_of_each_token" in last) == (width == 120)


def test_numbers_have_the_digits_that_they_are_known_to():
    assert [table.number(x, s) for x, s in ((0.51234, 0.0345), (12.3456, 0.94), (0.5, 0.0))] == [
        "0.512", "12.35", "0.5"
    ]  # fmt: skip
    assert table.number(1.25e9, 3e8) == "1.25e+09" and table.number(0.123456) == "0.1235"


def metrics(out):
    results = json.loads((out / "results.json").read_text())["results"]
    return [{k: v for k, v in result.items() if k != "seconds"} for result in results]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_command_that_is_killed_goes_on(models, tmp_path, number):
    copy_task(tmp_path, 40)

    def start(out):
        words = [f"--workdir={models / 'a'}", f"--tasks={tmp_path / 'capitals.yaml'}"]
        words += ["--shots=0,1", f"--out={tmp_path / out}"]
        env = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": FLAGS, "JAX_PLATFORMS": "cpu"}
        return subprocess.Popen(
            [sys.executable, "-m", "train.evaluate", *words], cwd=ROOT, env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    assert start("whole").wait(200) == 0
    for least in (40, 900):  # of the first and the second benchmark
        process = start("cut")
        while process.poll() is None:
            files = (tmp_path / "cut").glob("*/items.jsonl")
            if sum(file.read_bytes().count(b"\n") for file in files) >= least:
                process.send_signal(number)
                break
            time.sleep(0.01)
        _, err = process.communicate(timeout=100)
        assert process.returncode == (-9 if number == signal.SIGKILL else 130), err
        if number == signal.SIGINT:
            assert "items are kept in" in err and "the same command answers the rest" in err
        assert not (tmp_path / "cut/results.json").exists()
    process = start("cut")
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0 and "items were answered before" in out
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
