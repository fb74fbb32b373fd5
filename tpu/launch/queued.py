"""Runs on queued resources: Cloud TPU slices through gcloud.

A spot machine cannot be restarted: it is deleted and requested again. The program runs detached
(tpu/launch/worker.sh), so that a lost ssh does not end it, and leaves its exit code in a file.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable
from typing import NotRequired, TypedDict

import msgspec

from tpu.launch import commands, local, package
from tpu.launch.commands import QueuedJob
from tpu.launch.gcloud import LOST, Gcloud, LaunchError, StillThere, parse_answer
from tpu.launch.supervise import StopSignal
from train.runtime.processes import PREEMPTED, UNSAVED

# States from which a resource cannot become ACTIVE again.
GONE = ("FAILED", "SUSPENDING", "SUSPENDED", "DELETING")


class Failure(TypedDict, total=False):
    message: str


class FailedData(TypedDict, total=False):
    error: Failure


class ResourceState(TypedDict):
    state: str
    failedData: NotRequired[FailedData]


class Described(TypedDict):
    """The output of `gcloud … queued-resources describe`; only the entries that are read."""

    state: ResourceState


def state(job: QueuedJob, gcloud: Gcloud) -> tuple[str, str]:
    """(state, cause of a failure); ("", "") if there is no such resource.

    Raises:
      LaunchError: gcloud failed, or its output has another form.
    """
    try:
        output = gcloud(commands.describe(job))
    except LaunchError as e:
        if str(e).startswith("there is no such resource"):
            return "", ""
        raise
    if gcloud.dry_run:
        return "ACTIVE", ""
    described = parse_answer(output, commands.describe(job), Described)["state"]
    return described["state"], described.get("failedData", {}).get("error", {}).get("message", "")


def patient_state(
    job: QueuedJob, gcloud: Gcloud, say: Callable[[str], None], stop: StopSignal
) -> tuple[str, str]:
    """The result of `state`, requested until gcloud answers: a laptop without a network or an
    expired login do not affect the machines.

    Raises:
      LaunchError: gcloud failed, and termination was requested.
    """
    while True:
        try:
            return state(job, gcloud)
        except LaunchError as e:
            if stop.requested:
                raise
            say(f"{e}; asking again in 30 s")
            stop.sleep(30)


def up(
    job: QueuedJob, gcloud: Gcloud, say: Callable[[str], None], stop: StopSignal,
    deadline: float = math.inf,
) -> bool:  # fmt: skip
    """Creates the slices unless they exist, and waits until they are ACTIVE; returns whether they
    already were.

    Args:
      deadline: time.time() after which to give up.

    Raises:
      LaunchError: they failed or were preempted, did not come before the deadline, or termination
        was requested; they are deleted then, as leftovers hold quota.
    """
    start, last = time.monotonic(), None
    current, cause = ("", "") if gcloud.dry_run else state(job, gcloud)
    if current in GONE:
        down(job, gcloud, say, stop)
        current = ""
    ready = current == "ACTIVE"
    if not current:
        try:
            gcloud(commands.create(job))
        except LaunchError as e:  # a supervisor that is gone may have asked a moment ago
            if "ALREADY_EXISTS" not in str(e):
                raise
        current, cause = state(job, gcloud)
    while current != "ACTIVE":
        if current != last:
            say(f"{job.name} is {current or 'not there'} after {time.monotonic() - start:.0f} s")
        last = current
        if stop.requested:
            down(job, gcloud, say, stop)
            raise LaunchError("asked to stop before the machines were ready", PREEMPTED)
        if current in GONE or not current:
            down(job, gcloud, say, stop)
            code = 1 if "uota" in cause else LOST
            raise LaunchError(f"{job.name} is {current or 'gone'}: {cause or 'preempted'}", code)
        if time.time() > deadline:
            down(job, gcloud, say, stop)
            raise LaunchError("no machines came in time", LOST)
        stop.sleep(15)
        current, cause = patient_state(job, gcloud, say, stop)
    say(f"{job.name} is ACTIVE: {job.slices} × {job.slice.accelerator}, {job.workers} workers")
    return ready


def down(job: QueuedJob, gcloud: Gcloud, say: Callable[[str], None], stop: StopSignal) -> None:
    """Deletes the slices and waits until they are gone.

    Raises:
      StillThere: they are still there after 10 minutes.
    """
    try:
        gcloud(commands.delete(job))
    except LaunchError as e:
        if not str(e).startswith("there is no such resource"):
            raise
    for _ in range(40):
        if gcloud.dry_run or not state(job, gcloud)[0]:
            say(f"{job.name} is gone")
            return
        stop.sleep(15)
    raise StillThere(f"{job.name} still exists after 10 minutes; see status")


def sync(job: QueuedJob, gcloud: Gcloud, say: Callable[[str], None]) -> str:
    """Copies the tracked files in their current state to the bucket; returns their commit.

    Raises:
      LaunchError: this is not a git checkout, or a file looks like a key.
    """
    if gcloud.dry_run:
        gcloud(["gcloud", "storage", "cp", "-", f"{job.bucket}/code/COMMIT.tar.gz"])
        return "COMMIT"
    built = package.build(job.take, job.leave_out)
    say(f"copying {built} to {job.bucket}/code")
    gcloud(
        ["gcloud", "storage", "cp", "-", f"{job.bucket}/code/{built.code}.tar.gz"], built.archive
    )
    return built.code


def record(job: QueuedJob, workdir: str, attempt: str, gcloud: Gcloud) -> None:
    """Writes the version of an attempt's code into the workdir: the commit and the diff to it."""
    difference = b"" if gcloud.dry_run else package.changes(job.leave_out)
    gcloud(["gcloud", "storage", "cp", "-", f"{workdir}/code-{attempt}.diff"], difference)


