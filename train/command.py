"""What the command lines share: flags, messages instead of tracebacks, a quiet terminal."""

from __future__ import annotations

import difflib
import os
import re
import sys
import traceback

from absl import flags
from ml_collections import config_flags


def define_flags() -> None:
    config_flags.DEFINE_config_file(
        "config", None, "A recipe, as configs/demo.py.", lock_config=True
    )
    flags.DEFINE_string("workdir", None, "Where the run lives; one that holds a run is resumed.")
    flags.DEFINE_bool("distributed", False, "Call jax.distributed.initialize() first.")
    flags.mark_flags_as_required(["config", "workdir"])


def fail(message: str):
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(1)


def parse_flags(argv):
    """Parses the command line; what is wrong with it is one line, not a traceback."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as e:
        fail(str(e))
    except (AttributeError, KeyError, TypeError, ValueError, FileNotFoundError, OSError) as e:
        text = str(e.args[0]) if e.args else str(e)
        fail(_unknown_key(argv, text) or text)


def _unknown_key(argv, text: str) -> str:
    """The override that the recipe has no key for, and the key that is nearest."""
    try:
        recipe = flags.FLAGS["config"].value
    except (AttributeError, KeyError):
        return ""
    known = set(_leaves(recipe)) if recipe is not None else set()
    for argument in argv[1:]:
        found = re.match(r"--?config\.([\w.]+)", argument)
        if found and found[1] not in known:
            near = difflib.get_close_matches(found[1], known, 1)
            return f"unknown config key {found[1]}" + (f"; did you mean {near[0]}?" if near else "")
    return ""


def _leaves(tree, prefix=""):
    for key in tree:
        yield prefix + key
        if hasattr(tree[key], "keys"):
            yield from _leaves(tree[key], f"{prefix}{key}.")


def config():
    """The recipe with the command line's changes; empty `init_from` roles are left out."""
    return flags.FLAGS.config


def start() -> None:
    """Quiets libraries into <workdir>/log.txt, and joins the other hosts where asked."""
    from train.metrics import quiet_to_file

    workdir = flags.FLAGS.workdir
    if "://" not in workdir:
        os.makedirs(workdir, exist_ok=True)
        quiet_to_file(os.path.join(workdir, "log.txt"))
    if flags.FLAGS.distributed:
        import jax

        jax.distributed.initialize()


def guarded(main, argv) -> None:
    """Runs `main`; bad input is a message with exit code 1, its traceback goes to log.txt."""
    try:
        main(argv)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None
    except (ValueError, FileNotFoundError, FloatingPointError) as e:
        log = os.path.join(flags.FLAGS.workdir, "log.txt")
        with open(log, "a") as f:
            traceback.print_exc(file=f)
        fail(f"{e}\n(the traceback is in {log})")
