"""Queued resources: Cloud TPU slices through gcloud. Commands are made by pure functions.

A spot machine cannot be started again: it is deleted and asked for anew. The program runs detached
(tpu/worker.sh), so that a lost ssh does not end it, and leaves its exit code in a file.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import time
from collections.abc import Callable
from typing import NamedTuple

from tpu import local
from tpu.slices import Slice, parse
from tpu.supervise import Told
from train.processes import PREEMPTED

QR = ("gcloud", "compute", "tpus", "queued-resources")
LOST = 137  # as of a process that was killed: the machine it ran on is gone
# States that do not become ACTIVE any more.
GONE = ("FAILED", "SUSPENDING", "SUSPENDED", "DELETING")


class LaunchError(ValueError):
    """What gcloud refused, in one line with what to do.

    `code` says whether it helps to try again (tpu/supervise.py).
    """

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


class Job(NamedTuple):
    """A run on queued resources, all that its commands are made from.

    Attributes:
      slices: how many of `accelerator`, joined over the data-centre network.
      capacity: `spot`, `reserved`, or `on_demand`. bucket: gs://… for code, logs and workdir.
    """

    name: str
    zone: str
    accelerator: str
    bucket: str
    project: str = ""
    slices: int = 1
    capacity: str = "spot"
    valid_for: str = "6h"

    @property
    def slice(self) -> Slice:
        return parse(self.accelerator)

    @property
    def workers(self) -> int:
        return self.slices * self.slice.hosts

    def where(self) -> list[str]:
        return [f"--zone={self.zone}"] + ([f"--project={self.project}"] if self.project else [])


def create(job: Job) -> list[str]:
    nodes = [f"--node-id={job.name}"]
    if job.slices > 1:
        nodes = [f"--node-count={job.slices}", f"--node-prefix={job.name}"]
    kind = [] if job.capacity == "on_demand" else [f"--{job.capacity}"]
    return [
        *QR, "create", job.name, *job.where(), f"--accelerator-type={job.slice.accelerator}",
        f"--runtime-version={job.slice.runtime}", *nodes, *kind,
        f"--valid-until-duration={job.valid_for}", "--scopes=cloud-platform", "--async",
    ]  # fmt: skip


def describe(job: Job) -> list[str]:
    return [*QR, "describe", job.name, *job.where(), "--format=json"]


def delete(job: Job) -> list[str]:
    return [*QR, "delete", job.name, *job.where(), "--force", "--quiet"]


def ssh(job: Job, command: str, worker: str = "all") -> list[str]:
    return [*QR, "ssh", job.name, *job.where(), "--node=all", f"--worker={worker}",
            "--batch-size=64", f"--command={command}"]  # fmt: skip


def remote_start(job: Job, code: str, attempt: str, command: list[str]) -> str:
    """What each worker does to start: unpacks the code and goes on in tpu/worker.sh, detached."""
    # What is in the bucket is below the home of the worker, which its shell knows.
    words = " ".join(
        '"$HOME"/bucket/'.join(part and shlex.quote(part) for part in a.split(f"{job.bucket}/"))
        for a in command
    )
    return (
        f"mkdir -p ~/seedpod/{code} && cd ~/seedpod/{code} && "
        f"gcloud storage cat {job.bucket}/code/{code}.tar.gz | tar xz && "
        f"(setsid nohup sh tpu/worker.sh {attempt} {job.bucket.removeprefix('gs://')} {words} "
        "--distributed >~/seedpod/log.txt 2>&1 </dev/null &)"
    )


def remote_exit(attempt: str) -> str:
    return f"cat ~/seedpod/exit-{attempt} 2>/dev/null || echo running"


# Once: the program saves then, and a second signal would not help it.
REMOTE_STOP = "kill -TERM $(cat ~/seedpod/pid) && rm ~/seedpod/pid"


REMOTE_LOGS = (
    'grep -H -m1 -E "^error:|^[A-Za-z.]*Error|Traceback" --label="ERROR $(stat -c %Y '
    '~/seedpod/log.txt) $(hostname)" < ~/seedpod/log.txt; '
    'tail -n {lines} ~/seedpod/log.txt | sed "s/^/$(hostname): /"'
)


def first_error_first(output: str) -> str:
    """Logs of all workers with the first line that any of them reports as an error at the top."""
    lines = output.splitlines()
    errors = sorted(
        (line.split(" ", 2)[1:] for line in lines if line.startswith("ERROR ")),
        key=lambda parts: int(parts[0]),
    )
    rest = [line for line in lines if not line.startswith("ERROR ")]
    return "\n".join([f"first error: {errors[0][1]}"] * bool(errors) + rest)


class Gcloud:
    """Runs commands, or with `dry_run` prints them and takes all to be well."""

    def __init__(self, dry_run: bool = False):
        self.dry_run = dry_run

    def __call__(self, command: list[str], data: bytes | None = None) -> str:
        """Its output.

        Raises:
          LaunchError: it failed.
        """
        if self.dry_run:
            print(shlex.join(command))
            return ""
        try:
            done = subprocess.run(command, input=data, capture_output=True, timeout=1800)
        except FileNotFoundError as e:
            raise LaunchError(f"{command[0]} is not installed") from e
        except subprocess.TimeoutExpired as e:
            raise LaunchError(f"{shlex.join(command[:5])} took over half an hour", LOST) from e
        if done.returncode:
            raise explain(done.stderr.decode(errors="replace"), command)
        return done.stdout.decode(errors="replace")


def explain(text: str, command: list[str]) -> LaunchError:
    """One line of what gcloud said, and what to do about it."""
    lines = [line for line in text.strip().splitlines() if line.strip()] or ["no message"]
    said = next((line for line in lines if "ERROR" in line), lines[-1]).strip()
    if "NOT_FOUND" in text:
        return LaunchError(f"there is no such resource: {said}", 1)
    if "uota" in text:
        return LaunchError(f"{said}. Ask for quota in that zone, or type a smaller --accelerator")
    if any(sign in text for sign in ("no more capacity", "UNAVAILABLE", "stockout")):
        return LaunchError(f"the zone has no such machines now: {said}", LOST)
    if command[3:5] == ["queued-resources", "ssh"]:
        return LaunchError(f"ssh failed: {said}", LOST)
    return LaunchError(said)


def state(job: Job, gcloud: Gcloud) -> tuple[str, str]:
    """(state, cause of a failure); ("", "") if there is no such resource."""
    try:
        found = gcloud(describe(job))
    except LaunchError as e:
        if str(e).startswith("there is no such resource"):
            return "", ""
        raise
    if gcloud.dry_run:
        return "ACTIVE", ""
    facts = json.loads(found)["state"]
    return facts["state"], facts.get("failedData", {}).get("error", {}).get("message", "")


def up(job: Job, gcloud: Gcloud, say: Callable[[str], None], told: Told) -> None:
    """Creates the slices unless they are there, and waits until they are ready.

    Raises:
      LaunchError: they failed or were taken away, or we were told to leave; they are deleted then,
        for leftovers hold quota.
    """
    begun, last = time.monotonic(), None
    now, cause = ("", "") if gcloud.dry_run else state(job, gcloud)
    if now in GONE:
        down(job, gcloud, say, told)
        now = ""
    if not now:
        gcloud(create(job))
        now, cause = state(job, gcloud)
    while now != "ACTIVE":
        if now != last:
            say(f"{job.name} is {now or 'not there'} after {time.monotonic() - begun:.0f} s")
        last = now
        if told.yes:
            down(job, gcloud, say, told)
            raise LaunchError("told to leave before the machines were there", PREEMPTED)
        if now in GONE or not now:
            down(job, gcloud, say, told)
            code = 1 if "uota" in cause else LOST
            raise LaunchError(f"{job.name} is {now or 'gone'}: {cause or 'taken away'}", code)
        told.sleep(15)
        now, cause = state(job, gcloud)
    say(f"{job.name} is ACTIVE: {job.slices} × {job.slice.accelerator}, {job.workers} workers")


def down(job: Job, gcloud: Gcloud, say: Callable[[str], None], told: Told) -> None:
    """Deletes the slices and waits until they are gone.

    Raises:
      LaunchError: they are still there after 10 minutes.
    """
    try:
        gcloud(delete(job))
    except LaunchError as e:
        if not str(e).startswith("there is no such resource"):
            raise
    for _ in range(40):
        if gcloud.dry_run or not state(job, gcloud)[0]:
            say(f"{job.name} is gone")
            return
        told.sleep(15)
    raise LaunchError(f"{job.name} is still there after 10 minutes; look with status")


def sync(job: Job, gcloud: Gcloud) -> str:
    """Copies the tracked files as they are now to the bucket; returns the commit they are named by.

    Raises:
      LaunchError: this is no git checkout.
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


