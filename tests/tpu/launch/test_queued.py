"""Queued resources against a gcloud that checks flags and plays what goes wrong."""

import json
import re
import shlex
import subprocess
import time
from pathlib import Path

import fake_gcloud
import pytest

from tpu.launch import arguments, commands, queued, verbs
from tpu.launch.gcloud import LOST, Gcloud, LaunchError
from tpu.launch.supervise import StopSignal

FLAGS_OF = ["--name=q", "--accelerator=v5e-16", "--zone=us-west4-a", "--bucket=gs://b"]
JOB = commands.QueuedJob("q", "us-west4-a", "v5e-16", "gs://b")
WORKDIR = "gs://b/runs/q"
COMMAND = ["train", "--config=configs/pretrain.py", f"--workdir={WORKDIR}"]


def attempt(said=None):
    say = [].append if said is None else said.append
    return queued.attempt_once(JOB, Gcloud(), COMMAND, WORKDIR, say, StopSignal())


@pytest.mark.parametrize(
    "output,expected",
    [
        ("", ""),
        ("w0: step 1\nw0: ERROR 3 of it", "w0: step 1\nw0: ERROR 3 of it"),
        ("ERROR without a time\nw0: x", "ERROR without a time\nw0: x"),
        ("w0: x\nERROR 9 w1:error: late\nERROR 8 w0:KeyError: 'a b'", "first error: w0:KeyError: "
         "'a b'\nw0: x"),
    ],
)  # fmt: skip
def test_logs_begin_with_the_first_error_if_there_is_one(output, expected):
    assert commands.first_error_first(output) == expected