def run(
    job: QueuedJob, gcloud: Gcloud, command: list[str], workdir: str, say: Callable[[str], None]
) -> str:
    """Starts the command on every worker; returns the name of the attempt."""
    code = sync(job, gcloud, say)
    attempt = "1" if gcloud.dry_run else str(int(time.time()))
    record(job, workdir, attempt, gcloud)
    gcloud(commands.ssh(job, commands.remote_start(job, code, attempt, command)))
    return attempt


def running(job: QueuedJob, gcloud: Gcloud) -> str:
    """The attempt that runs on all workers; "" if none runs.

    Raises:
      LaunchError: it runs on some of them only.
    """
    if gcloud.dry_run:
        return ""
    attempts = gcloud(commands.ssh(job, commands.REMOTE_RUNNING)).split()
    if set(attempts) == {"none"}:
        return ""
    if len(attempts) < job.workers or len(set(attempts)) > 1:
        raise LaunchError(f"only some workers of {job.name} are running", LOST)
    return attempts[0]


def wait(
    job: QueuedJob,
    gcloud: Gcloud,
    attempt: str,
    say: Callable[[str], None],
    stop: StopSignal,
    poll: float = 30,
) -> int:
    """The exit code of a started attempt, or `LOST` if its machines are lost.

    When termination is requested, the workers get one signal, and have time to save.
    """
    unreached, stopping = 0, False
    while not gcloud.dry_run:
        if stop.requested and not stopping:
            say("asked to stop: stopping the workers, which save first")
            with contextlib.suppress(LaunchError):  # a worker may have ended already
                gcloud(commands.ssh(job, commands.REMOTE_STOP))
            stopping = True
        current, _ = patient_state(job, gcloud, say, stop)
        if current != "ACTIVE":
            say(f"{job.name} is {current or 'gone'}: its machines are lost")
            return LOST
        try:
            codes = gcloud(commands.ssh(job, commands.remote_exit(attempt))).split()
            unreached = 0
        except LaunchError as e:
            unreached += 1
            say(str(e))
            if unreached == 5:
                return LOST
            codes = ["running"]
        ended = [int(c) for c in codes if c.isdigit()]
        # A worker that failed ends the others within their heartbeat; its exit code counts.
        if len(ended) >= job.workers or any(c not in (0, PREEMPTED) for c in ended):
            return local.exit_code(ended)
        stop.sleep(5 if stopping else poll)
    return 0