def run(job: Job, gcloud: Gcloud, command: list[str]) -> str:
    """Starts the command on every worker; returns the name of the attempt."""
    code = sync(job, gcloud)
    attempt = "1" if gcloud.dry_run else str(int(time.time()))
    gcloud(ssh(job, remote_start(job, code, attempt, command)))
    return attempt


def wait(job: Job, gcloud: Gcloud, attempt: str, say, told: Told, poll: float = 30) -> int:
    """Exit code of a started attempt, or `LOST` when its machines are.

    Told to leave, it tells the workers, once, and waits for them to save.
    """
    unreached, stopping = 0, False
    while not gcloud.dry_run:
        if told.yes and not stopping:
            say("told to leave: so are the workers, which save first")
            with contextlib.suppress(LaunchError):  # one that has ended is no reason to worry
                gcloud(ssh(job, REMOTE_STOP))
            stopping = True
        now, _ = state(job, gcloud)
        if now != "ACTIVE":
            say(f"{job.name} is {now or 'gone'}: its machines are lost")
            return LOST
        try:
            codes = gcloud(ssh(job, remote_exit(attempt))).split()
            unreached = 0
        except LaunchError as e:
            unreached += 1
            say(str(e))
            if unreached == 5:
                return LOST
            codes = ["running"]
        ended = [int(c) for c in codes if c.isdigit()]
        # One that ended badly takes the others with it within their heartbeat; what it says counts.
        if len(ended) >= job.workers or any(c not in (0, PREEMPTED) for c in ended):
            return local.exit_code(ended)
        told.sleep(5 if stopping else poll)
    return 0


def committed_steps(bucket_workdir: str, gcloud: Gcloud) -> int:
    """As `supervise.committed_steps`, of a workdir in a bucket."""
    if gcloud.dry_run:
        return 0
    newest: dict[str, int] = {}
    for pattern in ("checkpoints/", "*/checkpoints/"):
        try:
            listed = gcloud(["gcloud", "storage", "ls", f"{bucket_workdir}/{pattern}"])
        except LaunchError:
            continue  # nothing is there yet
        for line in listed.split():
            parent, _, name = line.rstrip("/").rpartition("/")
            if name.isdigit():
                newest[parent] = max(newest.get(parent, 0), int(name))
    return sum(newest.values())


def attempt_once(job: Job, gcloud: Gcloud, command: list[str], say, told: Told) -> int:
    """Machines, code, run: once, to its exit code. What may not be used again is deleted."""
    try:
        up(job, gcloud, say, told)
        code = wait(job, gcloud, run(job, gcloud, command), say, told)
    except LaunchError as e:
        say(str(e))
        code = e.code
    if code == PREEMPTED or code >= 128:
        down(job, gcloud, say, told)
    return code
