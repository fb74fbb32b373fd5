"""The command line of `python -m tpu.launch`: its flags, and the values that they take."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

from interpreter import python
from train.cli.errors import fail
from train.terminal.text import columns, formatted


def split_command(argv: list[str]) -> tuple[list[str], list[str]]:
    """(our arguments, [module, its flags…]) of a command line divided by `--`."""
    at = argv.index("--") if "--" in argv else len(argv)
    ours, command = argv[:at], argv[at + 1 :]
    module = "train"
    if command[:1] == ["-m"]:
        module, command = command[1], command[2:]
    return ours, [module, *command]


def workdir_of(command: list[str]) -> str:
    """The workdir in a run's flags.

    Raises:
      ValueError: there is none.
    """
    workdirs = [m[1] for a in command if (m := re.match(r"--?workdir=(.+)", a))]
    if not workdirs:
        raise ValueError(
            f"type the flags of {python()} -m train after --: -- --config=… --workdir=…"
        )
    return workdirs[-1]


_NAME = r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?"
# {flag: (pattern of the values that Google Cloud takes, their form in words)}
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
    "image": (r"[A-Za-z0-9][\w./:@-]{0,511}", "write it as REGISTRY/NAME:TAG"),
}


def check_names(args: argparse.Namespace, suffix: str) -> None:
    """Raises ValueError for a name that Google Cloud refuses, also for `--name` with `suffix`."""
    for flag, (pattern, form) in NAMES.items():
        value = getattr(args, flag, "")
        needed = value or flag in ("name", "zone")
        if needed and not re.fullmatch(pattern, value):
            raise ValueError(f"--{flag}={value}: {form}")
    for zone in getattr(args, "zones", ()):
        pattern, form = NAMES["zone"]
        if not re.fullmatch(pattern, zone):
            raise ValueError(f"--zones={zone}: {form}")
    if len(args.name + suffix) > 63:
        raise ValueError(f"--name={args.name}: at most {63 - len(suffix)} characters")


def check_remote(workdir: str) -> None:
    """Raises ValueError for a workdir that gcloud would read as a flag, as a pattern of several, or
    as another folder."""
    parts = workdir.removeprefix("gs://").split("/")
    if not re.fullmatch(r"gs://[\w.=+@,:/ -]+", workdir) or ".." in parts:
        raise ValueError(
            f"--workdir={workdir!r:.200}: write gs://BUCKET/FOLDER, of letters, digits, "
            "spaces and _ . = + @ , : / -"
        )


VERBS = {
    "doctor": "check everything that a job needs; each line is ok, or the command to type",
    "up": "create the slices and wait until they are ready",
    "sync": "copy the tracked files to the bucket",
    "run": "sync, then start the command on every worker, detached",
    "supervise": "up and run until the run is done, on new machines when machines are lost",
    "status": "state of slices and workers, last step and its age, committed steps",
    "logs": "the first error of any worker, then the last lines of one",
    "ssh": "a shell on a worker",
    "down": "delete the slices and wait until they are gone",
}


def whole(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """An argparse type: whole numbers from `low` to `high`."""

    def parse_number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is no whole number from {low} to {high:,}")
        return value

    return parse_number


def wholes(low: int, high: int) -> Callable[[str], tuple[int, ...]]:
    """An argparse type: one or several whole numbers from `low` to `high`, joined by commas."""
    parse_number = whole(low, high)
    return lambda text: tuple(dict.fromkeys(parse_number(part) for part in text.split(",")))


def names(text: str) -> tuple[str, ...]:
    """An argparse type: names joined by commas."""
    return tuple(dict.fromkeys(filter(None, (part.strip() for part in text.split(",")))))


def number_or_all(text: str) -> str:
    """An argparse type: the number of a worker or slice, or `all`."""
    if not re.fullmatch(r"\d{1,6}|all", text):
        raise argparse.ArgumentTypeError(f"{text} is no number, nor all")
    return text


def _slice_flags(verb: argparse.ArgumentParser, several: bool = False) -> None:
    verb.add_argument("--name", required=True, help="of the job and its machines; yours to choose")
    for flag, text in (("zone", "as us-west4-a"), ("accelerator", "v5e-16, v5p-128, tpu7x-128")):
        group = verb.add_mutually_exclusive_group(required=True) if several else verb
        group.add_argument(f"--{flag}", required=not several, default="", help=text)
        if several:
            group.add_argument(f"--{flag}s", type=names, default=(), metavar="A,B",
                               help="several, the preferred first")  # fmt: skip
    verb.add_argument(
        "--slices", type=whole(1, 4096), default=1, help="number of slices, joined by DCN"
    )
    for kind in ("reserved", "on_demand"):
        verb.add_argument(f"--{kind}", dest="capacity", action="store_const", const=kind,
                          default="spot", help="rather than spot")  # fmt: skip
    verb.add_argument("--dry_run", action="store_true", help="print the commands")


def _attached_flag(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--attached", action="store_true",
        help="leave when standard input ends, as with the program that started this one; machines "
        "of Cloud TPU continue to run",
    )  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are those of the other commands."""

    def error(self, message: str):
        hint = f"{self.prog} --help lists all"
        if message.startswith("unrecognized"):
            hint = "the flags of the run follow -- (a word of its own)"
        fail(f"{message}; {hint}")


