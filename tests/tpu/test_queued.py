"""Queued resources against a gcloud that checks flags and plays what goes wrong."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tpu import launch, queued
from tpu.slices import parse
from tpu.supervise import Told

# Flags of Google Cloud SDK 528.0.0, from `gcloud compute tpus queued-resources VERB --help`.
WIDE = {"--zone", "--project", "--format", "--quiet"}
FLAGS = {
    "create": WIDE | {"--accelerator-type", "--runtime-version", "--node-id", "--node-count",
                      "--node-prefix", "--spot", "--reserved", "--valid-until-duration", "--scopes",
                      "--async"},
    "describe": WIDE,
    "delete": WIDE | {"--force", "--async"},
    "ssh": WIDE | {"--node", "--worker", "--batch-size", "--command", "--output-directory"},
}  # fmt: skip
FAKE = """#!{python}
import json, os, sys
from pathlib import Path
plan = json.loads(Path({plan!r}).read_text())
flags = {{verb: set(names) for verb, names in {flags!r}.items()}}
words = sys.argv[1:]
def end(code, out="", err=""):
    Path({plan!r}).write_text(json.dumps(plan))
    print(out, end="")
    print(err, end="", file=sys.stderr)
    sys.exit(code)
plan["calls"].append(words)
if words[:2] == ["storage", "cp"]:
    sys.stdin.buffer.read()
    end(0)
if words[:2] == ["storage", "ls"]:
    end(*(plan["ls"] and (0, plan["ls"].pop(0)) or (1, "", "ERROR: matched no objects")))
assert words[:3] == ["compute", "tpus", "queued-resources"], words
verb, unknown = words[3], [w for w in words[5:] if w.split("=")[0] not in flags[words[3]]]
if unknown:
    end(2, "", f"ERROR: (gcloud.{{verb}}) unrecognized arguments: {{unknown[0]}}")
if verb == "create":
    if plan["create_errors"] and (error := plan["create_errors"].pop(0)):
        end(1, "", "Create request issued\\n" + error)
    plan["states"] = plan["lives"].pop(0)
elif verb == "describe":
    if not plan["states"]:
        end(1, "", "ERROR: (gcloud.describe) NOT_FOUND: Resource 'q' was not found")
    now = plan["states"].pop(0) if len(plan["states"]) > 1 else plan["states"][0]
    failed = {{"failedData": {{"error": {{"message": plan["cause"]}}}}}}
    failed = failed if now == "FAILED" else {{}}
    end(0, json.dumps({{"state": {{"state": now, **failed}}}}))
elif verb == "delete":
    plan["states"] = []
elif verb == "ssh" and plan["ssh"]:
    said = plan["ssh"].pop(0)
    if said == "SIGTERM":
        os.kill(os.getppid(), 15)
        said = "running\\n"
    if said is None:
        end(255, "", "ERROR: (gcloud.ssh) [/usr/bin/ssh] exited with return code [255].")
    end(0, said)
