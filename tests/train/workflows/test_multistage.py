"""The chain: names resolved, finished stages skipped, and `kill -9` leaving no trace."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import ml_collections
import pytest
from stage_fixtures import recipe, write_files

from data.errors import DataError
from ranges import ConfigError
from train.workflows import multistage

ROOT = Path(__file__).parents[3]

RECIPE = """
import ml_collections, pathlib, sys
sys.path.insert(0, {helpers!r})
from stage_fixtures import recipe

def get_config():
    here = pathlib.Path({files!r})
    stages = {{
        "pretrain": recipe("pretrain", here),
        "sft": recipe("sft", here, policy="pretrain"),
        "reward": recipe("reward", here, policy="sft"),
        "ppo": recipe("ppo", here, policy="sft", reward="reward"),
    }}
    return ml_collections.ConfigDict({{"order": tuple(stages), "stages": stages}}, type_safe=False)
"""


def chain_config(stages):
    return ml_collections.ConfigDict({"order": tuple(stages), "stages": stages}, type_safe=False)


def test_init_from_names_become_workdirs(tmp_path):
    stages = {
        "base": recipe("pretrain", tmp_path),
        "tuned": recipe("sft", tmp_path, policy="base"),
        "other": recipe("sft", tmp_path, policy="/elsewhere/run"),
        "early": recipe("sft", tmp_path, policy="base@2@ema"),
    }
    runs = multistage.resolve(chain_config(stages), tmp_path / "runs")
    assert runs["tuned"].init_from == {"policy": str(tmp_path / "runs" / "base")}
    assert runs["other"].init_from == {"policy": "/elsewhere/run"}
    assert runs["early"].init_from == {"policy": str(tmp_path / "runs" / "base@2@ema")}


def test_a_stage_starts_from_an_earlier_one(tmp_path):
    stages = {
        "tuned": recipe("sft", tmp_path, policy="base"),
        "base": recipe("pretrain", tmp_path),
    }
    with pytest.raises(ConfigError, match=r"stages.tuned.init_from.policy=base.*not before"):
        multistage.resolve(chain_config(stages), tmp_path)


@pytest.mark.parametrize("name", ["../base", "/tmp/base", "..", "a/b", "", ".hidden", "a\x1b[2J"])
def test_a_stage_has_the_name_of_a_folder_in_the_workdir(name, tmp_path):
    config = SimpleNamespace(copy_and_resolve_references=None)
    with pytest.raises(ConfigError, match="a stage's name consists of letters, digits"):
        multistage.resolve({"order": (name,), "stages": {name: config}}, tmp_path)


def test_bad_input_of_a_later_stage_is_said_before_the_first_trains(tmp_path):
    write_files(tmp_path)
    (tmp_path / "chats.jsonl").write_text('{"prompt": "a"}\n')
    stages = {
        "base": recipe("pretrain", tmp_path),
        "tuned": recipe("sft", tmp_path, policy="base"),
    }
    with pytest.raises(DataError, match=r"chats\.jsonl:1: .*response"):
        multistage.run(chain_config(stages), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def start(recipe_file, workdir):
    return subprocess.Popen(
        [sys.executable, "-m", "train.chain", f"--config={recipe_file}", f"--workdir={workdir}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=1")},
    )


def finish(process):
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    return output


def report(workdir):
    values = json.loads((workdir / "report.json").read_text())
    stages = {"pretrain", "sft", "reward", "ppo"}
    assert set(values.pop("seconds")) == set(values.pop("made")) == stages
    assert values.pop("total_seconds") > 0
    return values


def records(path):
    return path.read_text().count('"kind": "train"') if path.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_in_every_stage_ends_the_same(tmp_path):
    """kill -9 in the middle of each stage, then again: the same report, bit for bit."""
    write_files(tmp_path)
    recipe_file = tmp_path / "recipe.py"
    helpers = str(ROOT / "tests" / "helpers")
    recipe_file.write_text(RECIPE.format(helpers=helpers, files=str(tmp_path)))
    finish(start(recipe_file, tmp_path / "whole"))

    killed = tmp_path / "killed"
    for stage, after in (("pretrain", 4), ("sft", 2), ("reward", 5), ("ppo", 6)):
        process = start(recipe_file, killed)
        deadline = time.time() + 200
        while records(killed / stage / "metrics.jsonl") < after:
            assert process.poll() is None and time.time() < deadline, process.communicate()[0]
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (killed / stage / "DONE").exists()
    finish(start(recipe_file, killed))
    assert report(killed) == report(tmp_path / "whole")
    for stage in ("pretrain", "sft", "reward", "ppo"):
        samples = [tmp_path / run / stage / "samples.jsonl" for run in ("whole", "killed")]
        assert samples[0].read_text() == samples[1].read_text()

    before = (killed / "report.json").stat().st_mtime_ns
    output = finish(start(recipe_file, killed))
    assert output.count("done") >= 4
    assert (killed / "report.json").stat().st_mtime_ns == before