def parser(doc: str = "") -> argparse.ArgumentParser:
    """The parser of the arguments before `--`; `verb` is the action. `doc` is part of its help."""
    top = _Parser(
        prog="python -m tpu.launch",
        usage="python -m tpu.launch VERB [--FLAG=VALUE …] [-- …]",
        description="\n".join(formatted(doc, columns())),
        epilog="python -m tpu.launch VERB --help lists the flags of a verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = top.add_subparsers(
        dest="verb", required=True, metavar="VERB", title="verbs", prog=top.prog
    )
    local = verbs.add_parser("local", help="several processes on this machine", allow_abbrev=False)
    local.add_argument(
        "--processes", type=whole(1, 1024), default=2, help="number of processes (%(default)s)"
    )
    local.add_argument(
        "--devices",
        type=wholes(1, 1024),
        default=(1,),
        metavar="N[,N…]",
        help="CPU devices of each (1); of several numbers, with --supervise, the next after a loss",
    )
    local.add_argument(
        "--port",
        type=whole(0, 65535),
        default=0,
        help="port of the first process; by default a free one",
    )
    local.add_argument(
        "--peer_timeout", type=whole(1, 10**6), default=60, help="seconds to wait for all processes"
    )
    local.add_argument(
        "--heartbeat",
        type=whole(1, 10**6),
        default=10,
        help="seconds until a silent process counts as lost",
    )
    local.add_argument(
        "--supervise", action="store_true", help="restart the run when it was interrupted"
    )
    local.add_argument(
        "--give_up_after", type=whole(1), default=3, help="attempts without a step gained"
    )
    _attached_flag(local)
    for name, text in VERBS.items():
        verb = verbs.add_parser(name, help=text, allow_abbrev=False)
        _slice_flags(verb, several=name == "supervise")
        verb.add_argument("--bucket", required=True, help="gs://…, for code and workdirs")
        verb.add_argument("--project", default="", help="by default the project of gcloud")
        if name == "supervise":
            verb.add_argument(
                "--move_after",
                type=whole(1, 10**5),
                metavar="MINUTES",
                help="of several, without machines, before it asks for the next (30)",
            )
            verb.add_argument("--give_up_after", type=whole(1), default=3,
                              help="attempts without a step gained")  # fmt: skip
            _attached_flag(verb)
        if name in ("sync", "run", "supervise"):
            for flag, text in (
                ("--take", "a tracked file to copy although it looks like a key"),
                ("--leave_out", "a tracked file that is not copied"),
            ):
                verb.add_argument(flag, action="append", default=[], metavar="FILE", help=text)
        if name == "status":
            verb.add_argument("--workdir", default="", help="workdir of the run, gs://…")
        if name in ("logs", "ssh"):
            verb.add_argument(
                "--worker",
                type=number_or_all,
                default="0",
                help="number of the worker; for logs also all",
            )
        if name == "ssh":
            verb.add_argument(
                "--node", type=number_or_all, default="0", help="number of the slice (%(default)s)"
            )
        if name == "logs":
            verb.add_argument(
                "--lines",
                type=whole(1, 10**6),
                default=20,
                help="lines of each worker (%(default)s)",
            )
    gke = verbs.add_parser("manifest", help="the JobSet for GKE", allow_abbrev=False)
    _slice_flags(gke)
    gke.add_argument("--image", required=True, help="container: docker build --target=tpu")
    gke.add_argument("--cluster", required=True)
    gke.add_argument("--bucket", default="", help="gs://…, mounted for the workdir")
    gke.add_argument("--queue", default="", help="queue of kueue")
    gke.add_argument("--apply", action="store_true", help="apply it with kubectl")
    return top