end(0)
"""
FLAGS_OF = ["--name=q", "--accelerator=v5e-16", "--zone=us-west4-a", "--bucket=gs://b"]
JOB = queued.Job("q", "us-west4-a", "v5e-16", "gs://b")
COMMAND = ["train", "--config=configs/pretrain.py", "--workdir=gs://b/runs/q"]


@pytest.fixture
def play(tmp_path, monkeypatch):
    """play(**plan): puts a gcloud on PATH that plays it; play.verbs(): what was asked of it."""
    path = tmp_path / "plan.json"
    program = tmp_path / "gcloud"
    program.write_text(
        FAKE.format(
            python=f"{sys.executable} -SE",
            plan=str(path),
            flags={verb: sorted(names) for verb, names in FLAGS.items()},
        )
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(Told, "sleep", lambda self, seconds: None)
    monkeypatch.setattr(queued, "sync", lambda job, gcloud: "c0ffee")

    def play(**plan):
        empty = {"calls": [], "create_errors": [], "lives": [["ACTIVE"]], "states": [],
                 "cause": "", "ssh": [], "ls": []}  # fmt: skip
        path.write_text(json.dumps(empty | plan))

    play.calls = lambda: json.loads(path.read_text())["calls"]
    play.verbs = lambda: [c[3] if c[0] == "compute" else c[1] for c in play.calls()]
    return play


def attempt(said=None):
    say = [].append if said is None else said.append
    return queued.attempt_once(JOB, queued.Gcloud(), COMMAND, say, Told())


def test_up_creates_and_waits_and_is_idempotent(play, capsys):
    play(lives=[["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]])
    queued.up(JOB, queued.Gcloud(), print, Told())
    assert play.verbs() == ["describe", "create", "describe", "describe", "describe"]
    create = next(c for c in play.calls() if c[3] == "create")
    assert "--spot" in create and "--accelerator-type=v5litepod-16" in create
    assert "--runtime-version=v2-alpha-tpuv5-lite" in create and "--node-id=q" in create
    queued.up(JOB, queued.Gcloud(), print, Told())
    assert play.verbs().count("create") == 1
    out = capsys.readouterr().out
    assert re.search(r"q is WAITING_FOR_RESOURCES after \d+ s", out)
    assert "q is ACTIVE: 1 × v5litepod-16, 4 workers" in out


def test_several_slices_and_other_capacity_are_asked_for():
    words = queued.create(JOB._replace(slices=2, capacity="on_demand"))
    assert "--node-count=2" in words and "--node-prefix=q" in words
    assert not {"--spot", "--on_demand", "--node-id=q"} & set(words)
    assert "--reserved" in queued.create(JOB._replace(capacity="reserved"))
    assert {w.split("=")[0] for w in words[6:]} <= FLAGS["create"]


def test_quota_is_an_error_with_what_to_do(play, capsys):
    error = "ERROR: (gcloud.create) RESOURCE_EXHAUSTED: Quota limit 'TPUV5sPreemptible' exceeded"
    play(create_errors=[error])
    assert attempt() == 1
    play(create_errors=[error])
    assert launch.main(["up", *FLAGS_OF]) == 1
    assert "exceeded. Ask for quota in that zone" in capsys.readouterr().err


def test_a_stock_out_is_tried_again(play):
    error = "ERROR: (gcloud.create) There is no more capacity in the zone 'us-west4-a'"
    play(create_errors=[error, ""], ssh=["", "0\n0\n0\n0\n"])
    said = []
    assert attempt(said) == queued.LOST and "no such machines now" in said[0]
    assert attempt() == 0


def test_preempted_while_it_is_created_it_is_deleted_and_tried_again(play):
    play(lives=[["PROVISIONING", "SUSPENDED"], ["ACTIVE"]], ssh=["", "0\n0\n0\n0\n"])
    said = []
    assert attempt(said) == queued.LOST
    assert "q is SUSPENDED: taken away" in said and "delete" in play.verbs()
    assert attempt() == 0


def test_failed_prints_its_cause(play):
    play(lives=[["FAILED"]], cause="internal problem")
    said = []
    assert attempt(said) == queued.LOST and "q is FAILED: internal problem" in said
    play(lives=[["FAILED"]], cause="Quota exceeded for v5e")
    assert attempt() == 1


def test_what_is_left_of_a_lost_one_is_deleted_first(play):
    play(states=["SUSPENDED"], ssh=["", "0\n0\n0\n0\n"])
    assert attempt() == 0
    verbs = play.verbs()
    assert verbs.index("delete") < verbs.index("create")


def test_a_lost_ssh_does_not_end_the_run(play):
    play(ssh=["", None, None, "running\nrunning\n0\nrunning\n", "0\n0\n0\n0\n"])
    assert attempt() == 0
    assert "delete" not in play.verbs()


def test_machines_that_no_ssh_reaches_are_lost(play):
    play(ssh=["", *[None] * 5])
    assert attempt() == queued.LOST and play.verbs()[-2:] == ["delete", "describe"]


def test_supervise_goes_on_after_a_preemption_and_ends_with_an_error(play, capsys):
    """Told to leave, then the machine is gone while it runs, then an error that comes again."""
    play(
        lives=[["ACTIVE"], ["ACTIVE", "SUSPENDING"], ["ACTIVE"]],
        ssh=["", "42\n42\n42\n42\n", "", "", "1\nrunning\nrunning\nrunning\n"],
        ls=["", "gs://b/runs/q/checkpoints/5/\n", "gs://b/runs/q/checkpoints/5/\n"],
    )
    code = launch.main(["supervise", *FLAGS_OF, "--", *COMMAND[1:]])
    out = capsys.readouterr().out
    assert "attempt 1 was told to leave and saved" in out and "its machines are lost" in out
    assert code == 1 and play.verbs().count("create") == 3


def test_supervise_told_to_leave_tells_the_workers_and_ends_when_they_have_saved(play, capsys):
    play(
        ssh=["", "SIGTERM", "stopping", "running\n42\n42\n42\n", "42\n42\n42\n42\n"],
        ls=["", "gs://b/runs/q/checkpoints/9/\n"],
    )
    assert launch.main(["supervise", *FLAGS_OF, "--", *COMMAND[1:]]) == 42
    out = capsys.readouterr().out
    assert "so are the workers, which save first" in out and "so this ends, as it was told" in out
    commands = [w for call in play.calls() for w in call if w.startswith("--command=")]
    assert sum(queued.REMOTE_STOP in c for c in commands) == 1
    verbs = play.verbs()
    assert verbs.count("create") == 1 and "delete" in verbs


def test_told_to_leave_while_it_waits_for_machines_it_asks_for_none(play):
    play(lives=[["WAITING_FOR_RESOURCES"]])
    told, said = Told(), []
    told.yes = True
    assert queued.attempt_once(JOB, queued.Gcloud(), COMMAND, said.append, told) == 42
    assert "told to leave before the machines were there" in said and "ssh" not in play.verbs()


def test_committed_steps_are_counted_in_the_bucket(play):
    play(ls=["gs://b/r/checkpoints/5/\ngs://b/r/checkpoints/10/\n", "gs://b/r/sft/checkpoints/8/"])
    assert queued.committed_steps("gs://b/r", queued.Gcloud()) == 18


def test_the_first_error_of_any_worker_comes_first(play, capsys):
    said = "t-0: step 5\nERROR 20 t-0:error: peer is gone\nERROR 10 t-2:error: no disk\nt-2: bye\n"
    play(states=["ACTIVE"], ssh=[said])
    assert launch.main(["logs", *FLAGS_OF]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["first error: t-2:error: no disk", "t-0: step 5", "t-2: bye"]


def test_status_and_down(play, capsys):
    play(states=["ACTIVE"], ls=["gs://b/r/checkpoints/7/\n"])
    assert launch.main(["status", *FLAGS_OF, "--workdir=gs://b/r"]) == 0
    assert launch.main(["down", *FLAGS_OF]) == 0 and launch.main(["down", *FLAGS_OF]) == 0
    out = capsys.readouterr().out
    assert "q is ACTIVE" in out and "7 steps are committed" in out and "q is gone" in out


def test_run_starts_the_command_on_every_worker(play):
    play(states=["ACTIVE"])
    assert launch.main(["run", *FLAGS_OF, "--", *COMMAND[1:]]) == 0
    words = play.calls()[-1]
    assert "--worker=all" in words and "--node=all" in words
    remote = next(w for w in words if w.startswith("--command=")).removeprefix("--command=")
    assert "gs://b/code/c0ffee.tar.gz" in remote and '--workdir="$HOME"/bucket/runs/q' in remote
    assert subprocess.run(["sh", "-n", "-c", remote]).returncode == 0
    assert subprocess.run(["sh", "-n", Path(launch.__file__).parent / "worker.sh"]).returncode == 0


def test_what_is_in_the_bucket_is_found_below_home():
    command = ["train", "--a=gs://b/x y", "--c=('gs://b/d','gs://b/e')", "--f=it's", "gs://other/g"]
    remote = queued.remote_start(JOB, "c0ffee", "1", command)
    words = remote[remote.index(" b train") + 8 : remote.index(" --distributed")]
    done = subprocess.run(["sh", "-c", f"printf '%s\\n' {words}"], env={"HOME": "/h"},
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout.splitlines() == [
        "--a=/h/bucket/x y", "--c=('/h/bucket/d','/h/bucket/e')", "--f=it's", "gs://other/g",
    ]  # fmt: skip


def test_the_worker_leaves_the_exit_code_and_passes_sigterm_on(tmp_path):
    """worker.sh with a program that saves when it is told to leave."""
    source = (Path(launch.__file__).parent / "worker.sh").read_text()
    start = source.index("setup() {")
    stop = source.index("# A handler")
    (tmp_path / "tpu").mkdir()
    (tmp_path / "tpu" / "worker.sh").write_text(source[:start] + "setup() { :; }\n" + source[stop:])
    (tmp_path / "seedpod" / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "seedpod" / "venv" / "bin" / "python").symlink_to(sys.executable)
    program = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(42)); "
    program += "print('up', flush=True); time.sleep(60)"
    (tmp_path / "program.py").write_text(program)
    worker = subprocess.Popen(
        ["sh", str(tmp_path / "tpu" / "worker.sh"), "7", "b", "program"],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert worker.stdout.readline() == "up\n"
    os.killpg(worker.pid, signal.SIGTERM)  # as a machine that shuts down
    worker.wait(20)
    assert (tmp_path / "seedpod" / "exit-7").read_text() == "42\n"


def test_sync_copies_the_tracked_files_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "a.txt").write_text("old")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "a.txt").write_text("new")
    monkeypatch.setenv("GIT_AUTHOR_NAME", "a")
    monkeypatch.setenv("GIT_AUTHOR_EMAIL", "a@b")
    monkeypatch.setenv("GIT_COMMITTER_NAME", "a")
    monkeypatch.setenv("GIT_COMMITTER_EMAIL", "a@b")
    sent = {}

    class Recorder:
        dry_run = False

        def __call__(self, command, data=None):
            sent[command[-1]] = data

    code = queued.sync(JOB, Recorder())
    tar = sent[f"gs://b/code/{code}.tar.gz"]
    out = subprocess.run(["tar", "xzO", "a.txt"], input=tar, capture_output=True).stdout
    assert out == b"new"


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--accelerator=v5e-17"], "v5e comes with 1, 4, 8, 16"),
        (["--accelerator=h100-8"], "write v5e-16, v5p-128 or v6e-256"),
        (["--name=Q_1"], "small letters, digits and hyphens"),
        (["--bucket=b"], "write gs://NAME"),
    ],
)
def test_flags_that_cannot_be_are_one_line(flags, message, capsys):
    assert launch.main(["up", *FLAGS_OF, *flags, "--dry_run"]) == 1
    assert message in capsys.readouterr().err


def test_a_workdir_that_not_all_workers_see_is_refused(capsys):
    assert launch.main(["run", *FLAGS_OF, "--dry_run", "--", "--workdir=runs/q"]) == 1
    assert "type --workdir=gs://b/runs/q" in capsys.readouterr().err


def test_slices_by_name():
    assert parse("v5e-16") == parse("v5litepod-16")
    assert parse("v5e-16")[2:] == ("4x4", "tpu-v5-lite-podslice", 4, 16)
    assert parse("v5p-128")[2:] == ("4x4x4", "tpu-v5p-slice", 16, 64)
    assert parse("v6e-256")[2:] == ("16x16", "tpu-v6e-slice", 64, 256)
    assert (parse("v5p-8").topology, parse("v6e-8").hosts) == ("2x2x1", 1)


def test_readme_shows_what_dry_run_prints(capsys):
    """And takes at most six commands from nothing to a running job."""
    readme = (Path(launch.__file__).parents[1] / "README.md").read_text()
    shown = re.findall(r"```\n\$ python -m tpu\.launch (.*?)\n```", readme, re.DOTALL)
    assert shown
    for block in shown:
        command, _, output = block.replace("\\\n", " ").partition("\n")
        assert launch.main(shlex.split(command)) == 0
        assert capsys.readouterr().out.strip() == output.strip()
    section = readme[readme.index("## On Cloud TPU") :]
    first = section[section.index("```sh\n") + 6 :].split("```")[0]
    commands = [c for c in first.replace("\\\n", " ").splitlines() if c and not c.startswith("#")]
    assert len(commands) <= 6 and any("tpu.launch supervise" in c for c in commands)
