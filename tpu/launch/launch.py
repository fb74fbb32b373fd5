"""Runs a recipe on several processes: on this machine, and on Cloud TPU.

    python -m tpu.launch local --processes=4 --devices=2 -- \\
        --config=configs/pretrain.py:smoke --workdir=runs/four

    python -m tpu.launch supervise --name=first --accelerator=v5e-16 --zone=us-west4-a \\
        --bucket=gs://BUCKET -- --config=configs/pretrain.py --workdir=gs://BUCKET/runs/first

What follows `--` are the flags of `python -m train`; `-m train.chain` before them runs a chain.
`--dry_run` prints the commands. Exit codes are those of the run (train/runtime/processes.py).
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys

from tpu.launch import doctor, jobset, local, queued, supervise
from tpu.slices import parse


def say(text: str) -> None:
    print(f"launch: {text}", flush=True)


def split_command(argv: list[str]) -> tuple[list[str], list[str]]:
    """(our arguments, [module, its flags…]) of a command line divided by `--`."""
    at = argv.index("--") if "--" in argv else len(argv)
    ours, command = argv[:at], argv[at + 1 :]
    module = "train"
    if command[:1] == ["-m"]:
        module, command = command[1], command[2:]
    return ours, [module, *command]


def workdir_of(command: list[str]) -> str:
    """The run's workdir.

    Raises:
      ValueError: the command has none.
    """
    found = [m[1] for a in command if (m := re.match(r"--?workdir=(.+)", a))]
    if not found:
        raise ValueError("type the flags of python -m train after --: -- --config=… --workdir=…")
    return found[-1]


def run_local(args, command) -> int:
    workdir = workdir_of(command)

    def attempt():
        return local.run(
            command, args.processes, args.devices, args.port, args.peer_timeout, args.heartbeat
        )

    if not args.supervise:
        return attempt()
    with supervise.Told() as told:
        return supervise.supervise(
            attempt,
            lambda: supervise.committed_steps(workdir),
            say,
            give_up_after=args.give_up_after,
            told=told,
        )


# What Google Cloud takes as the value of a flag, and how to write it.
_NAME = r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?"
NAMES = {
    "name": (_NAME, "small letters, digits and hyphens, from a letter, not to a hyphen"),
    "zone": (r"[a-z]+-[a-z]+\d+-[a-z0-9]+", "write it as us-west4-a"),
    "bucket": (r"gs://[a-z0-9]([a-z0-9._-]{0,220}[a-z0-9])?/?", "write gs://NAME, no folder"),
    "project": (r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", "the ID, not the display name"),
    "cluster": (
        r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?",
        "small letters, digits and hyphens, at most 40",
    ),
    "queue": (_NAME, "small letters, digits and hyphens, from a letter, not to a hyphen"),
}


def check_names(args, suffix: str) -> None:
    """Raises ValueError for a name that Google Cloud refuses, with `suffix` after `--name` too."""
    for flag, (pattern, what) in NAMES.items():
        value = getattr(args, flag, "")
        needed = value or flag in ("name", "zone")
        if needed and not re.fullmatch(pattern, value):
            raise ValueError(f"--{flag}={value}: {what}")
    if len(args.name + suffix) > 63:
        raise ValueError(f"--name={args.name}: at most {63 - len(suffix)} characters")


def job_of(args) -> queued.Job:
    """What the flags say of a job on queued resources.

    Raises:
      ValueError: a flag that cannot be.
    """
    # With several slices each has the name and its number.
    check_names(args, f"-{args.slices - 1}" if args.slices > 1 else "")
    job = queued.Job(args.name, args.zone, args.accelerator, args.bucket.rstrip("/"), args.project,
                     args.slices, args.capacity)  # fmt: skip
    parse(job.accelerator)
    return job


def in_bucket(job: queued.Job, command) -> str:
    workdir = workdir_of(command)
    if not workdir.startswith(job.bucket + "/"):
        raise ValueError(
            f"--workdir={workdir}: on a pod it stands where all workers see it; type "
            f"--workdir={job.bucket}/runs/{job.name}"
        )
    return workdir


def run_job(args, command) -> int:
    """The verbs of queued resources."""
    job, gcloud, told = job_of(args), queued.Gcloud(args.dry_run), supervise.Told()
    match args.verb:
        case "up":
            queued.up(job, gcloud, say, told)
        case "sync":
            say(f"{job.bucket}/code/{queued.sync(job, gcloud)}.tar.gz")
        case "run":
            workdir = in_bucket(job, command)
            if there := queued.running(job, gcloud):
                raise ValueError(f"attempt {there} runs there already; type logs to see it")
            attempt = queued.run(job, gcloud, command, workdir)
            say(f"attempt {attempt} runs on {job.workers} workers")
        case "supervise":
            workdir = in_bucket(job, command)
            with told:
                return supervise.supervise(
                    lambda: queued.attempt_once(job, gcloud, command, workdir, say, told),
                    lambda: queued.committed_steps(workdir, gcloud),
                    say,
                    give_up_after=args.give_up_after,
                    first_wait=30,
                    told=told,
                )
        case "status":
            state, cause = queued.state(job, gcloud)
            say(f"{job.name} is {state or 'not there'}" + (f": {cause}" if cause else ""))
            if state == "ACTIVE":
                print(gcloud(queued.ssh(job, queued.REMOTE_STATE)), end="")
            if args.workdir:
                say(queued.progress(args.workdir, gcloud) or "no step was recorded yet")
                say(f"{queued.committed_steps(args.workdir, gcloud)} steps are committed")
        case "logs":
            remote = queued.remote_logs(args.worker, args.lines)
            print(queued.first_error_first(gcloud(queued.ssh(job, remote))))
        case "ssh":
            return _interactive(queued.shell(job, args.node, args.worker), args.dry_run)
        case "doctor":
            return doctor.examine(job, gcloud, print)
        case "down":
            queued.down(job, gcloud, say, told)
    return 0


def _interactive(command: list[str], dry_run: bool) -> int:
    if dry_run:
        print(shlex.join(command))
        return 0
    return subprocess.run(command).returncode


def run_manifest(args, command) -> int:
    """GKE: the JobSet to standard output or to the cluster, and the equivalent xpk command."""
    workdir = workdir_of(command)
    bucket = args.bucket.rstrip("/")
    if workdir.startswith("gs://") and not (bucket and workdir.startswith(bucket + "/")):
        raise ValueError(f"--workdir={workdir}: type --bucket=gs://NAME, and it will be mounted")
    if bucket:
        command = [a.replace(f"{bucket}/", f"{jobset.MOUNT}/") for a in command]
    slice_, spot = parse(args.accelerator), args.capacity == "spot"
    # What Kubernetes calls the last pod.
    check_names(args, f"-slice-{args.slices - 1}-{slice_.hosts - 1}-xxxxx")
    what = args.name, slice_, args.slices, args.image, command
    text = jobset.text(jobset.manifest(*what, spot=spot, bucket=bucket, queue=args.queue))
    xpk = jobset.xpk(*what, cluster=args.cluster, zone=args.zone, spot=spot)
    attached = f", {bucket} attached at {jobset.MOUNT} (xpk storage attach)" if bucket else ""
    print(f"# the same with xpk{attached}:\n# {shlex.join(xpk)}", file=sys.stderr)
    if args.apply and not args.dry_run:
        queued.Gcloud()(["kubectl", "apply", "-f", "-"], text.encode())
        say(f"{args.name} was handed to the cluster")
    else:
        print(text, end="")
        if args.apply:
            print("# kubectl apply -f -", file=sys.stderr)
    return 0


VERBS = {
    "doctor": "look whether all is there that a job needs: each line is ok, or says what to type",
    "up": "create the slices and wait until they are ready",
    "sync": "copy the tracked files to the bucket",
    "run": "sync, then start the command on every worker, detached",
    "supervise": "up and run until the run is done, on new machines whenever these are lost",
    "status": "state of slices and workers, last step and how long ago, steps that are committed",
    "logs": "the first error of any worker, then the last lines of one",
    "ssh": "a shell on a worker",
    "down": "delete the slices and wait until they are gone",
}


def whole(low: int, high: int = 2**31 - 1):
    """A type of arguments: whole numbers from `low` to `high`."""

    def parse_number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is no whole number from {low} to {high:,}")
        return value

    return parse_number


def number_or_all(text: str) -> str:
    """A type of arguments: which worker or slice."""
    if not re.fullmatch(r"\d{1,6}|all", text):
        raise argparse.ArgumentTypeError(f"{text} is no number, nor all")
    return text


def _job_flags(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--name", required=True)
    verb.add_argument("--zone", required=True)
    verb.add_argument("--accelerator", required=True, help="v5e-16, v5p-128, v6e-256")
    verb.add_argument("--slices", type=whole(1, 4096), default=1, help="so many of them, over DCN")
    for kind in ("reserved", "on_demand"):
        verb.add_argument(f"--{kind}", dest="capacity", action="store_const", const=kind,
                          default="spot", help="rather than spot")  # fmt: skip
    verb.add_argument("--dry_run", action="store_true", help="print the commands")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m tpu.launch", allow_abbrev=False)
    verbs = top.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("local", help="several processes on this machine", allow_abbrev=False)
    one.add_argument("--processes", type=whole(1, 1024), default=2, help="how many (%(default)s)")
    one.add_argument(
        "--devices", type=whole(1, 1024), default=1, help="CPU devices of each (%(default)s)"
    )
    one.add_argument(
        "--port", type=whole(0, 65535), default=0, help="of the first; by default a free one"
    )
    one.add_argument(
        "--peer_timeout", type=whole(1, 10**6), default=60, help="seconds to wait for all to come"
    )
    one.add_argument(
        "--heartbeat", type=whole(1, 10**6), default=10, help="seconds until a silent one is lost"
    )
    one.add_argument("--supervise", action="store_true", help="start again what was interrupted")
    one.add_argument(
        "--give_up_after", type=whole(1), default=3, help="attempts without a step gained"
    )
    one.set_defaults(run=run_local)
    for name, what in VERBS.items():
        verb = verbs.add_parser(name, help=what, allow_abbrev=False)
        _job_flags(verb)
        verb.add_argument("--bucket", required=True, help="gs://…: code and workdirs")
        verb.add_argument("--project", default="", help="by default gcloud's")
        if name == "supervise":
            verb.add_argument("--give_up_after", type=whole(1), default=3,
                              help="attempts without a step gained")  # fmt: skip
        if name == "status":
            verb.add_argument("--workdir", default="", help="gs://…, of the run")
        if name in ("logs", "ssh"):
            verb.add_argument(
                "--worker", type=number_or_all, default="0", help="its number, of logs also all"
            )
        if name == "ssh":
            verb.add_argument(
                "--node", type=number_or_all, default="0", help="which slice (%(default)s)"
            )
        if name == "logs":
            verb.add_argument(
                "--lines", type=whole(1, 10**6), default=20, help="of each (%(default)s)"
            )
        verb.set_defaults(run=run_job)
    gke = verbs.add_parser("manifest", help="the JobSet for GKE", allow_abbrev=False)
    _job_flags(gke)
    gke.add_argument("--image", required=True, help="that holds Seedpod and its packages")
    gke.add_argument("--cluster", required=True)
    gke.add_argument("--bucket", default="", help="gs://…, that is mounted, for the workdir")
    gke.add_argument("--queue", default="", help="of kueue")
    gke.add_argument("--apply", action="store_true", help="kubectl apply it")
    gke.set_defaults(run=run_manifest)
    return top


def main(argv=None) -> int:
    ours, command = split_command(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(ours)
    try:
        return args.run(args, command)
    except ValueError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; what runs on machines elsewhere goes on, and the same command waits "
              "for it again", file=sys.stderr)  # fmt: skip
        return supervise.INTERRUPTED
