"""The verbs of `python -m tpu.launch`: from parsed flags to a local run, a job on queued resources,
or a JobSet for GKE."""

from __future__ import annotations

import argparse
import contextlib
import functools
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence

from printable import escaped
from tpu.launch import (
    candidates,
    capacity,
    commands,
    doctor,
    jobset,
    local,
    queued,
    supervise,
)
from tpu.launch.arguments import (
    check_names,
    check_remote,
    parser,
    split_command,
    workdir_of,
)
from tpu.launch.gcloud import Gcloud, LaunchError
from tpu.launch.history import History
from tpu.slices import parse
from train.runtime import processes
from train.terminal import saved


def say(text: str) -> None:
    """Prints a line of the launcher."""
    print(escaped(f"launch: {text}"), flush=True)


def run_local(args: argparse.Namespace, command: list[str]) -> int:
    """Runs several processes on this machine; returns their exit code."""
    workdir = workdir_of(command)

    def attempt(devices: int, flags: Sequence[str] = ()) -> int:
        return local.run(
            [*command, *flags], args.processes, devices, args.port, args.peer_timeout,
            args.heartbeat,
        )  # fmt: skip

    def progress() -> int:
        return sum(saved.committed_steps(workdir).values())

    several = len(args.devices) > 1
    if several and not args.supervise:
        raise ValueError("--devices has several numbers, of which only --supervise uses more than "
                         "one; add it, or give one")  # fmt: skip
    if not args.supervise:
        return attempt(args.devices[0])
    history = None
    with supervise.StopSignal() as stop:
        runs: Callable[[], int] = functools.partial(attempt, args.devices[0])
        if several:
            found = candidates.of_devices(command, workdir, args.devices, args.processes)
            place = capacity.Loopback(attempt, args.processes)
            history = capacity.open_local(workdir)
            runs = capacity.Follower(
                place, found, history, progress, say, stop, rotates=True
            ).attempt  # fmt: skip
        code = supervise.supervise(
            runs, progress, say, give_up_after=args.give_up_after, stop=stop
        )  # fmt: skip
    return _with_history(code, history)


def _with_history(code: int, history: History | None) -> int:
    """Prints where a run that follows capacity has run; returns `code`."""
    for line in history.table() if history else ():
        say(line)
    return code


def run_capacity(
    args: argparse.Namespace, command: list[str], job: commands.QueuedJob, gcloud: Gcloud,
    stop: supervise.StopSignal,
) -> int:  # fmt: skip
    """Supervises a run on the first of several kinds and zones that has machines; returns an exit
    code."""
    workdir = in_bucket(job, command)

    def read(path: str) -> str:
        if gcloud.dry_run:
            raise ValueError(f"{path} has the architecture, and --dry_run reads nothing")
        return gcloud(["gcloud", "storage", "cat", path])

    zones, kinds = args.zones or (args.zone,), args.accelerators or (args.accelerator,)
    found = candidates.of_slices(command, workdir, kinds, zones, args.slices, read)
    for kind in kinds:
        say(f"{kind}: {next(c.summary for c in found if c.accelerator == kind)}")
    patience = 60 * (args.move_after or 30)
    place = capacity.Queued(job, gcloud, command, workdir, say, stop, patience)
    with stop:
        history = place.open_history()
        place.check_zones(zones, history)
        progress = functools.partial(queued.committed_steps, workdir, gcloud)
        follower = capacity.Follower(place, found, history, progress, say, stop)
        code = supervise.supervise(
            follower.attempt, progress, say, give_up_after=args.give_up_after, first_wait=30,
            stop=stop,
        )  # fmt: skip
    return _with_history(code, history)


