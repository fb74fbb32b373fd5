"""Preflight checks of a job on Cloud TPU: each prints ok, or how to fix it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple, TypedDict

import msgspec

from tpu.launch.commands import QueuedJob
from tpu.launch.gcloud import Gcloud, LaunchError, parse_answer

LOCK = "/tmp/libtpu_lockfile"
# {gcloud's name of a generation: prefix of its quotas in the TPU API, as in TPUV6EPreemptiblePer…}
_QUOTAS = {
    "v4": "TPUV4",
    "v5litepod": "TPUV5s",
    "v5p": "TPUV5P",
    "v6e": "TPUV6E",
    "tpu7x": "TPU7X",
}


class Problem(Exception):
    """A check that failed, and why."""


class Inconclusive(Exception):
    """A check whose result cannot be known, and why."""


class Check(NamedTuple):
    """A command, and the check of its output.

    Attributes:
      name: of the thing that is checked. read: the command's output -> a description of the thing;
        raises `Problem` or `Inconclusive`. remedy: the command to type if there is a problem.
    """

    name: str
    command: list[str]
    read: Callable[[str], str]
    remedy: str


class Namespace(TypedDict, total=False):
    enabled: bool


class Bucket(TypedDict, total=False):
    """The output of `gcloud storage buckets describe --raw`; only the entries that are read."""

    location: str
    hierarchicalNamespace: Namespace


class QuotaDetails(TypedDict, total=False):
    value: Annotated[str, msgspec.Meta(pattern=r"^-?\d+$")]


class Dimensions(TypedDict, total=False):
    applicableLocations: list[str]
    details: QuotaDetails


class Quota(TypedDict, total=False):
    """The output of `gcloud beta quotas info list`; only the entries that are read."""

    quotaId: str
    dimensionsInfos: list[Dimensions]


def expect(wanted: str, otherwise: str) -> Callable[[str], str]:
    """A `read` that accepts an output with the word `wanted`, or with any word if that is "".

    Args:
      otherwise: the problem with any other output.
    """

    def read(output: str) -> str:
        lines = [line for line in output.split() if line != "(unset)"]
        if not lines or (wanted and wanted not in lines):
            raise Problem(otherwise)
        return wanted or lines[0]

    return read


ACCOUNT = Check(
    "account",
    ["gcloud", "auth", "list", "--filter=status:ACTIVE", "--format=value(account)"],
    expect("", "none is logged in"),
    "gcloud auth login",
)
PROJECT = Check(
    "project",
    ["gcloud", "config", "get", "project"],
    expect("", "none is set"),
    "gcloud config set project PROJECT",
)


def read_bucket(job: QueuedJob) -> Callable[[str], str]:
    """A `read` that requires a bucket near the machines, with a hierarchical namespace."""
    region = job.zone.rsplit("-", 1)[0]

    def read(output: str) -> str:
        bucket = parse_answer(output, ["gcloud", "storage", "buckets", "describe"], Bucket)
        location = bucket.get("location", "").lower()
        if not bucket.get("hierarchicalNamespace", {}).get("enabled"):
            raise Problem("has no hierarchical namespace, in which a checkpoint is committed")
        if region != location and not (len(location) == 2 and region.startswith(location)):
            raise Problem(
                f"is in {location} and the machines in {region}: slow, and all traffic is billed"
            )
        return f"{job.bucket} in {location}"

    return read


def read_quota(job: QueuedJob) -> Callable[[str], str]:
    """A `read` that requires enough quota, in the unit of the accelerator's name."""
    prefix, size = job.slice.accelerator.split("-")
    needed = int(size) * job.slices

    def kind(name: str) -> tuple:
        return "Preemptible" in name, "Reserved" in name, "Serving" in name

    mine = (job.capacity == "spot", job.capacity == "reserved", prefix == "v5litepod" and
            int(size) <= 8)  # fmt: skip

    def read(output: str) -> str:
        command = ["gcloud", "beta", "quotas", "info", "list"]
        for quota in parse_answer(output or "[]", command, list[Quota]):
            name = quota.get("quotaId", "")
            if not name.startswith(_QUOTAS[prefix]) or kind(name) != mine:
                continue
            for dimensions in quota.get("dimensionsInfos", ()):
                if job.zone in dimensions.get("applicableLocations", ()):
                    value = int(dimensions.get("details", {}).get("value", 0))
                    if 0 <= value < needed:
                        raise Problem(f"{name} is {value} in {job.zone}, and {needed} are needed")
                    return f"{name} is {'unlimited' if value < 0 else value}, needed {needed}"
        raise Inconclusive("gcloud lists none for this accelerator in this zone")

    return read


