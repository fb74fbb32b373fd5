"""Sweeps whose runs are launched: how many at once, names, failures, deleted slices, dry runs. The
launchers are pretended here; test_launched_runs.py has real ones."""

import contextlib
import io
import json
import threading
import time

import pytest
from sample_runs import sweep_runs

from configs import pretrain
from ranges import ConfigError
from tpu.launch import verbs
from tpu.launch.gcloud import LaunchError
from train.runtime import processes
from train.sweep import command, launched

GRID = {"grid": ["optimizer.peak_lr=1e-3,1e-2", "optimizer.name=adamw,muon"], "seeds": 2}
SLICES = "supervise --name=rates --accelerator=v5e-4 --zone=us-west4-a --bucket=gs://b"
RECIPE = ["--config=configs/pretrain.py:smoke"]


class Launcher:
    """tpu/launch/verbs.py without machines; the workdirs need not be in the bucket."""

    def __init__(self):
        self.deleted, self.error, self.refuses = [], "", False

    def check(self, argv):
        return verbs.parser().parse_args(verbs.split_command(argv)[0])

    def devices(self, argv):
        return 4

    def delete(self, argv, say):
        if self.refuses:
            raise LaunchError("no network")
        self.deleted.append(self.check(argv).name)

    def first_error(self, argv):
        return self.error


class Child:
    """A launcher's process, which trains when its end is waited for."""

    at_work, most, lock = 0, 0, threading.Lock()

    def __init__(self, run, code, lines):
        self._run, self._code, self.stdout = run, code, iter(lines)
        with Child.lock:
            Child.at_work += 1
            Child.most = max(Child.most, Child.at_work)

    def terminate(self):
        self._code = self._code or processes.PREEMPTED

    def wait(self):
        time.sleep(0.02)
        if not self._code:
            hooks = type("", (), {"after_evaluation": lambda *args: None})
            sweep_runs.pretend(self._run.config, self._run.workdir, "", hooks)
        with Child.lock:
            Child.at_work -= 1
        return self._code


@pytest.fixture
def started(monkeypatch):
    """The names of the runs that were started; `codes` and `lines` of those that fail."""
    names = []

    def start(self, run):
        if self._stopping:
            return None
        names.append(run.name)
        child = Child(run, start.codes.get(run.name, 0), start.lines.get(run.name, ()))
        self._children.add(child)
        return child

    start.codes, start.lines = {}, {}
    monkeypatch.setattr(launched.Controller, "_start", start)
    names_and_plan = type("", (), {"names": names, "codes": start.codes, "lines": start.lines})
    Child.at_work = Child.most = 0
    return names_and_plan


def asked_of(workdir, flags):
    return sweep_runs.asked(workdir, pretrain.get_config("smoke"), **flags)


def sweep(workdir, launcher, launch=SLICES, at_once=3, **flags):
    workdir.mkdir(exist_ok=True)
    flags = sweep_runs.FLAGS | GRID | {"launch": launch, "at_once": at_once} | flags
    asked = asked_of(workdir, flags)
    asked = command.with_launch(asked, flags, launcher, RECIPE)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):  # of all threads
        code = command.run(asked)
    return code, printed.getvalue()


def marks(workdir):
    return list(workdir.glob("*/*/launch.json"))


def test_so_many_at_once_and_every_slice_is_deleted(tmp_path, started):
    launcher = Launcher()
    code, printed = sweep(tmp_path / "runs", launcher)
    assert code == 0 and len(started.names) == 8 and Child.most == 3
    assert "8 runs, each by tpu.launch supervise on 4 devices, 3 at once" in printed
    assert len({*launcher.deleted}) == 8 and marks(tmp_path / "runs") == []
    assert "muon at peak_lr 0.01 is better than adamw at peak_lr 0.01 by 0.4" in printed
    again, _ = sweep(tmp_path / "runs", launcher)
    assert again == 0 and len(started.names) == 8 and len(launcher.deleted) == 8


def test_failures_are_shown_and_passed_over(tmp_path, started):
    launcher, bad = Launcher(), "name=muon,peak_lr=0.01"
    started.codes |= {f"{bad} seed 0": 1, f"{bad} seed 1": 137}
    started.lines[f"{bad} seed 0"] = ["error: 9 of 12 updates were not applied, too many\n"]
    started.lines[f"{bad} seed 1"] = ["launch: q is ACTIVE\n", "launch: giving up\n"]
    code, printed = sweep(tmp_path / "runs", launcher)
    assert code == 1 and len(launcher.deleted) == 8
    assert f"{bad} seed 0: diverged: 9 of 12 updates were not applied" in printed
    assert f"{bad} seed 1: failed: giving up (exit code 137)" in printed
    started.codes.clear()
    code, _ = sweep(tmp_path / "runs", launcher)
    assert code == 1 and started.names[8:] == [f"{bad} seed 1"]  # what diverged is not run again


def test_the_first_error_of_a_worker_is_the_reason(tmp_path, started):
    launcher, run = Launcher(), "name=muon,peak_lr=0.01 seed 0"
    launcher.error, started.codes[run] = (
        "t-2:error: step 4 is not saved: w holds NaN or infinity",
        1,
    )
    _, printed = sweep(tmp_path / "runs", launcher)
    assert f"{run}: diverged: t-2:error: step 4 is not saved" in printed


def test_the_signs_of_divergence_are_in_its_messages():
    from train.guards import numbers

    with pytest.raises(FloatingPointError, match=launched.SIGNS[0]):
        numbers.check_skipped(9, 12)