def job_of(args: argparse.Namespace) -> commands.QueuedJob:
    """The job that the flags describe.

    Raises:
      ValueError: Google Cloud would refuse a flag's value.
    """
    kinds = getattr(args, "accelerators", ())
    zones = getattr(args, "zones", ())
    args.zone = args.zone or next(iter(zones), "")
    args.accelerator = args.accelerator or next(iter(kinds), "")
    # Each of several slices is named by the name and its number.
    check_names(args, f"-{args.slices - 1}" if args.slices > 1 else "")
    job = commands.QueuedJob(
        args.name,
        args.zone,
        args.accelerator,
        args.bucket.rstrip("/"),
        args.project,
        args.slices,
        args.capacity,
        take=tuple(getattr(args, "take", ())),
        leave_out=tuple(getattr(args, "leave_out", ())),
    )
    parse(job.accelerator)
    return job


def in_bucket(job: commands.QueuedJob, command: list[str]) -> str:
    """The workdir of a command. Raises ValueError unless it is in the job's bucket."""
    workdir = workdir_of(command)
    if not workdir.startswith(job.bucket + "/"):
        raise ValueError(
            f"--workdir={workdir}: on a pod all workers must see it; type "
            f"--workdir={job.bucket}/runs/{job.name}"
        )
    check_remote(workdir)
    return workdir


def run_queued(args: argparse.Namespace, command: list[str]) -> int:
    """Runs a verb on queued resources; returns an exit code."""
    job, gcloud = job_of(args), Gcloud(args.dry_run)
    stop = supervise.StopSignal()
    match args.verb:
        case "up":
            queued.up(job, gcloud, say, stop)
        case "sync":
            say(f"{job.bucket}/code/{queued.sync(job, gcloud, say)}.tar.gz")
        case "run":
            workdir = in_bucket(job, command)
            if attempt := queued.running(job, gcloud):
                raise ValueError(f"attempt {attempt} is running already; see its output with logs")
            attempt = queued.run(job, gcloud, command, workdir, say)
            say(f"attempt {attempt} is running on {job.workers} workers")
        case "supervise" if args.zones or args.accelerators:
            return run_capacity(args, command, job, gcloud, stop)
        case "supervise":
            if args.move_after:
                raise ValueError("--move_after is of several: type --zones=A,B, --accelerators=X,Y")
            workdir = in_bucket(job, command)
            with stop:
                return supervise.supervise(
                    lambda: queued.attempt_once(job, gcloud, command, workdir, say, stop),
                    lambda: queued.committed_steps(workdir, gcloud),
                    say,
                    give_up_after=args.give_up_after,
                    first_wait=30,
                    stop=stop,
                )
        case "status":
            state, cause = queued.state(job, gcloud)
            say(f"{job.name} is {state or 'not there'}" + (f": {cause}" if cause else ""))
            if state == "ACTIVE":
                print(escaped(gcloud(commands.ssh(job, commands.REMOTE_STATE))), end="")
            if args.workdir:
                check_remote(args.workdir)
                say(queued.progress(args.workdir, gcloud) or "no step was recorded yet")
                say(f"{queued.committed_steps(args.workdir, gcloud)} steps are committed")
        case "logs":
            remote = commands.remote_logs(args.worker, args.lines)
            print(escaped(commands.first_error_first(gcloud(commands.ssh(job, remote)))))
        case "ssh":
            return _interactive(commands.shell(job, args.node, args.worker), args.dry_run)
        case "doctor":
            return doctor.examine(job, gcloud, print)
        case "down":
            queued.down(job, gcloud, say, stop)
    return 0


def check(argv: list[str]) -> argparse.Namespace:
    """The flags of a command line for one run, which `main` would take.

    Raises:
      ValueError: it would be refused, or its verb does not wait for the end of a run.
    """
    ours, command = split_command(argv)
    args = parser().parse_args(ours)
    if args.verb == "local":
        workdir_of(command)
    elif args.verb == "supervise":
        in_bucket(job_of(args), command)
    else:
        raise ValueError(f"{args.verb} does not wait for the end of a run: supervise and local do")
    return args


