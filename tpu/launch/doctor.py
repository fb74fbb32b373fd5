"""What a job on Cloud TPU needs, looked at one by one: each is well, or says what to type."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tpu.launch.gcloud import Gcloud, LaunchError
from tpu.launch.queued import Job

LOCK = "/tmp/libtpu_lockfile"
# How the quotas of the TPU API begin, by gcloud's name of a generation: TPUV6EPreemptiblePer…
_QUOTAS = {"v5litepod": "TPUV5s", "v5p": "TPUV5P", "v6e": "TPUV6E"}


class Wrong(Exception):
    """What is wrong with something that was looked at."""


class Unknown(Exception):
    """Why it cannot be told."""


class Check(NamedTuple):
    """Attributes:
    command: what is asked. read: its output -> what was found; raises `Wrong`, `Unknown`.
    do: what to type if it is wrong.
    """

    what: str
    command: list[str]
    read: Callable[[str], str]
    do: str


def expect(wanted: str, otherwise: str) -> Callable[[str], str]:
    """A `read` that wants a line of the output to be `wanted`; any, if that is empty."""

    def read(output: str) -> str:
        lines = [line for line in output.split() if line != "(unset)"]
        if not lines or (wanted and wanted not in lines):
            raise Wrong(otherwise)
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


def read_bucket(job: Job) -> Callable[[str], str]:
    region = job.zone.rsplit("-", 1)[0]

    def read(output: str) -> str:
        facts = json.loads(output)
        place = facts.get("location", "").lower()
        if not facts.get("hierarchicalNamespace", {}).get("enabled"):
            raise Wrong("has no hierarchical namespace, in which a checkpoint is committed")
        if region != place and not (len(place) == 2 and region.startswith(place)):
            raise Wrong(f"is in {place}, the machines in {region}: slow, and each byte is paid")
        return f"{job.bucket} in {place}"

    return read


def read_quota(job: Job) -> Callable[[str], str]:
    """Quotas count as the accelerator's name does: chips, of v5p cores."""
    prefix, size = job.slice.accelerator.split("-")
    needed = int(size) * job.slices

    def kind(name: str) -> tuple:
        return "Preemptible" in name, "Reserved" in name, "Serving" in name

    mine = (job.capacity == "spot", job.capacity == "reserved", prefix == "v5litepod" and
            int(size) <= 8)  # fmt: skip

    def read(output: str) -> str:
        for quota in json.loads(output or "[]"):
            name = quota.get("quotaId", "")
            if not name.startswith(_QUOTAS[prefix]) or kind(name) != mine:
                continue
            for place in quota.get("dimensionsInfos", ()):
                if job.zone in place.get("applicableLocations", ()):
                    value = int(place.get("details", {}).get("value", 0))
                    if 0 <= value < needed:
                        raise Wrong(f"{name} is {value} in {job.zone}, and {needed} are needed")
                    return f"{name} is {'unlimited' if value < 0 else value}, needed {needed}"
        raise Unknown("gcloud names none for this accelerator here")

    return read


def checks(job: Job, project: str) -> list[Check]:
    where = [f"--zone={job.zone}", f"--project={project}"]
    tpus = ["gcloud", "compute", "tpus"]
    mark = f"{job.bucket}/code/doctor.txt"
    make = (
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
            [*tpus, "accelerator-types", "list", *where, "--format=value(type)"],
            expect(job.slice.accelerator, f"{job.zone} has no {job.slice.accelerator}"),
            "another --zone: cloud.google.com/tpu/docs/regions-zones",
        ),
        Check(
            "TPU software",
            [*tpus, "versions", "list", *where, "--format=value(version)"],
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
            make,
        ),
        Check(
            "writing there",
            ["gcloud", "storage", "cp", "-", mark],
            lambda output: "is allowed",
            f"gcloud storage buckets add-iam-policy-binding {job.bucket} "
            "--member=user:YOU --role=roles/storage.objectAdmin",
        ),
        Check("deleting there", ["gcloud", "storage", "rm", mark], lambda output: "is allowed",
              f"gcloud storage rm {mark}"),
    ]  # fmt: skip


def here(home: Path) -> list[tuple[str, str, str]]:
    """(what, what was found, what to type or nothing) of this machine."""
    key = home / ".ssh" / "google_compute_engine"
    found = [
        ("ssh key", str(key), "")
        if key.exists()
        else ("ssh key", f"there is no {key}", f"ssh-keygen -t rsa -N '' -f {key}"),
        ("Python", ".".join(map(str, sys.version_info[:3])), "")
        if sys.version_info >= (3, 11)
        else ("Python", sys.version.split()[0], "make setup, with Python 3.11 or later"),
    ]
    if os.path.exists(LOCK) and not os.access(LOCK, os.W_OK):
        found.append(("TPU of this machine", f"{LOCK} is another user's", f"sudo rm {LOCK}"))
    return found


def examine(job: Job, gcloud: Gcloud, say: Callable[[str], None], home: Path | None = None) -> int:
    """Says one line for each thing; returns 1 if one of them is wrong."""
    wrong = []

    def look(check: Check) -> str:
        """What was found; empty if that is wrong, or only the command was shown."""
        try:
            output = gcloud(check.command, b"seedpod")
            if gcloud.dry_run:
                return ""
            found = check.read(output)
            say(f"ok     {check.what}: {found}")
            return found
        except Unknown as e:
            say(f"?      {check.what}: {e}")
        except (Wrong, LaunchError) as e:
            wrong.append(check.what)
            say(f"wrong  {check.what}: {e}; type {check.do}")
        return ""

    if not shutil.which("gcloud") and not gcloud.dry_run:
        say("wrong  gcloud: is not installed; see cloud.google.com/sdk/docs/install")
        return 1
    project = job.project or ("PROJECT" if gcloud.dry_run else "")
    look(ACCOUNT)
    if not wrong and not job.project:
        project = look(PROJECT) or project
    for check in () if wrong else checks(job, project):
        look(check)
    for what, found, do in () if gcloud.dry_run else here(home or Path.home()):
        say(f"{'wrong' if do else 'ok   '}  {what}: {found}" + (f"; type {do}" if do else ""))
        wrong += [what] * bool(do)
    return int(bool(wrong))
