"""Runs on queued resources: Cloud TPU slices through gcloud.

A spot machine cannot be restarted: it is deleted and requested again. The program runs detached
(tpu/launch/worker.sh), so that a lost ssh does not end it, and leaves its exit code in a file.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable
from typing import NotRequired, TypedDict

import msgspec

from tpu.launch import commands, local
from tpu.launch.commands import QueuedJob
from tpu.launch.gcloud import LOST, Gcloud, LaunchError, parse_answer
from tpu.launch.supervise import StopSignal
from train.runtime.processes import PREEMPTED

# States that cannot become ACTIVE again.
GONE = ("FAILED", "SUSPENDING", "SUSPENDED", "DELETING")


class Failure(TypedDict, total=False):
    message: str


class FailedData(TypedDict, total=False):
    error: Failure


class ResourceState(TypedDict):
    state: str
    failedData: NotRequired[FailedData]


class Described(TypedDict):
    """As `gcloud … queued-resources describe` prints it; only what is read."""

    state: ResourceState


def state(job: QueuedJob, gcloud: Gcloud) -> tuple[str, str]:
    """(state, cause of a failure); ("", "") if there is no such resource.

    Raises:
      LaunchError: gcloud failed, or printed something else.
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


def patient_state(job: QueuedJob, gcloud: Gcloud, say, stop: StopSignal) -> tuple[str, str]:
    """As `state`, but asks until gcloud answers: a laptop without a network, or an expired login,
    changes nothing for the machines.

    Raises:
      LaunchError: it does not answer, and termination was requested.
    """
    while True:
        try:
            return state(job, gcloud)
        except LaunchError as e:
            if stop.requested:
                raise
            say(f"{e}; asking again in 30 s")
            stop.sleep(30)


def up(job: QueuedJob, gcloud: Gcloud, say: Callable[[str], None], stop: StopSignal) -> bool:
    """Creates the slices unless they exist, and waits until they are ACTIVE; returns whether they
    were so before.

    Raises:
      LaunchError: they failed or were preempted, or termination was requested; they are deleted
        then, as leftovers hold quota.
    """
    begun, last = time.monotonic(), None
    now, cause = ("", "") if gcloud.dry_run else state(job, gcloud)
    if now in GONE:
        down(job, gcloud, say, stop)
        now = ""
    ready = now == "ACTIVE"
    if not now:
        gcloud(commands.create(job))
        now, cause = state(job, gcloud)
    while now != "ACTIVE":
        if now != last:
            say(f"{job.name} is {now or 'not there'} after {time.monotonic() - begun:.0f} s")
        last = now
        if stop.requested:
            down(job, gcloud, say, stop)
            raise LaunchError("told to leave before the machines were there", PREEMPTED)
        if now in GONE or not now:
            down(job, gcloud, say, stop)
            code = 1 if "uota" in cause else LOST
            raise LaunchError(f"{job.name} is {now or 'gone'}: {cause or 'taken away'}", code)
        stop.sleep(15)
        now, cause = patient_state(job, gcloud, say, stop)
    say(f"{job.name} is ACTIVE: {job.slices} × {job.slice.accelerator}, {job.workers} workers")
    return ready


