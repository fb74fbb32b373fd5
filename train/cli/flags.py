"""Flags of the commands: their definition, and the command line's parsing."""

from __future__ import annotations

from collections.abc import Sequence

import ml_collections
from absl import flags
from ml_collections import config_flags

from train.cli import recipe
from train.cli.errors import fail
from train.runtime import outputs

# The command line for config_flags, as train/config/overrides.py rewrites it.
ARGV: list[str] = []


def define_config(help: str) -> None:
    """The flags --config=RECIPE and --config.KEY=VALUE."""
    config_flags.DEFINE_config_file("config", None, help, lock_config=True, sys_argv=ARGV)


def define_flags() -> None:
    define_config("A recipe, as configs/chains/demo.py.")
    flags.DEFINE_string("workdir", None, "The run's directory; one that holds a run is resumed.")
    flags.DEFINE_bool("distributed", False, "Join the other processes of this run first.")
    flags.DEFINE_string(
        "coordinator", "", "host:port of process 0; empty on TPU, where JAX finds the others."
    )
    flags.DEFINE_integer(
        "num_processes", 0, "With --coordinator: number of processes.", lower_bound=0
    )
    flags.DEFINE_integer(
        "process_id", 0, "With --coordinator: number of this process, from 0.", lower_bound=0
    )
    flags.DEFINE_integer("peer_timeout", 300, "Seconds to wait for all processes.", 1, 10**6)
    flags.DEFINE_integer("heartbeat", 100, "Seconds until a silent process is lost.", 1, 10**6)
    flags.mark_flags_as_required(["config", "workdir"])


def define_run_flags() -> None:
    """The flags of commands that train, beyond `define_flags`."""
    flags.DEFINE_string(
        "profile_steps", "", "FROM:TO traces the steps after FROM up to TO into <workdir>/profile."
    )
    flags.DEFINE_bool(
        "allow_data_change", False, "Resume although the data has changed since the run began."
    )
    flags.DEFINE_integer(
        "profiler_port", 0, "Port that serves profiles on request; 0 serves none.", 0, 65535
    )
    flags.DEFINE_string(
        "compilation_cache",
        "auto",
        "Cache of compiled programs: a directory that all processes see; none; or auto: in the "
        "workdir on accelerators, none on CPU.",
    )


def parse_flags(argv: Sequence[str], words: int = 0) -> list[str]:
    """Parses the command line; an error in it is one line, not a traceback.

    Args:
      words: number of words that may be given besides flags.
    """
    outputs.guard()
    try:
        argv = [argv[0], *flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)]
        argv = ARGV[:] = recipe.check(argv)
        arguments = flags.FLAGS(argv)
    except KeyboardInterrupt:  # while a recipe was read
        raise SystemExit(130) from None
    except flags.UnrecognizedFlagError as e:
        fail(_unknown_flag(e))
    except flags.Error as e:
        fail(str(e))
    except Exception as e:  # ml_collections raises any error of Python for a malformed override
        overrides = " ".join(a for a in argv[1:] if a.startswith(("-config", "--config")))
        fail(f"{overrides}: write an override as --config.steps=9 ({outputs.reason(e)})")
    if unread := arguments[1 + words :]:
        fail(f"{unread[0]!r} belongs to no flag; write a boolean value after =, as "
             "--config.data.pack=False")  # fmt: skip
    return arguments


def _unknown_flag(error: flags.UnrecognizedFlagError) -> str:
    """The error about an unknown flag; for one such as --learning_rate it names the setting."""
    if "config" in flags.FLAGS:
        from train.config.names import meant
        from train.config.run import keys

        text = meant(error.flagname, keys())
        if text and f"--{error.flagname}=" not in text:  # of another command
            end = "" if text.endswith("?") else "."
            return f"there is no flag --{error.flagname}{text}{end} A setting is --config.KEY=VALUE"
    return str(error)


def config() -> ml_collections.ConfigDict:
    """The recipe with the command line's overrides."""
    return flags.FLAGS.config