def test_up_creates_and_waits_and_is_idempotent(play, capsys):
    play(lives=[["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]])
    queued.up(JOB, Gcloud(), print, StopSignal())
    assert play.verbs() == ["describe", "create", "describe", "describe", "describe"]
    create = next(c for c in play.calls() if c[3] == "create")
    assert "--spot" in create and "--accelerator-type=v5litepod-16" in create
    assert "--runtime-version=v2-alpha-tpuv5-lite" in create and "--node-id=q" in create
    queued.up(JOB, Gcloud(), print, StopSignal())
    assert play.verbs().count("create") == 1
    out = capsys.readouterr().out
    assert re.search(r"q is WAITING_FOR_RESOURCES after \d+ s", out)
    assert "q is ACTIVE: 1 × v5litepod-16, 4 workers" in out


def test_several_slices_and_other_capacity_are_asked_for():
    words = commands.create(JOB._replace(slices=2, capacity="on_demand"))
    assert "--node-count=2" in words and "--node-prefix=q" in words
    assert not {"--spot", "--on_demand", "--node-id=q"} & set(words)
    assert "--reserved" in commands.create(JOB._replace(capacity="reserved"))
    for job in (JOB._replace(slices=2), JOB._replace(capacity="reserved", project="p")):
        fake_gcloud.check(f"{fake_gcloud.QR} create", commands.create(job))
    with pytest.raises(fake_gcloud.Ended, match="unrecognized arguments: --cheap"):
        fake_gcloud.check(f"{fake_gcloud.QR} create", [*words, "--cheap"])


def test_quota_is_an_error_with_what_to_do(play, capsys):
    error = "ERROR: (gcloud.create) RESOURCE_EXHAUSTED: Quota limit 'TPUV5sPreemptible' exceeded"
    play(create_errors=[error])
    assert attempt() == 1
    play(create_errors=[error])
    assert verbs.main(["up", *FLAGS_OF]) == 1
    assert "exceeded. Request quota in that zone" in capsys.readouterr().err


def test_a_stock_out_is_tried_again(play):
    error = "ERROR: (gcloud.create) There is no more capacity in the zone 'us-west4-a'"
    play(create_errors=[error, ""], ssh=["", "0\n0\n0\n0\n"])
    said = []
    assert attempt(said) == LOST and "no such machines now" in said[0]
    assert attempt() == 0


def test_preempted_while_it_is_created_it_is_deleted_and_tried_again(play):
    play(lives=[["PROVISIONING", "SUSPENDED"], ["ACTIVE"]], ssh=["", "0\n0\n0\n0\n"])
    said = []
    assert attempt(said) == LOST
    assert "q is SUSPENDED: preempted" in said and "delete" in play.verbs()
    assert attempt() == 0


def test_failed_prints_its_cause(play):
    play(lives=[["FAILED"]], cause="internal problem")
    said = []
    assert attempt(said) == LOST and "q is FAILED: internal problem" in said
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


def test_a_laptop_without_a_network_does_not_end_the_run(play):
    error = "ERROR: (gcloud.describe) There was a problem refreshing your current auth tokens"
    errors = ["", "", error, error, "", error]  # while it waits for machines, and for the run
    play(
        lives=[["PROVISIONING", "ACTIVE"]], describe_errors=errors,
        ssh=["", "running\nrunning\nrunning\nrunning\n", "0\n0\n0\n0\n"],
    )  # fmt: skip
    said = []
    assert attempt(said) == 0 and "delete" not in play.verbs()
    assert sum("auth tokens; asking again in 30 s" in line for line in said) == 3


def test_ctrl_c_leaves_the_machines_alone(play, capsys, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    play(states=["ACTIVE"])
    monkeypatch.setattr(queued, "wait", interrupt)
    monkeypatch.setattr(queued, "running", lambda job, gcloud: "17")
    assert verbs.main(["supervise", *FLAGS_OF, "--", *COMMAND[1:]]) == 130
    assert "the same command waits for them again" in capsys.readouterr().err
    assert "delete" not in play.verbs()


def test_machines_that_no_ssh_reaches_are_lost(play):
    play(ssh=["", *[None] * 5])
    assert attempt() == LOST and play.verbs()[-2:] == ["delete", "describe"]


def test_supervise_goes_on_after_a_preemption_and_ends_with_an_error(play, capsys):
    """A request to stop, then a machine lost during the run, then an error that comes again."""
    play(
        lives=[["ACTIVE"], ["ACTIVE", "SUSPENDING"], ["ACTIVE"]],
        ssh=["", "42\n42\n42\n42\n", "", "", "1\nrunning\nrunning\nrunning\n"],
        ls=["", "gs://b/runs/q/checkpoints/5/\n", "gs://b/runs/q/checkpoints/5/\n"],
    )
    code = verbs.main(["supervise", *FLAGS_OF, "--", *COMMAND[1:]])
    out = capsys.readouterr().out
    assert "attempt 1 saved and stopped" in out and "its machines are lost" in out
    assert code == 1 and play.verbs().count("create") == 3


def test_supervise_told_to_leave_tells_the_workers_and_ends_when_they_have_saved(play, capsys):
    play(
        ssh=["", "SIGTERM", "stopping", "running\n42\n42\n42\n", "42\n42\n42\n42\n"],
        ls=["", "gs://b/runs/q/checkpoints/9/\n"],
    )
    assert verbs.main(["supervise", *FLAGS_OF, "--", *COMMAND[1:]]) == 42
    out = capsys.readouterr().out
    assert "stopping the workers, which save first" in out and "stopping as requested" in out
    remote = [w for call in play.calls() for w in call if w.startswith("--command=")]
    assert sum(commands.REMOTE_STOP in c for c in remote) == 1
    assert play.verbs().count("create") == 1 and "delete" in play.verbs()


def test_told_to_leave_while_it_waits_for_machines_it_asks_for_none(play):
    play(lives=[["WAITING_FOR_RESOURCES"]])
    stop, said = StopSignal(), []
    stop.requested = True
    code = queued.attempt_once(JOB, Gcloud(), COMMAND, WORKDIR, said.append, stop)
    assert code == 42
    assert "asked to stop before the machines were ready" in said and "ssh" not in play.verbs()


def test_committed_steps_are_counted_in_the_bucket(play):
    play(ls=["gs://b/r/checkpoints/5/\ngs://b/r/checkpoints/10/\n", "gs://b/r/sft/checkpoints/8/"])
    assert queued.committed_steps("gs://b/r", Gcloud()) == 18


def test_the_first_error_of_any_worker_comes_first(play, capsys):
    said = "t-0: step 5\nERROR 20 t-0:error: peer gone\nERROR 10 t-2:error: no disk\nt-2: \x1bbye\n"
    play(states=["ACTIVE"], ssh=[said])
    assert verbs.main(["logs", *FLAGS_OF]) == 0 and "--worker=all" in play.calls()[-1]
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["first error: t-2:error: no disk", "t-0: step 5", r"t-2: \x1bbye"]


def test_status_and_down(play, capsys):
    old, new = (
        {"goodput": 0.5, "steps": s, "written_at": time.time() - 40 - 9 * s} for s in (9, 6)
    )
    play(
        states=["ACTIVE"], ssh=["t-0: running\nt-1: ended with 134\n"],
        cat={"gs://b/r/*/goodput.json": f"{json.dumps(old)}\n{json.dumps(new)}\n"},
        ls=["gs://b/r/checkpoints/7/\n"],
    )  # fmt: skip
    assert verbs.main(["status", *FLAGS_OF, "--workdir=gs://b/r"]) == 0
    assert verbs.main(["down", *FLAGS_OF]) == 0 and verbs.main(["down", *FLAGS_OF]) == 0
    out = capsys.readouterr().out
    assert "q is ACTIVE" in out and "7 steps are committed" in out and "q is gone" in out
    assert "t-1: ended with 134" in out and re.search(r"step 6, 9\d s ago; goodput 50%", out)


def test_every_verb_is_played():
    """Here, and in the files of `doctor`, `local` and `manifest`."""
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert all(f'main(["{verb}"' in text for verb in arguments.VERBS)


def test_answers_in_another_form_are_errors(play):
    answer = {f"{fake_gcloud.QR} describe": '{"state": "ACTIVE"}'}
    play(answers=answer)
    with pytest.raises(LaunchError, match=r"describe is not of the form .*Update it"):
        queued.state(JOB, Gcloud())
    play(answers={"storage cat": '{"steps": 3}{'})
    assert queued.progress("gs://b/r", Gcloud()).startswith("gs://b/r/goodput.json cannot be read")


def test_status_of_what_is_not_there(play, capsys):
    assert verbs.main(["status", *FLAGS_OF, "--workdir=gs://b/r"]) == 0
    assert capsys.readouterr().out == (
        "launch: q is not there\nlaunch: no step was recorded yet\nlaunch: 0 steps are committed\n"
    )


def test_ssh_is_a_shell_on_one_worker(play):
    play(states=["ACTIVE"])
    assert verbs.main(["ssh", *FLAGS_OF, "--worker=2"]) == 0
    assert play.calls()[-1][-2:] == ["--node=0", "--worker=2"]
    assert verbs.main(["ssh", *FLAGS_OF, "--worker=all"]) != 0


def test_sync_says_where_the_code_is(play, capsys):
    assert verbs.main(["sync", *FLAGS_OF]) == 0
    assert capsys.readouterr().out == "launch: gs://b/code/c0ffee.tar.gz\n"


def test_not_logged_in_says_so(play, capsys):
    error = "ERROR: (gcloud.describe) You do not currently have an active account selected."
    play(answers={f"{fake_gcloud.QR} describe": [1, error]})
    assert verbs.main(["up", *FLAGS_OF]) == 1
    assert capsys.readouterr().err.endswith("account selected. Type gcloud auth login\n")


def test_no_project_says_so(play, capsys):
    """The message is in the third line of gcloud's output."""
    error = (
        "ERROR: (gcloud.compute.tpus.queued-resources.describe) Error parsing [queued_resource].\n"
        "The [queued_resource] resource is not properly specified.\n"
        "Failed to find attribute [project]. The attribute can be set in the following ways: \n"
    )
    play(answers={f"{fake_gcloud.QR} describe": [1, error]})
    assert verbs.main(["up", *FLAGS_OF]) == 1
    said = "error: gcloud has no project: type gcloud config set project PROJECT\n"
    assert capsys.readouterr().err == said


def test_no_gcloud_is_one_line(play, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert verbs.main(["up", *FLAGS_OF]) == 1
    assert capsys.readouterr().err == "error: gcloud is not installed\n"


def test_supervise_waits_for_what_runs_already(play):
    play(states=["ACTIVE"], ssh=["17\n17\n17\n17\n", "0\n0\n0\n0\n"])
    said = []
    assert attempt(said) == 0 and "attempt 17 is running already: waiting for it" in said
    assert "create" not in play.verbs() and "exit-17" in play.calls()[-1][-1]


def test_where_only_some_workers_run_something_the_machines_are_given_up(play):
    play(states=["ACTIVE"], ssh=["17\nnone\n17\n17\n"])
    said = []
    assert attempt(said) == LOST and "only some workers of q are running" in said
    assert "delete" in play.verbs()


def test_run_does_not_start_beside_what_runs(play, capsys):
    play(states=["ACTIVE"], ssh=["17\n17\n17\n17\n"])
    assert verbs.main(["run", *FLAGS_OF, "--", *COMMAND[1:]]) == 1
    assert "attempt 17 is running already; see its output with logs" in capsys.readouterr().err


def test_run_starts_the_command_on_every_worker(play):
    play(states=["ACTIVE"], ssh=["none\nnone\nnone\nnone\n"])
    assert verbs.main(["run", *FLAGS_OF, "--", *COMMAND[1:]]) == 0
    words = play.calls()[-1]
    ((path, facts),) = play.stdin().items()
    assert re.fullmatch(r"gs://b/runs/q/code-\d+\.diff", path) and facts.startswith("commit ")
    assert "--worker=all" in words and "--node=all" in words
    remote = next(w for w in words if w.startswith("--command=")).removeprefix("--command=")
    assert "gs://b/code/c0ffee.tar.gz" in remote and '--workdir="$HOME"/bucket/runs/q' in remote
    assert subprocess.run(["sh", "-n", "-c", remote]).returncode == 0
    assert subprocess.run(["sh", "-n", Path(queued.__file__).parent / "worker.sh"]).returncode == 0


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

    code = queued.sync(JOB, Recorder(), print)
    tar = sent[f"gs://b/code/{code}.tar.gz"]
    out = subprocess.run(["tar", "xzO", "a.txt"], input=tar, capture_output=True).stdout
    assert out == b"new"


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--accelerator=v5e-17"], "v5e comes with 1, 4, 8, 16"),
        (["--accelerator=h100-8"], "write v5e-16, v6e-256 (chips), v4-32"),
        (["--name=Q_1"], "small letters, digits and hyphens"),
        (["--name=q-"], "--name=q-: small letters, digits and hyphens"),
        (["--name=1q"], "--name=1q: small letters"),
        (["--name="], "--name=: small letters"),
        ([f"--name={'q' * 64}"], "small letters"),
        ([f"--name={'q' * 62}", "--slices=2"], "at most 61 characters"),
        (["--bucket=b"], "write gs://NAME"),
        (["--bucket=gs://"], "write gs://NAME"),
        (["--bucket=gs://b/folder"], "write gs://NAME, no folder"),
        (["--bucket=gs://My Bucket"], "write gs://NAME"),
        (["--zone=us-west4"], "--zone=us-west4: write it as us-west4-a"),
        (["--project=My Project"], "--project=My Project: the ID"),
    ],
)
def test_flags_that_cannot_be_are_one_line(flags, message, capsys):
    assert verbs.main(["up", *FLAGS_OF, *flags, "--dry_run"]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb,flag,values",
    [
        ("up", "slices", ("0", "-1", "x", "1e20", "99999999999")),
        ("logs", "lines", ("0", "-1")),
        ("logs", "worker", ("-1", "two", "")),
        ("ssh", "node", ("-1", "x")),
        ("supervise", "give_up_after", ("0",)),
        ("local", "processes", ("0", "-1", "nan")),
        ("local", "devices", ("0", "-1")),
        ("local", "port", ("-1", "65536")),
        ("local", "heartbeat", ("0",)),
        ("local", "peer_timeout", ("-5",)),
    ],
)
def test_numbers_of_flags_have_ranges(verb, flag, values, capsys):
    given = [] if verb == "local" else [*FLAGS_OF, "--dry_run"]
    for value in values:
        with pytest.raises(SystemExit) as left:
            verbs.main([verb, *given, f"--{flag}={value}"])
        assert left.value.code == 1
        assert f"argument --{flag}: {value} is no" in capsys.readouterr().err


def test_a_workdir_that_not_all_workers_see_is_refused(capsys):
    assert verbs.main(["run", *FLAGS_OF, "--dry_run", "--", "--workdir=runs/q"]) == 1
    assert "type --workdir=gs://b/runs/q" in capsys.readouterr().err


def test_the_page_on_tpus_shows_what_dry_run_prints(capsys):
    """At most six commands lead from nothing to a running job."""
    page = (Path(queued.__file__).parents[2] / "docs/tpu.md").read_text()
    shown = re.findall(r"```\n\$ python -m tpu\.launch (.*?)\n```", page, re.DOTALL)
    assert shown
    for block in shown:
        command, _, output = block.replace("\\\n", " ").partition("\n")
        assert verbs.main(shlex.split(command)) == 0
        assert capsys.readouterr().out.strip() == output.strip()
    section = page[page.index("## Cloud TPU") :]
    first = section[section.index("```sh\n") + 6 :].split("```")[0]
    commands = [c for c in first.replace("\\\n", " ").splitlines() if c and not c.startswith("#")]
    assert len(commands) <= 6 and any("tpu.launch supervise" in c for c in commands)