class Progress(TypedDict):
    """The entries of goodput.json that `progress` reads."""

    steps: int
    written_at: float
    goodput: float


def progress(workdir: str, gcloud: Gcloud) -> str:
    """The newest goodput.json of a workdir as text (train/runtime/goodput.py); "" without one."""
    files = [f"{workdir}/goodput.json", f"{workdir}/*/goodput.json"]  # a chain has one per stage
    newest: dict = {}
    for path in files:
        try:
            text = gcloud(["gcloud", "storage", "cat", path])
        except LaunchError:
            continue
        while text := text.lstrip():
            try:
                record, end = json.JSONDecoder().raw_decode(text)
                msgspec.convert(record, Progress)
            except (ValueError, msgspec.ValidationError) as error:
                return f"{path} cannot be read ({error!s:.100})"
            newest, text = max(newest, record, key=lambda r: r.get("written_at", 0)), text[end:]
    if not newest:
        return ""
    ago = max(0.0, time.time() - newest["written_at"])
    return f"step {newest['steps']}, {ago:.0f} s ago; goodput {newest['goodput']:.0%}"


def committed_steps(bucket_workdir: str, gcloud: Gcloud) -> int:
    """The steps that are committed in a workdir in a bucket; 0 if gcloud fails."""
    if gcloud.dry_run:
        return 0
    newest: dict[str, int] = {}
    for pattern in ("checkpoints/", "*/checkpoints/"):
        try:
            listed = gcloud(["gcloud", "storage", "ls", f"{bucket_workdir}/{pattern}"])
        except LaunchError:
            continue  # most likely there is no checkpoint yet
        for line in listed.split():
            parent, _, name = line.rstrip("/").rpartition("/")
            if name.isdigit():
                newest[parent] = max(newest.get(parent, 0), int(name))
    return sum(newest.values())


def attempt_once(
    job: QueuedJob,
    gcloud: Gcloud,
    command: list[str],
    workdir: str,
    say: Callable[[str], None],
    stop: StopSignal,
) -> int:
    """Creates the machines and runs one attempt on them (`run_once`); returns its exit code."""
    try:
        there = up(job, gcloud, say, stop)
    except LaunchError as e:
        say(str(e))
        if must_go(e.code):
            down(job, gcloud, say, stop)
        return e.code
    return run_once(job, gcloud, command, workdir, say, stop, there)


def must_go(code: int) -> bool:
    """Whether the machines of an attempt that ended with an exit code must not be reused."""
    return code in (PREEMPTED, UNSAVED) or code >= 128


def run_once(
    job: QueuedJob, gcloud: Gcloud, command: list[str], workdir: str, say: Callable[[str], None],
    stop: StopSignal, there: bool,
) -> int:  # fmt: skip
    """Copies the code and runs one attempt, or waits for one that an earlier supervisor started;
    returns its exit code. Machines that must not be reused are deleted.

    Args:
      there: whether the machines were there already, and may be running an attempt.
    """
    try:
        attempt = running(job, gcloud) if there else ""
        if attempt:
            say(f"attempt {attempt} is running already: waiting for it")
        else:
            attempt = run(job, gcloud, command, workdir, say)
            say(f"attempt {attempt} is running; its output is also in {job.bucket}/logs/{attempt}")
        code = wait(job, gcloud, attempt, say, stop)
    except LaunchError as e:
        say(str(e))
        code = e.code
    if must_go(code):
        down(job, gcloud, say, stop)
    return code
