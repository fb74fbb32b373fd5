"""Commands of a run on queued resources, for gcloud and for the workers, as pure functions."""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

from tpu.slices import TpuSlice, parse

QR = ("gcloud", "compute", "tpus", "queued-resources")


class QueuedJob(NamedTuple):
    """A run on one queued resource, with everything that its commands need.

    Attributes:
      name: of the resource, and the node or the prefix of the nodes in it.
      slices: number of slices of the kind `accelerator`, joined by the data-center network.
      capacity: `spot`, `reserved`, or `on_demand`. bucket: gs://… for code, logs and workdir.
      valid_for: time that the request waits for machines, as gcloud writes it.
      take, leave_out: tracked files to copy although they look like keys, and not to copy.
    """

    name: str
    zone: str
    accelerator: str
    bucket: str
    project: str = ""
    slices: int = 1
    capacity: str = "spot"
    valid_for: str = "6h"
    take: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()

    @property
    def slice(self) -> TpuSlice:
        return parse(self.accelerator)

    @property
    def workers(self) -> int:
        return self.slices * self.slice.hosts

    def location(self) -> list[str]:
        return [f"--zone={self.zone}"] + ([f"--project={self.project}"] if self.project else [])


def create(job: QueuedJob) -> list[str]:
    """The command that requests the slices."""
    nodes = [f"--node-id={job.name}"]
    if job.slices > 1:
        nodes = [f"--node-count={job.slices}", f"--node-prefix={job.name}"]
    kind = [] if job.capacity == "on_demand" else [f"--{job.capacity}"]
    return [
        *QR, "create", job.name, *job.location(), f"--accelerator-type={job.slice.accelerator}",
        f"--runtime-version={job.slice.runtime}", *nodes, *kind,
        f"--valid-until-duration={job.valid_for}", "--scopes=cloud-platform", "--async",
    ]  # fmt: skip


def describe(job: QueuedJob) -> list[str]:
    """The command that prints the state of the slices as JSON."""
    return [*QR, "describe", job.name, *job.location(), "--format=json"]


def delete(job: QueuedJob) -> list[str]:
    """The command that deletes the slices."""
    return [*QR, "delete", job.name, *job.location(), "--force", "--quiet"]


def ssh(job: QueuedJob, command: str) -> list[str]:
    """Runs a command on all workers of all slices at once."""
    return [*QR, "ssh", job.name, *job.location(), "--node=all", "--worker=all", "--batch-size=64",
            f"--command={command}"]  # fmt: skip


def shell(job: QueuedJob, node: str, worker: str) -> list[str]:
    """A shell on one worker of one slice."""
    return [*QR, "ssh", job.name, *job.location(), f"--node={node}", f"--worker={worker}"]


def remote_start(job: QueuedJob, code: str, attempt: str, command: list[str]) -> str:
    """The command that starts a worker: it unpacks the code and runs worker.sh, detached."""
    # The bucket is mounted below the worker's home, which only its shell knows.
    words = " ".join(
        '"$HOME"/bucket/'.join(part and shlex.quote(part) for part in a.split(f"{job.bucket}/"))
        for a in command
    )
    # A command of a shell: every name in it is quoted, though all were checked (arguments.py).
    bucket = shlex.quote(job.bucket.removeprefix("gs://"))
    packed = shlex.quote(f"{job.bucket}/code/{code}.tar.gz")
    code, attempt = shlex.quote(code), shlex.quote(attempt)
    return (
        f"mkdir -p ~/seedpod/{code} && cd ~/seedpod/{code} && "
        f"gcloud storage cat {packed} | tar xz && "
        f"(setsid nohup sh tpu/launch/worker.sh {attempt} {bucket} {words} "
        "--distributed >~/seedpod/log.txt 2>&1 </dev/null &)"
    )


def remote_exit(attempt: str) -> str:
    """The command that prints the exit code of an attempt on a worker, or `running`."""
    return f"cat ~/seedpod/exit-{shlex.quote(attempt)} 2>/dev/null || echo running"


# The program gets one signal, on which it saves.
REMOTE_STOP = "touch ~/seedpod/asked && kill -TERM $(cat ~/seedpod/pid)"
REMOTE_RUNNING = (
    "if kill -0 $(cat ~/seedpod/pid) 2>/dev/null; then cat ~/seedpod/attempt; else echo none; fi"
)
REMOTE_STATE = (
    'if kill -0 $(cat ~/seedpod/pid) 2>/dev/null; then echo "$(hostname): running"; else '
    'echo "$(hostname): ended with $(cat $(ls -t ~/seedpod/exit-* | head -n 1))"; fi'
)


def remote_logs(worker: str, lines: int) -> str:
    """The command that prints a worker's first error with the time of its log, and its last `lines`
    if its number in its slice is `worker`, or that is `all`."""
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
    """Logs of all workers, as `remote_logs` prints them, below the earliest error of any one."""
    lines = output.splitlines()
    matches = [re.match(r"ERROR (\d+) (.*)", line) for line in lines]
    errors = sorted((int(match[1]), match[2]) for match in matches if match)
    rest = [line for line, match in zip(lines, matches, strict=True) if not match]
    return "\n".join([f"first error: {text}" for _, text in errors[:1]] + rest)
