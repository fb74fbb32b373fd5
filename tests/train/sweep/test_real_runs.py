"""Sweeps of real runs: shared inputs and programs; killed at random, the same bytes at the end."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from etils import epath
from local_runs import ROOT, records
from quick_compile import FLAGS
from sample_runs import sweep_runs
from stage_fixtures import recipe, write_files

from train.assembly import inputs as assembly
from train.sweep import command
from train.sweep.results import read_outcome
from train.terminal.console import console

RECIPE = """
import pathlib
from stage_fixtures import recipe

def get_config():
    config = recipe("pretrain", pathlib.Path(__file__).parent)
    config.steps, config.evaluate.every = 30, 10
    return config
"""
GRID = ["--grid=optimizer.peak_lr=1e-3,3e-3", "--grid=optimizer.name=adamw,muon", "--seeds=2"]
FILES = ("table.md", "sweep.json", "sweep.html")


@pytest.mark.slow
def test_runs_share_their_inputs_and_a_program(tmp_path, monkeypatch):
    write_files(tmp_path)
    reads, read = [], assembly.read_source
    monkeypatch.setattr(assembly, "read_source", lambda *args: reads.append(1) or read(*args))
    config = recipe("pretrain", tmp_path)
    config.steps, config.checkpoint.every = 4, 2
    workdir = tmp_path / "runs"
    workdir.mkdir()
    with console.capture() as printed:
        code = command.run(
            sweep_runs.asked(workdir, config, grid=["optimizer.peak_lr=1e-3,3e-3"], seeds=2)
        )
    assert code == 0 and len(reads) == 1
    assert "1 program for 4 runs" in printed.get()
    runs = sorted(workdir.glob("*/seed*"))
    assert len({(run / "rows/text.zip").stat().st_ino for run in runs}) == 1
    assert len({(run / "tokenizer/tokenizer.json").stat().st_ino for run in runs}) == 1
    (program,) = {tuple(read_outcome(epath.Path(run))["programs"]) for run in runs}
    assert len(program) == 1
    finals = {r["loss"] for run in runs for r in records(run) if r.get("kind") == "eval"}
    assert len(finals) == 2 + 4  # of two seeds before the first step, of all at the end


def start(tmp_path, module, *arguments):
    """`python -m MODULE` on one device, with a compilation cache of this test's own."""
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'helpers'}", "XLA_FLAGS": FLAGS,
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", module, f"--config={tmp_path / 'recipe.py'}", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def finish(process, code=0):
    output, _ = process.communicate(timeout=280)
    assert process.returncode == code, output
    return output


def contents(workdir):
    return [(workdir / name).read_text() for name in FILES]


def lines(workdir):
    return sum(path.read_text().count("\n") for path in workdir.glob("*/seed*/metrics.jsonl"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_random_it_ends_the_same(tmp_path):
    write_files(tmp_path)
    (tmp_path / "recipe.py").write_text(RECIPE)
    whole, killed = (tmp_path / name / "runs" for name in ("a", "b"))
    output = finish(start(tmp_path, "train.sweep", f"--workdir={whole}", *GRID))
    assert "2 programs for 8 runs, 2 compiled by this command" in output
    assert len(list((tmp_path / "cache").glob("jit_train_step-*-cache"))) == 2

    rng, total = random.Random(0), lines(whole)
    for _ in range(3):
        process = start(tmp_path, "train.sweep", f"--workdir={killed}", *GRID)
        goal = lines(killed) + rng.uniform(0.02, 0.25) * total
        deadline = time.time() + 200
        while lines(killed) < goal:
            assert process.poll() is None and time.time() < deadline, process.communicate()[0]
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(start(tmp_path, "train.sweep", f"--workdir={killed}", *GRID))
    assert contents(killed) == contents(whole)

    alone = tmp_path / "alone"
    settings = ["--config.optimizer.peak_lr=3e-3", "--config.optimizer.name=muon",
                "--config.seed=1"]  # fmt: skip
    finish(start(tmp_path, "train", f"--workdir={alone}", *settings))
    assert records(whole / "name=muon,peak_lr=0.003" / "seed1") == records(alone)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_several_processes_end_with_the_same_and_leave_with_the_command(tmp_path):
    write_files(tmp_path)
    (tmp_path / "recipe.py").write_text(RECIPE)
    whole, several = (tmp_path / name / "runs" for name in ("a", "b"))
    grid = [*GRID, "--parallel=2"]
    output = finish(start(tmp_path, "train.sweep", f"--workdir={whole}", *grid))
    assert "2 programs for 8 runs, 2 compiled by this command" in output
    process = start(tmp_path, "train.sweep", f"--workdir={several}", *grid)
    while lines(several) < 4:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)  # its workers leave, or they would hold the runs
    process.communicate()
    output = finish(start(tmp_path, "train.sweep", f"--workdir={several}", *grid))
    assert "for 8 runs" in output
    assert contents(several) == contents(whole)


@pytest.mark.slow
def test_bad_input_is_one_line_before_anything_runs(tmp_path):
    write_files(tmp_path)
    (tmp_path / "recipe.py").write_text(RECIPE)
    for flag, message in {
        "--grid=optimizer.peek_lr=1": "error: unknown config key optimizer.peek_lr; did you mean "
        "optimizer.peak_lr?",
        "--grid=steps=many,2": "error: steps='many' is no budget; write a number of steps",
        "--metric=eval/speed": "error: --metric=eval/speed: the evaluations have eval/loss, "
        "eval/bits_per_byte",
        "--grid=data.source=nowhere.txt,text.txt": "nowhere.txt",
    }.items():
        workdir = tmp_path / "runs"
        output = finish(
            start(tmp_path, "train.sweep", f"--workdir={workdir}", "--seeds=2", flag), 1
        )
        assert message in output.strip().splitlines()[-1], output
        assert not list(tmp_path.rglob("metrics.jsonl"))