def test_slices_that_could_not_be_deleted_are_deleted_by_the_same_command(tmp_path, started):
    launcher = Launcher()
    launcher.refuses = True
    code, printed = sweep(tmp_path / "runs", launcher)
    assert code == 0 and len(marks(tmp_path / "runs")) == 8
    assert "may still exist: no network" in printed
    launcher.refuses = False
    sweep(tmp_path / "runs", launcher)
    assert len(launcher.deleted) == 8 and len(started.names) == 8
    assert marks(tmp_path / "runs") == []


def test_a_request_to_stop_lets_the_runs_save_and_starts_no_other(tmp_path, started, monkeypatch):
    launcher = Launcher()
    monkeypatch.setattr(processes, "asked_to_stop", lambda: len(started.names) >= 2)
    monkeypatch.setattr(launched, "LOOK", 0.001)
    with pytest.raises(processes.Stopped, match="are saved; the same command resumes there"):
        sweep(tmp_path / "runs", launcher, at_once=2)
    assert 2 <= len(started.names) <= 4 and (tmp_path / "runs/table.md").exists()
    monkeypatch.undo()


def commands_of(workdir, **flags):
    flags = sweep_runs.FLAGS | GRID | {"launch": SLICES} | flags
    asked = asked_of(workdir, flags)
    asked = command.with_launch(asked, flags, Launcher(), RECIPE)
    return [asked.launch.command(run) for run in command.runs_of(asked)]


def test_a_run_is_a_command_with_its_settings_and_a_name_of_its_own(tmp_path):
    every = commands_of(tmp_path)
    words = every[0]
    at = words.index("--")
    assert words[:5] == SLICES.split() and words[at + 1 : at + 2] == RECIPE
    assert words[at + 2 : at + 5] == [
        "--config.optimizer.peak_lr=1e-3", "--config.optimizer.name=adamw", "--config.seed=0",
    ]  # fmt: skip
    assert f"--workdir={tmp_path}/name=adamw,peak_lr=0.001/seed0" in words
    assert f"--compilation_cache={tmp_path}/programs" in words
    names = {other[at - 1] for other in every}
    assert len(names) == 8 and all(name.startswith("--name=rates-") for name in names)
    fewer = {"grid": ["optimizer.name=adamw", "optimizer.peak_lr=1e-3"]}
    assert commands_of(tmp_path, **fewer)[0][at - 1] == words[at - 1]  # whatever else is swept
    assert commands_of(tmp_path / "other")[0][at - 1] not in names
    local = commands_of(tmp_path, launch="local --processes=2")[0]
    assert not any(word.startswith("--name") for word in local)


@pytest.mark.parametrize(
    "flags,message",
    [
        ({"launch": "up --name=a"}, "type what follows python -m tpu.launch"),
        ({"launch": "'"}, "--launch=': No closing quotation"),
        ({"launch": "local -- --config=x"}, "without the run's own flags"),
        ({"launch": f"{SLICES} --dry_run"}, "beside --launch and not in it"),
        ({"launch": "", "at_once": 2}, "--at_once is about the runs that --launch starts"),
        ({"launch": "", "dry_run": True}, "--dry_run is about the runs"),
        ({"parallel": 2}, "--parallel is for runs on this machine"),
        ({"grid": ["data.batch_size=8,6"]}, "microbatch .* is 6, which the mesh's 4 batch shards"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(flags, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        commands_of(tmp_path, **flags)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "launch,message",
    [
        (SLICES, "on a pod all workers must see it; type --workdir=gs://b/runs/rates-"),
        (SLICES.replace("rates", "Rates"), "--name=Rates-"),
        (SLICES.replace(" --name=rates", ""), "--name=-"),
        (SLICES.replace("v5e-4", "v5e-5"), "v5e comes with"),
    ],
)
def test_the_flags_of_the_launcher_are_checked(launch, message, tmp_path):
    flags = sweep_runs.FLAGS | GRID | {"launch": launch}
    with pytest.raises(ValueError, match=message):
        command.with_launch(asked_of(tmp_path, flags), flags, verbs, RECIPE)


def test_a_dry_run_prints_what_would_be_created(capsys):
    flags = sweep_runs.FLAGS | {"launch": SLICES, "dry_run": True, "seeds": 2}
    asked = asked_of("gs://b/runs/rates", flags)
    asked = command.with_launch(asked, flags, verbs, RECIPE)
    launched.show(asked.launch, command.runs_of(asked))
    lines = capsys.readouterr().out.splitlines()
    made, gone = (
        [line.split()[5] for line in lines if line.startswith(f"gcloud compute {verb} ")]
        for verb in ("tpus queued-resources create", "tpus queued-resources delete")
    )
    assert len({*made}) == 2 and made == gone
    assert any("--config.seed=1" in line and '"$HOME"/bucket/runs/rates' in line for line in lines)


def test_a_mark_names_the_slices(tmp_path, started):
    launcher = Launcher()
    launcher.refuses = True
    sweep(tmp_path / "runs", launcher, grid=[], seeds=2)
    names = [json.loads(path.read_text())["name"] for path in marks(tmp_path / "runs")]
    assert len({*names}) == 2 and all(name.startswith("rates-") for name in names)


def test_slices_are_deleted_in_every_zone(capsys):
    words = SLICES.replace("--zone=us-west4-a", "--zones=us-west4-a,us-east1-c").split()
    verbs.delete([*words, "--dry_run", "--", "--config=x", "--workdir=gs://b/runs/x"], print)
    lines = [line for line in capsys.readouterr().out.splitlines() if " delete " in line]
    assert [line.split()[6] for line in lines] == ["--zone=us-west4-a", "--zone=us-east1-c"]
    assert verbs.devices([*words, "--", "--workdir=gs://b/runs/x"]) == 4
    assert verbs.devices(["local", "--processes=2", "--devices=4", "--", "--workdir=x"]) == 8
