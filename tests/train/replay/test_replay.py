"""The replay of tiny runs: resumed after a kill, scored, decided."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import documentation
import numpy as np
import pytest
from documentation import ROOT
from quick_compile import FLAGS
from sample_runs.random_runs import write_run

from ranges import ConfigError
from train.chat.model import open_scorer
from train.config.run import default
from train.replay import copying
from train.replay.plan import Options, short_names
from train.replay.run import replay

COUNT = 40


def chats(count):
    """Conversations of several lengths and two categories, the third with an answer of its own."""
    return [
        {"category": "ab"[i % 2], "x": 1, "y": 2, "z": 3, "messages": [
            {"role": "user", "content": f"q{i}" + "?" * (i % 9)},
            {"role": "assistant", "content": "z" * 30 if i == 2 else f"answer {i}"}]}
        for i in range(count)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the policies `a` and `b`, the reward model `r` and `chats.jsonl`."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "a", roles={"policy": 1})
    write_run(folder / "b", roles={"policy": 2})
    write_run(folder / "r", roles={"reward": 3})
    lines = (json.dumps(chat) + "\n" for chat in chats(COUNT))
    (folder / "chats.jsonl").write_text("".join(lines))
    return folder


def options(folder, **settings):
    settings = {"against": [str(folder / "b")], "reward": str(folder / "r")} | settings
    return Options(str(folder / "a"), str(folder / "chats.jsonl"), str(folder / "out.html"),
                   max_new_tokens=12, **settings)  # fmt: skip


def test_answers_are_scored_as_in_a_chat_and_compared(runs):
    done = replay(options(runs, limit=20))
    content, whole = done.content, done.content.replay
    assert [c.name for c in whole.checkpoints] == ["a@1", "b@1"] and len(whole.turns) == 20
    scorer = open_scorer(runs / "r")
    for column in (whole.people, whole.first):
        for number in (1, 2, 5):
            turn = whole.turns[number]
            answer = {"role": "assistant", "content": column.texts[number]}
            ended = not column.values.get("cut", np.zeros(20))[number]
            wanted = scorer.score([*turn.messages, answer], ended=ended)
            assert column.values["reward"][number] == pytest.approx(wanted, rel=1e-4)
    wins = whole.first.values["reward"] > whole.others[0].values["reward"]
    assert done.value("win_rate").value == wins.mean() and done.passed
    assert "copied" not in content.available  # the run has no settings, so no data
    assert any(note.startswith("training data of a@1 that is not read") for note in content.notes)
    # A checkpoint that has answered before answers nothing anew, whatever it is compared with.
    before = {p: p.stat().st_mtime_ns for p in runs.glob("*/evals/*/*/settings.json")}
    again = replay(options(runs, limit=20, against=[], reward=""))
    assert again.content.replay.first.texts == whole.first.texts
    assert {p: p.stat().st_mtime_ns for p in runs.glob("*/evals/*/*/settings.json")} == before


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"gates": "gates: [judge >= 1]"}, ConfigError, "this replay has no judge"),
        ({"gates": "categories: {c: [reward >= 1]}"}, ConfigError, "the category 'c', which no"),
        ({"reward": "b"}, ValueError, "holds a policy model, which does not score answers"),
        ({"against": ["a"]}, ConfigError, "named twice"),
        ({"against": ["b@7"]}, ConfigError, "no checkpoint of step 7; the nearest is"),
        ({"seed": -1}, ConfigError, "seed=-1"),
    ],
)
def test_mistakes_are_named_before_anything_is_generated(runs, tmp_path, settings, error, message):
    if "gates" in settings:
        (tmp_path / "gates.yaml").write_text(settings["gates"])
        settings = {"gates": str(tmp_path / "gates.yaml")}
    if "reward" in settings:
        settings = {"reward": str(runs / settings["reward"])}
    if "against" in settings:
        settings = {"against": [str(runs / name) for name in settings["against"]]}
    before = sorted(runs.rglob("*"))
    with pytest.raises(error, match=message):
        replay(options(runs, **settings))
    assert sorted(runs.rglob("*")) == before
    with pytest.raises(ConfigError, match="a@1 reads; give fewer"):
        replay(Options(str(runs / "a"), str(runs / "chats.jsonl"), "o.html", max_new_tokens=64))


def test_the_call_of_the_documentation_runs(runs, monkeypatch, capsys):
    page = (ROOT / "docs/people.md").read_text()
    (block,) = (block.text for block in documentation.blocks(page) if "Options(" in block.text)
    tiny = {"runs/ppo": "a", "runs/sft": "b", "runs/reward": "r", "examples/": ""}
    for name, value in (tiny | {"\n    )": "    max_new_tokens=12, limit=20)"}).items():
        assert name in block
        block = block.replace(name, value)
    monkeypatch.chdir(runs)
    exec(block)
    assert capsys.readouterr().out.splitlines()[-1].startswith("True Value(value=")
    assert (runs / "runs/replay/report.html").exists()


def test_training_data_is_that_of_the_run_and_of_those_it_began_from(tmp_path):
    """An SFT run on conversations that began from one on a text, which began from prepared rows."""
    chat = {"prompt": "one two", "response": "three four five"}
    (tmp_path / "chats.jsonl").write_text(
        json.dumps(chat) + "\n" + json.dumps(chat | {"prompt": "x"})
    )
    (tmp_path / "text.txt").write_text("Six seven eight nine.\nAnother line of it.\n")
    for name, stage, source, origin in (
        ("sft", "sft", "chats.jsonl", "base"), ("base", "pretrain", "text.txt", "gone"),
    ):  # fmt: skip
        config = default()
        config.stage, config.data.source = stage, str(tmp_path / source)
        config.data.heldout_source = str(tmp_path / source)
        config.init_from = {"policy": str(tmp_path / origin)}
        (tmp_path / name).mkdir()
        (tmp_path / name / "models.json").write_text("{}")
        (tmp_path / name / "config.json").write_text(config.to_json_best_effort())
    training = copying.training_of(str(tmp_path / "sft"), known := {})
    assert training.unread == [f"{tmp_path / 'gone'} is no run of Seedpod"] and len(known) == 2
    answers = ["so three four", "seven eight nine", "nothing"]
    assert copying.copied([answers], [training])[0].tolist() == [2, 3, 0]
    asked = copying.content_key({"messages": [{"role": "user", "content": "one  two"}]})
    assert asked in copying.questions(training)


def test_names_are_as_short_as_they_are_distinct():
    assert short_names(["x/y/a@1"]) == ["a@1"]
    assert short_names(["x/r1/ppo@1", "x/r2/ppo@1"]) == ["r1/ppo@1", "r2/ppo@1"]


def start(folder, *words):
    command = [f"--workdir={folder}/a", f"--against={folder}/b", f"--reward={folder}/r",
               f"--conversations={folder}/chats.jsonl", f"--out={folder}/report/out.html",
               "--max_new_tokens=24", *words]  # fmt: skip
    env = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": FLAGS, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-m", "train.replay", *command], cwd=folder, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def hashes(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("out.*")}


@pytest.mark.slow
def test_a_killed_replay_resumes_to_the_same_report_bit_for_bit(runs, tmp_path):
    (tmp_path / "gates.yaml").write_text("gates: [reward >= 1000]")
    gate = f"--gates={tmp_path}/gates.yaml"
    wholly, cut = tmp_path / "x/runs", tmp_path / "runs"
    shutil.copytree(runs, cut, ignore=shutil.ignore_patterns("evals"))
    kills = []
    for least in (4, COUNT + 4):  # answers of the first, and of the second checkpoint
        process = start(cut, gate)
        while process.poll() is None:
            files = cut.glob("*/evals/*/*/items.jsonl")
            if sum(file.read_bytes().count(b"\n") for file in files) >= least:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
        process.communicate(timeout=100)
        kills.append(process.returncode)
    assert kills == [-signal.SIGKILL] * 2 and not (cut / "report/out.html").exists()
    process = start(cut, gate)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 1, err  # the gate failed
    assert "1 of 1 gates failed" in err and f"40/{COUNT}" in out and "answered before" in out
    resumed = hashes(cut / "report")
    shutil.move(cut, wholly.parent / "killed")
    shutil.copytree(runs, cut, ignore=shutil.ignore_patterns("evals"))  # under the same name
    process = start(cut, gate)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 1 and hashes(cut / "report") == resumed, err
