"""A run that follows capacity, against the gcloud that checks flags and plays what goes wrong."""

import json
import time

import pytest

from tpu.launch import capacity, verbs
from tpu.launch.history import Candidate, History
from tpu.launch.supervise import StopSignal

WORKDIR = "gs://b/runs/q"
FILE = f"{WORKDIR}/capacity.json"
FLAGS = ["supervise", "--name=q", "--bucket=gs://b", "--move_after=1",
         "--zones=us-west4-a,us-east5-b", "--accelerators=v5e-16,v6e-8"]  # fmt: skip
RUN = ["--", "--config=configs/pretrain.py:smoke", f"--workdir={WORKDIR}"]
NO_CAPACITY = "ERROR: (gcloud.create) There is no more capacity in the zone"


@pytest.fixture
def clock(monkeypatch):
    """Seconds that passed while the supervisor slept; time.time() is as much later."""
    passed, now = [0.0], time.time
    monkeypatch.setattr(time, "time", lambda: now() + passed[0])
    monkeypatch.setattr(
        StopSignal, "sleep", lambda self, s: passed.__setitem__(0, passed[0] + s)
    )  # fmt: skip
    return passed


def asked(play, refused=()):
    """(accelerator, zone) of every `create`, of which some were refused; no two may have machines
    at once."""
    found, alive = [], False
    for call in play.calls():
        words = dict(word.partition("=")[::2] for word in call)
        if call[3:4] == ["create"]:
            assert not alive, "two slices of one run"
            found.append((words["--accelerator-type"], words["--zone"]))
            alive = found[-1] not in refused
        alive = alive and call[3:4] != ["delete"]
    return found


def started(play):
    """The settings with which runs were started."""
    commands = [w for call in play.calls() for w in call if "worker.sh" in w]
    return [
        {w.partition("=")[0]: w.partition("=")[2] for w in c.split() if w.startswith("--config.")}
        for c in commands
    ]


def stay(accelerator, zone, **changes):
    return dict(
        accelerator=accelerator, zone=zone, flags=[], summary="as before", asked=time.time(),
        begun=time.time(), ended=0.0, first_step=0, last_step=0, outcome="",
    ) | changes  # fmt: skip


def test_a_run_moves_to_where_machines_are_and_back_to_what_is_preferred(play, clock, capsys):
    """None in time, none at all, a run that is taken away, and the preferred kind again."""
    play(
        lives=[["WAITING_FOR_RESOURCES"], ["ACTIVE", "ACTIVE", "SUSPENDING"],
               ["PROVISIONING", "ACTIVE"]],
        create_errors=["", NO_CAPACITY], ssh=["", "running\n", "", "0\n0\n0\n0\n"],
    )  # fmt: skip
    assert verbs.main([*FLAGS, *RUN]) == 0
    lines = capsys.readouterr().out.splitlines()
    first, second = ("v5litepod-16", "us-west4-a"), ("v5litepod-16", "us-east5-b")
    assert asked(play, refused=(second,)) == [first, second, ("v6e-8", "us-west4-a"), first]
    moves = [line for line in lines if "moving to" in line]
    assert moves[0].startswith(
        "launch: moving to v5e-16 in us-east5-b (v5e-16 in us-west4-a: none came within 1 min); "
        "mesh fsdp 16, 1 microbatch, remat none, about "
    )
    assert "moving to v6e-8 in us-west4-a (v5e-16 in us-east5-b: the zone has no such" in moves[1]
    assert "v5e-16 in us-west4-a (v6e-8 in us-west4-a: taken away); mesh fsdp 16" in moves[2]
    assert [s["--config.mesh.fsdp"] for s in started(play)] == ["8", "16"]
    assert lines[-3].startswith("launch: v6e-8 in us-west4-a   steps 0 to 0  ")
    assert lines[-2].endswith("done") and lines[-1].startswith(
        "launch: no machines came 2 times, in"
    )
    kept = json.loads(play.stdin()[FILE])["stays"]
    assert [s["outcome"][:10] for s in kept] == ["none came ", "the zone h", "taken away", "done"]


def test_a_supervisor_that_was_killed_finds_its_run_again(play, clock, capsys):
    """While its run is at work: it waits for it, asks for nothing, and notes the end."""
    play(
        states=["ACTIVE"], zone="us-east5-b", ssh=["17\n", "0\n"],
        cat={FILE: json.dumps({"stays": [stay("v6e-8", "us-east5-b")]})},
    )  # fmt: skip
    assert verbs.main([*FLAGS, *RUN]) == 0
    out = capsys.readouterr().out
    assert "attempt 17 is running already" in out and not asked(play)
    (kept,) = json.loads(play.stdin()[FILE])["stays"]
    assert kept["outcome"] == "done" and kept["zone"] == "us-east5-b"


@pytest.mark.parametrize(
    "changes,expected",
    [
        (dict(begun=0.0, asked=0.0), ("v5litepod-16", "us-west4-a")),  # it asked, and none came
        ({}, ("v5litepod-16", "us-west4-a")),  # its machines are gone
    ],
)
def test_killed_and_started_again_it_begins_with_the_preferred(play, clock, changes, expected):
    """Its last machines, still waited for or SUSPENDED, are deleted before others are asked for."""
    states = ["WAITING_FOR_RESOURCES"] if changes else ["SUSPENDED"]
    play(
        states=states, zone="us-east5-b", lives=[["ACTIVE"]], ssh=["", "0\n0\n0\n0\n"],
        cat={FILE: json.dumps({"stays": [stay("v6e-8", "us-east5-b", **changes)]})},
    )  # fmt: skip
    assert verbs.main([*FLAGS, *RUN]) == 0
    assert asked(play) == [expected]
    assert play.verbs().index("delete") < play.verbs().index("create")