def down(job: QueuedJob, gcloud: Gcloud, say: Callable[[str], None], stop: StopSignal) -> None:
    """Deletes the slices and waits until they are gone.

    Raises:
      LaunchError: they are still there after 10 minutes.
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
    raise LaunchError(f"{job.name} is still there after 10 minutes; look with status")


def sync(job: QueuedJob, gcloud: Gcloud) -> str:
    """Copies the tracked files as they are now to the bucket; returns the commit that names them.

    Raises:
      LaunchError: this is not a git checkout.
    """
    if gcloud.dry_run:
        gcloud(["gcloud", "storage", "cp", "-", f"{job.bucket}/code/COMMIT.tar.gz"])
        return "COMMIT"
    stash, head = (
        subprocess.run(["git", *words], capture_output=True, text=True).stdout.strip()
        for words in (["stash", "create"], ["rev-parse", "HEAD"])
    )
    if not head:
        raise LaunchError("run this from a git checkout of Seedpod: its tracked files are copied")
    code = (stash or head)[:12]
    archive = subprocess.run(
        ["git", "archive", "--format=tar.gz", stash or head], capture_output=True, check=True
    ).stdout
    gcloud(["gcloud", "storage", "cp", "-", f"{job.bucket}/code/{code}.tar.gz"], archive)
    return code


def record(workdir: str, attempt: str, gcloud: Gcloud) -> None:
    """Writes the code that an attempt runs into the workdir: the commit, and the changes to it."""
    git = [["git", "log", "-1", "--format=commit %H"], ["git", "diff", "HEAD"]]
    difference = b"" if gcloud.dry_run else b"\n".join(
        subprocess.run(words, capture_output=True).stdout for words in git
    )  # fmt: skip
    gcloud(["gcloud", "storage", "cp", "-", f"{workdir}/code-{attempt}.diff"], difference)


def run(job: QueuedJob, gcloud: Gcloud, command: list[str], workdir: str) -> str:
    """Starts the command on every worker; returns the name of the attempt."""
    code = sync(job, gcloud)
    attempt = "1" if gcloud.dry_run else str(int(time.time()))
    record(workdir, attempt, gcloud)
    gcloud(commands.ssh(job, commands.remote_start(job, code, attempt, command)))
    return attempt


def running(job: QueuedJob, gcloud: Gcloud) -> str:
    """The attempt that all workers run; "" if none runs one.

    Raises:
      LaunchError: only some do.
    """
    if gcloud.dry_run:
        return ""
    attempts = gcloud(commands.ssh(job, commands.REMOTE_RUNNING)).split()
    if set(attempts) == {"none"}:
        return ""
    if len(attempts) < job.workers or len(set(attempts)) > 1:
        raise LaunchError(f"only some workers of {job.name} run something", LOST)
    return attempts[0]


def wait(
    job: QueuedJob,
    gcloud: Gcloud,
    attempt: str,
    say,
    stop: StopSignal,
    poll: float = 30,
) -> int:
    """The exit code of a started attempt, or `LOST` if its machines are lost.

    When termination is requested, the workers are told once, and have time to save.
    """
    unreached, stopping = 0, False
    while not gcloud.dry_run:
        if stop.requested and not stopping:
            say("told to leave: so are the workers, which save first")
            with contextlib.suppress(LaunchError):  # a worker may have ended already
                gcloud(commands.ssh(job, commands.REMOTE_STOP))
            stopping = True
        now, _ = patient_state(job, gcloud, say, stop)
        if now != "ACTIVE":
            say(f"{job.name} is {now or 'gone'}: its machines are lost")
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
    """The newest goodput.json of a workdir in words (train/runtime/goodput.py); "" if there is
    none."""
    files = [f"{workdir}/goodput.json", f"{workdir}/*/goodput.json"]  # of a chain one a stage
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
    """As `supervise.committed_steps`, for a workdir in a bucket; 0 where gcloud fails, too."""
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
    say,
    stop: StopSignal,
) -> int:
    """One attempt: machines, code, run, exit code. Machines that must not be reused are deleted.

    An attempt that an earlier supervisor started is waited for.
    """
    try:
        attempt = running(job, gcloud) if up(job, gcloud, say, stop) else ""
        if attempt:
            say(f"attempt {attempt} runs there already: waiting for it")
        else:
            attempt = run(job, gcloud, command, workdir)
            say(f"attempt {attempt} runs; what it prints is in {job.bucket}/logs/{attempt} too")
        code = wait(job, gcloud, attempt, say, stop)
    except LaunchError as e:
        say(str(e))
        code = e.code
    if code == PREEMPTED or code >= 128:
        down(job, gcloud, say, stop)
    return code
