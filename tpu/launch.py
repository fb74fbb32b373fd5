"""Runs a recipe on several processes: on this machine, and on Cloud TPU.

    python -m tpu.launch local --processes=4 --devices=2 -- \\
        --config=configs/pretrain.py:smoke --workdir=runs/four

What follows `--` are the flags of `python -m train`; `-m train.chain` before them runs a chain.
Exit codes are those of the run (train/processes.py).
"""

from __future__ import annotations

import argparse
import re
import sys

from tpu import local, supervise


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
    return supervise.supervise(
        attempt,
        lambda: supervise.committed_steps(workdir),
        say,
        give_up_after=args.give_up_after,
    )


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m tpu.launch", allow_abbrev=False)
    verbs = top.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("local", help="several processes on this machine", allow_abbrev=False)
    one.add_argument("--processes", type=int, default=2, help="how many (%(default)s)")
    one.add_argument("--devices", type=int, default=1, help="CPU devices of each (%(default)s)")
    one.add_argument("--port", type=int, default=0, help="of the first; by default a free one")
    one.add_argument("--peer_timeout", type=int, default=60, help="seconds to wait for all to come")
    one.add_argument("--heartbeat", type=int, default=10, help="seconds until a silent one is lost")
    one.add_argument("--supervise", action="store_true", help="start again what was interrupted")
    one.add_argument("--give_up_after", type=int, default=3, help="attempts without a step gained")
    one.set_defaults(run=run_local)
    return top


def main(argv=None) -> int:
    ours, command = split_command(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(ours)
    try:
        return args.run(args, command)
    except ValueError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