def test_machines_that_the_run_did_not_ask_for_are_not_touched(play, clock, capsys):
    play(states=["ACTIVE"], zone="us-east5-b")
    assert verbs.main([*FLAGS, *RUN]) == 1
    assert "q exists in us-east5-b (ACTIVE), and this run did not ask for it" in (
        capsys.readouterr().err
    )
    assert not {"create", "delete"} & set(play.verbs())


def test_kinds_that_cannot_hold_the_run_are_named_before_any_is_asked_for(play, capsys):
    flags = [f for f in FLAGS if not f.startswith("--accelerators")]
    kinds = "--accelerators=v5e-16,v5e-4,v6e-256"
    sizes = ["--config.model.size=8b", "--config.data.batch_size=48", "--config.data.length=256"]
    assert verbs.main([*flags, kinds, *RUN, *sizes]) == 1
    error = capsys.readouterr().err
    assert "v5e-4: it needs about " in error and "GiB a device, and 90% of 16" in error
    assert "v6e-256: its 256 devices are 256 shards of a batch" in error
    assert "do not divide its 48 rows" in error
    assert "v5e-16: " not in error and not play.calls()
    ramp = "--config.data.batch_ramp={20: 8, 40: 20}"
    tensor = "--config.mesh.tensor=1"
    assert verbs.main([*flags, "--accelerators=v5e-4,v5e-8", *RUN, sizes[1], ramp, tensor]) == 1
    error = capsys.readouterr().err
    assert "v5e-8: data.batch_ramp: batches of 20 rows do not divide" in error
    assert "change it to a multiple of 8" in error and "v5e-4: " not in error
    late = "--config.data.batch_ramp={100000: 8}"
    assert verbs.main([*flags, kinds, *RUN, late]) == 1
    assert "error: data.batch_ramp.100000: it would end at step" in capsys.readouterr().err


def test_what_is_refused_again_and_again_is_left_out(play, clock, capsys):
    quota = "ERROR: (gcloud.create) RESOURCE_EXHAUSTED: Quota limit 'TPUV5s' exceeded"
    play(create_errors=[quota] * 3)
    assert verbs.main([*FLAGS[:4], "--zone=us-west4-a", "--accelerators=v5e-16", *RUN]) == 1
    assert play.verbs().count("create") == 3
    assert "each of these was refused several times" in capsys.readouterr().out


def test_asked_to_stop_while_no_machines_come_it_asks_for_no_more(play, clock, monkeypatch):
    play(create_errors=[NO_CAPACITY] * 2)
    monkeypatch.setattr(StopSignal, "sleep", lambda self, s: setattr(self, "requested", True))
    assert verbs.main([*FLAGS[:5], "--accelerator=v5e-16", *RUN]) == 42
    assert play.verbs().count("create") == 2


def test_what_is_typed_stays_and_the_rest_follows_the_rows():
    from tpu.launch import candidates

    def flags_of(*typed, kinds=("v5e-16",)):
        heads = [f"--config.model.num_{name}=8" for name in ("heads", "kv_heads")]
        command = ["train", *RUN[1:], *heads, *typed]
        found = candidates.of_slices(command, WORKDIR, kinds, ["z"], 1, str)
        return [dict(f.removeprefix("--config.").split("=") for f in c.flags) for c in found]

    few = flags_of("--config.data.batch_size=8", kinds=("v5e-16", "tpu7x-8"))
    assert [(f["mesh.fsdp"], f.get("mesh.tensor")) for f in few] == [("8", "2"), ("8", None)]
    (typed,) = flags_of("--config.mesh.tensor=4", "--config.accumulate=2")
    assert typed["mesh.fsdp"] == "4" and not {"mesh.tensor", "accumulate"} & typed.keys()


def test_a_damaged_history_is_not_forgotten(play, capsys):
    play(cat={FILE: '{"stays": [{"zone": 1}]}'})
    assert verbs.main([*FLAGS, *RUN]) == 1
    assert "It says which machines may exist" in capsys.readouterr().err
    assert "create" not in play.verbs()


def test_numbers_of_devices_take_turns():
    """On this machine nothing else is to be waited for: a loss goes on to the next number."""
    kept, codes = [], [137, 42, 0]
    counts = [Candidate(f"{n} devices", "", (f"--n={n}",)) for n in (4, 2, 8)]
    written = []

    def run(devices, flags):
        kept.append((devices, *flags))
        return codes.pop(0)

    follower = capacity.Follower(
        capacity.Loopback(run, processes=2), counts, History("", written.append),
        lambda: len(kept), [].append, StopSignal(), rotates=True,
    )  # fmt: skip
    assert [follower.attempt() for _ in range(3)] == [137, 42, 0]
    assert kept == [(2, "--n=4"), (1, "--n=2"), (4, "--n=8")]
    assert follower.history.table()[1].split("  ")[1:3] == ["steps 1 to 2", "0:00"]
    assert json.loads(written[-1])["stays"] == follower.history.stays


def test_several_numbers_of_devices_need_supervision(capsys):
    assert verbs.main(["local", "--devices=4,2", *RUN]) == 1
    assert "only --supervise uses more than one" in capsys.readouterr().err