def checks(job: QueuedJob, project: str) -> list[Check]:
    """The checks of a job in a project, once an account is logged in."""
    place = [f"--zone={job.zone}", f"--project={project}"]
    tpus = ["gcloud", "compute", "tpus"]
    probe = f"{job.bucket}/code/doctor.txt"
    create_bucket = (
        f"gcloud storage buckets create {job.bucket} --location={job.zone.rsplit('-', 1)[0]} "
        "--uniform-bucket-level-access --enable-hierarchical-namespace"
    )
    return [
        Check(
            "TPU API",
            ["gcloud", "services", "list", "--enabled", f"--project={project}",
             "--filter=config.name:tpu.googleapis.com", "--format=value(config.name)"],
            expect("tpu.googleapis.com", "is not enabled"),
            f"gcloud services enable tpu.googleapis.com --project={project}",
        ),
        Check(
            "zone",
            [*tpus, "accelerator-types", "list", *place, "--format=value(type)"],
            expect(job.slice.accelerator, f"{job.zone} has no {job.slice.accelerator}"),
            "another --zone: cloud.google.com/tpu/docs/regions-zones",
        ),
        Check(
            "TPU software",
            [*tpus, "versions", "list", *place, "--format=value(version)"],
            expect(job.slice.runtime, f"{job.zone} has no {job.slice.runtime}"),
            "another --zone",
        ),
        Check(
            "quota",
            ["gcloud", "beta", "quotas", "info", "list", "--service=tpu.googleapis.com",
             f"--project={project}", "--format=json"],
            read_quota(job),
            "for more in console.cloud.google.com/iam-admin/quotas",
        ),
        Check(
            "bucket",
            ["gcloud", "storage", "buckets", "describe", job.bucket, "--raw", "--format=json"],
            read_bucket(job),
            create_bucket,
        ),
        Check(
            "writing there",
            ["gcloud", "storage", "cp", "-", probe],
            lambda output: "is allowed",
            f"gcloud storage buckets add-iam-policy-binding {job.bucket} "
            "--member=user:YOU --role=roles/storage.objectAdmin",
        ),
        Check("deleting there", ["gcloud", "storage", "rm", probe], lambda output: "is allowed",
              f"gcloud storage rm {probe}"),
    ]  # fmt: skip


class Finding(NamedTuple):
    """The result of a check of this machine; `remedy` is "" where there is no problem."""

    name: str
    text: str
    remedy: str = ""


def check_machine(home: Path) -> list[Finding]:
    """The checks of this machine, whose user has the home directory `home`."""
    key = home / ".ssh" / "google_compute_engine"
    ssh_key = Finding("ssh key", str(key))
    if not key.exists():
        ssh_key = Finding("ssh key", f"there is no {key}", f"ssh-keygen -t rsa -N '' -f {key}")
    findings = [ssh_key]
    if os.path.exists(LOCK) and not os.access(LOCK, os.W_OK):
        text = f"{LOCK} is another user's"
        findings.append(Finding("TPU of this machine", text, f"sudo rm {LOCK}"))
    return findings


def examine(
    job: QueuedJob,
    gcloud: Gcloud,
    say: Callable[[str], None],
    home: Path | None = None,
) -> int:
    """Prints one line for each check with `say`; returns 1 if one of them found a problem."""
    problems = []

    def run(check: Check) -> str:
        """The check's description; "" after a problem, or where its command was only printed."""
        try:
            output = gcloud(check.command, b"seedpod")
            if gcloud.dry_run:
                return ""
            text = check.read(output)
            say(f"ok     {check.name}: {text}")
            return text
        except Inconclusive as e:
            say(f"?      {check.name}: {e}")
        except (Problem, LaunchError) as e:
            problems.append(check.name)
            say(f"wrong  {check.name}: {e}; type {check.remedy}")
        return ""

    if not shutil.which("gcloud") and not gcloud.dry_run:
        say("wrong  gcloud: is not installed; see cloud.google.com/sdk/docs/install")
        return 1
    project = job.project or ("PROJECT" if gcloud.dry_run else "")
    run(ACCOUNT)
    if not problems and not job.project:
        project = run(PROJECT) or project
    for check in () if problems else checks(job, project):
        run(check)
    for name, text, remedy in () if gcloud.dry_run else check_machine(home or Path.home()):
        say(f"{'wrong' if remedy else 'ok   '}  {name}: {text}" + (remedy and f"; type {remedy}"))
        problems += [name] * bool(remedy)
    return int(bool(problems))
