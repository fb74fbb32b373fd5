"""Queued resources: Cloud TPU slices through gcloud. Commands are made by pure functions.

A spot machine cannot be started again: it is deleted and asked for anew. The program runs detached
(tpu/launch/worker.sh), so that a lost ssh does not end it, and leaves its exit code in a file.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from typing import NamedTuple

from tpu.launch import local
from tpu.launch.gcloud import LOST, Gcloud, LaunchError
from tpu.launch.supervise import Told
from tpu.slices import Slice, parse
from train.runtime.processes import PREEMPTED

QR = ("gcloud", "compute", "tpus", "queued-resources")
# States that do not become ACTIVE any more.
GONE = ("FAILED", "SUSPENDING", "SUSPENDED", "DELETING")


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


def ssh(job: Job, command: str) -> list[str]:
    """Runs a command on all workers of all slices at once."""
    return [*QR, "ssh", job.name, *job.where(), "--node=all", "--worker=all", "--batch-size=64",
            f"--command={command}"]  # fmt: skip


def shell(job: Job, node: str, worker: str) -> list[str]:
    """A shell on one worker of one slice."""
    return [*QR, "ssh", job.name, *job.where(), f"--node={node}", f"--worker={worker}"]


def remote_start(job: Job, code: str, attempt: str, command: list[str]) -> str:
    """What each worker does to start: unpacks the code and goes on in worker.sh, detached."""
    # What is in the bucket is below the home of the worker, which its shell knows.
    words = " ".join(
        '"$HOME"/bucket/'.join(part and shlex.quote(part) for part in a.split(f"{job.bucket}/"))
        for a in command
    )
    bucket = job.bucket.removeprefix("gs://")
    return (
        f"mkdir -p ~/seedpod/{code} && cd ~/seedpod/{code} && "
        f"gcloud storage cat {job.bucket}/code/{code}.tar.gz | tar xz && "
        f"(setsid nohup sh tpu/launch/worker.sh {attempt} {bucket} {words} "
        "--distributed >~/seedpod/log.txt 2>&1 </dev/null &)"
    )


def remote_exit(attempt: str) -> str:
    return f"cat ~/seedpod/exit-{attempt} 2>/dev/null || echo running"


# The program is asked once: it saves then, and a second signal would not help it.
REMOTE_STOP = "touch ~/seedpod/asked && kill -TERM $(cat ~/seedpod/pid)"
REMOTE_RUNNING = (
    "if kill -0 $(cat ~/seedpod/pid) 2>/dev/null; then cat ~/seedpod/attempt; else echo none; fi"
)
REMOTE_STATE = (
    'if kill -0 $(cat ~/seedpod/pid) 2>/dev/null; then echo "$(hostname): running"; else '
    'echo "$(hostname): ended with $(cat $(ls -t ~/seedpod/exit-* | head -n 1))"; fi'
)


def remote_logs(worker: str, lines: int) -> str:
    """Prints a worker's first error with the time of its log, and its last lines if it is the one
    (of each slice) that is asked for; `all` are."""
    number = (
        "$(curl -sf -H Metadata-Flavor:Google http://metadata.google.internal/computeMetadata/v1"
        "/instance/attributes/agent-worker-number)"
    )
    tail = f'tail -n {lines} ~/seedpod/log.txt | sed "s/^/$(hostname): /"'
    if worker != "all":
        tail = f'if [ "{number}" = {shlex.quote(worker)} ]; then {tail}; fi'
    return (
        'grep -H -m1 -E "^error:|^[A-Za-z.]*Error|Traceback" --label="ERROR $(stat -c %Y '
        f'~/seedpod/log.txt) $(hostname)" < ~/seedpod/log.txt; {tail}'
    )


def first_error_first(output: str) -> str:
    """Logs of all workers with the first line that any of them reports as an error at the top."""
    lines = output.splitlines()
    found = [re.match(r"ERROR (\d+) (.*)", line) for line in lines]
    errors = sorted((int(match[1]), match[2]) for match in found if match)
    rest = [line for line, match in zip(lines, found, strict=True) if not match]
    return "\n".join([f"first error: {text}" for _, text in errors[:1]] + rest)


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


def patient_state(job: Job, gcloud: Gcloud, say, told: Told) -> tuple[str, str]:
    """As `state`, but asks until there is an answer: a laptop without a network, or a login that
    has run out, changes nothing for the machines.

    Raises:
      LaunchError: there is none, and we were told to leave.
    """
    while True:
        try:
            return state(job, gcloud)
        except LaunchError as e:
            if told.yes:
                raise
            say(f"{e}; asking again in 30 s")
            told.sleep(30)


def up(job: Job, gcloud: Gcloud, say: Callable[[str], None], told: Told) -> bool:
    """Creates the slices unless they are there, and waits until they are ready; returns whether
    they were.

    Raises:
      LaunchError: they failed or were taken away, or we were told to leave; they are deleted then,
        for leftovers hold quota.
    """
    begun, last = time.monotonic(), None
    now, cause = ("", "") if gcloud.dry_run else state(job, gcloud)
    if now in GONE:
        down(job, gcloud, say, told)
        now = ""
    ready = now == "ACTIVE"
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
        now, cause = patient_state(job, gcloud, say, told)
    say(f"{job.name} is ACTIVE: {job.slices} × {job.slice.accelerator}, {job.workers} workers")
    return ready


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


def record(workdir: str, attempt: str, gcloud: Gcloud) -> None:
    """Leaves in the workdir which code an attempt runs: the commit, and how it was changed."""
    git = [["git", "log", "-1", "--format=commit %H"], ["git", "diff", "HEAD"]]
    facts = b"" if gcloud.dry_run else b"\n".join(
        subprocess.run(words, capture_output=True).stdout for words in git
    )  # fmt: skip
    gcloud(["gcloud", "storage", "cp", "-", f"{workdir}/code-{attempt}.diff"], facts)


def run(job: Job, gcloud: Gcloud, command: list[str], workdir: str) -> str:
    """Starts the command on every worker; returns the name of the attempt."""
    code = sync(job, gcloud)
    attempt = "1" if gcloud.dry_run else str(int(time.time()))
    record(workdir, attempt, gcloud)
    gcloud(ssh(job, remote_start(job, code, attempt, command)))
    return attempt


def running(job: Job, gcloud: Gcloud) -> str:
    """The attempt that all workers run; empty if none runs one.

    Raises:
      LaunchError: only some do.
    """
    if gcloud.dry_run:
        return ""
    found = gcloud(ssh(job, REMOTE_RUNNING)).split()
    if set(found) == {"none"}:
        return ""
    if len(found) < job.workers or len(set(found)) > 1:
        raise LaunchError(f"only some workers of {job.name} run something", LOST)
    return found[0]


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
        now, _ = patient_state(job, gcloud, say, told)
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


def progress(workdir: str, gcloud: Gcloud) -> str:
    """What the newest goodput.json of a workdir says (goodput.py); empty if there is none."""
    files = [f"{workdir}/goodput.json", f"{workdir}/*/goodput.json"]  # of a chain one a stage
    newest: dict = {}
    for path in files:
        try:
            text = gcloud(["gcloud", "storage", "cat", path])
        except LaunchError:
            continue
        while text := text.lstrip():
            facts, end = json.JSONDecoder().raw_decode(text)
            newest, text = max(newest, facts, key=lambda f: f.get("written_at", 0)), text[end:]
    if not newest:
        return ""
    ago = max(0.0, time.time() - newest["written_at"])
    return f"step {newest['steps']}, {ago:.0f} s ago; goodput {newest['goodput']:.0%}"


def committed_steps(bucket_workdir: str, gcloud: Gcloud) -> int:
    """As `supervise.committed_steps`, of a workdir in a bucket; 0 too if gcloud does not answer."""
    if gcloud.dry_run:
        return 0
    newest: dict[str, int] = {}
    for pattern in ("checkpoints/", "*/checkpoints/"):
        try:
            listed = gcloud(["gcloud", "storage", "ls", f"{bucket_workdir}/{pattern}"])
        except LaunchError:
            continue  # most likely nothing is there yet
        for line in listed.split():
            parent, _, name = line.rstrip("/").rpartition("/")
            if name.isdigit():
                newest[parent] = max(newest.get(parent, 0), int(name))
    return sum(newest.values())


def attempt_once(
    job: Job, gcloud: Gcloud, command: list[str], workdir: str, say, told: Told
) -> int:
    """Machines, code, run: once, to its exit code. What may not be used again is deleted.

    What runs there already, since a supervisor before this one, is waited for.
    """
    try:
        attempt = running(job, gcloud) if up(job, gcloud, say, told) else ""
        if attempt:
            say(f"attempt {attempt} runs there already: waiting for it")
        else:
            attempt = run(job, gcloud, command, workdir)
            say(f"attempt {attempt} runs; what it prints is in {job.bucket}/logs/{attempt} too")
        code = wait(job, gcloud, attempt, say, told)
    except LaunchError as e:
        say(str(e))
        code = e.code
    if code == PREEMPTED or code >= 128:
        down(job, gcloud, say, told)
    return code