def devices(argv: list[str]) -> int:
    """The number of devices that a command line of `check` gives a run; of several, the first."""
    args = check(argv)
    if args.verb == "local":
        return args.processes * args.devices[0]
    return parse(args.accelerator).devices * args.slices


def delete(argv: list[str], say: Callable[[str], None]) -> None:
    """Deletes the slices of a command line of `check`, if it has any, in whatever zone.

    Raises:
      LaunchError: gcloud refuses, or they are still there after 10 minutes.
    """
    args = check(argv)
    for job in jobs(args):
        queued.down(job, Gcloud(args.dry_run), say, supervise.StopSignal())


def first_error(argv: list[str]) -> str:
    """The first error that a worker of a command line of `check` has printed; "" without one."""
    for job in jobs(check(argv)):
        with contextlib.suppress(LaunchError):  # there are no slices in this zone any more
            remote = commands.remote_logs("none", 1)
            output = commands.first_error_first(Gcloud()(commands.ssh(job, remote)))
            if output.startswith("first error: "):
                return output.removeprefix("first error: ")
    return ""


def jobs(args: argparse.Namespace) -> list[commands.QueuedJob]:
    """The job that the flags of `check` describe, in each of its zones; none of `local`."""
    if args.verb == "local":
        return []
    job = job_of(args)
    return [job._replace(zone=zone) for zone in args.zones or (args.zone,)]


def _interactive(command: list[str], dry_run: bool) -> int:
    if dry_run:
        print(shlex.join(command))
        return 0
    return subprocess.run(command).returncode


def run_manifest(args: argparse.Namespace, command: list[str]) -> int:
    """Prints or applies the JobSet for GKE, with the equivalent xpk command."""
    workdir = workdir_of(command)
    bucket = args.bucket.rstrip("/")
    if workdir.startswith("gs://") and not (bucket and workdir.startswith(bucket + "/")):
        raise ValueError(f"--workdir={workdir}: type --bucket=gs://NAME, which is then mounted")
    if bucket:
        command = [a.replace(f"{bucket}/", f"{jobset.MOUNT}/") for a in command]
    slice_, spot = parse(args.accelerator), args.capacity == "spot"
    # The suffix of the name of the last pod.
    check_names(args, f"-slice-{args.slices - 1}-{slice_.hosts - 1}-xxxxx")
    settings = args.name, slice_, args.slices, args.image, command
    text = jobset.text(jobset.manifest(*settings, spot=spot, bucket=bucket, queue=args.queue))
    xpk = jobset.xpk(*settings, cluster=args.cluster, zone=args.zone, spot=spot)
    attached = f", {bucket} attached at {jobset.MOUNT} (xpk storage attach)" if bucket else ""
    pool = f"# on a node pool of {slice_.hosts} {slice_.machine}, topology {slice_.topology}"
    print(f"{pool}; the same with xpk{attached}:\n# {shlex.join(xpk)}", file=sys.stderr)
    if args.apply and not args.dry_run:
        Gcloud()(["kubectl", "apply", "-f", "-"], text.encode())
        say(f"{args.name} was applied to the cluster")
    else:
        print(text, end="")
        if args.apply:
            print("# kubectl apply -f -", file=sys.stderr)
    return 0


def main(argv: list[str], doc: str = "") -> int:
    """Runs the command line without its program's name; returns an exit code. `doc` is that of the
    command, for its help."""
    ours, command = split_command(argv)
    args = parser(doc).parse_args(ours)
    run = {"local": run_local, "manifest": run_manifest}.get(args.verb, run_queued)
    if getattr(args, "attached", False):
        processes.leave_with_parent()
    try:
        return run(args, command)
    except ValueError as e:
        print(escaped(f"error: {e}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; remote machines continue to run, and the same command waits for "
              "them again", file=sys.stderr)  # fmt: skip
        return supervise.INTERRUPTED
