"""Shared parts of the commands: flags, messages instead of tracebacks, a quiet terminal."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import ml_collections
from absl import flags
from ml_collections import config_flags

import plugins
from suggestions import did_you_mean, nearest
from train.runtime import outputs, processes

BEGUN = time.time()  # the start of this process, approximately
MOST_SHOWN = 2000  # characters of an error message
# Errors whose message explains the fault of the input; DataError and ConfigError are
# ValueErrors.
EXPECTED = (ValueError, OSError, FloatingPointError)
_log = ""  # this process's log file; "" if the workdir is in a bucket
# The command line for config_flags, as train/config/overrides.py rewrites it.
_ARGV: list[str] = []


def define_config(help: str) -> None:
    """The flags --config=RECIPE and --config.KEY=VALUE."""
    config_flags.DEFINE_config_file("config", None, help, lock_config=True, sys_argv=_ARGV)


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


def fail(message: str) -> NoReturn:
    """Prints an error and ends the process with exit code 1."""
    print(f"error: {short(message)}", file=sys.stderr)
    raise SystemExit(1)


def short(message: str) -> str:
    """A message cut to a few lines, whatever it quotes."""
    return message if len(message) <= MOST_SHOWN else message[:MOST_SHOWN] + " …"


def parse_flags(argv: Sequence[str], words: int = 0) -> list[str]:
    """Parses the command line; an error in it is one line, not a traceback.

    Args:
      words: number of words that may be given besides flags.
    """
    outputs.guard()
    try:
        argv = [argv[0], *flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)]
        argv = _ARGV[:] = _check_recipe(argv)
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


def _check_recipe(argv: Sequence[str]) -> list[str]:
    """Loads the plugins and the recipe before absl does, for plain messages about errors in them or
    in an override; returns the command line for absl to parse."""
    named = re.findall(r"(?:^|\0)--?config[=\0]([^\0]*)", "\0".join([*argv[1:], ""]))
    if not named:
        return list(argv)
    if named[1:]:
        fail(f"--config is given {len(named)} times; name one recipe")
    path, _, argument = named[0].partition(":")
    if not path:
        fail("--config is empty; name a recipe, as --config=configs/pretrain.py")
    if not os.path.exists(path):
        folder = os.path.dirname(path) or "."
        names = os.listdir(folder) if os.access(folder, os.R_OK) and os.path.isdir(folder) else []
        near = nearest(os.path.basename(path), names)
        fail(f"there is no recipe {path}{did_you_mean(near and os.path.join(folder, near))}")
    from train.config import overrides

    if os.path.isdir(path):
        fail(f"{path} is a folder; name a recipe in it, as {os.path.join(path, 'NAME.py')}")
    spec = importlib.util.spec_from_file_location("recipe", path)
    if spec is None or spec.loader is None:
        fail(f"{path} is no recipe: a Python file (NAME.py) with a function get_config")
    module = importlib.util.module_from_spec(spec)
    arguments = [argument] if argument else []
    try:
        plugins.load(overrides.plugins_of(argv, {}))
    except ValueError as e:
        fail(str(e))
    try:
        spec.loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        recipe = get_config(*arguments) if get_config else None
    except ValueError as e:
        fail(f"{path}: {e}")
    except TypeError as e:
        fail(f"{path}: {e}" + (" (it has no choices)" if argument else ""))
    except (Exception, SystemExit) as e:  # SystemExit would end the command with success
        fail(f"{path}: {type(e).__name__}: {outputs.reason(e)}")
    if not get_config:
        fail(f"{path} is no recipe: it has no function get_config")
    if not isinstance(recipe, ml_collections.ConfigDict):
        fail(f"{path}: get_config returns a {type(recipe).__name__}, and not an ml_collections "
             "ConfigDict")  # fmt: skip
    try:
        if named := overrides.plugins_of([""], recipe.to_dict()):
            plugins.load(named)
            recipe = get_config(*arguments)  # with the plugins' settings
        return overrides.gather(argv, recipe.to_dict())
    except ValueError as e:
        fail(str(e))


def config() -> ml_collections.ConfigDict:
    """The recipe with the command line's overrides."""
    return flags.FLAGS.config


def run_arguments() -> dict[str, Any]:
    """The keyword arguments of `loop.run` and `multistage.run`, from the flags."""
    from train.runtime.profiling import parse_steps

    f = flags.FLAGS
    return dict(
        config=config(),
        workdir=f.workdir,
        begun=BEGUN,
        profile=parse_steps(f.profile_steps),
        allow_data_change=f.allow_data_change,
    )


def start() -> None:
    """Sends the log messages of libraries to <workdir>/log.txt, and joins the other hosts if asked;
    for commands that train (`define_run_flags`) also serves profiles and enables the compilation
    cache."""
    from train.runtime.metrics import quiet_to_file

    global _log
    f = flags.FLAGS
    if not f.workdir:
        fail("--workdir is empty; give a directory for the run")
    if "://" not in f.workdir:
        try:
            outputs.make_folder(Path(f.workdir))
        except ValueError as e:
            fail(str(e))
        name = f"log-{f.process_id}.txt" if f.process_id else "log.txt"
        _log = quiet_to_file(os.path.join(f.workdir, name))
    if f.distributed:
        processes.join(f.coordinator, f.num_processes, f.process_id, f.peer_timeout, f.heartbeat)
    else:
        processes.watch_for_preemption()
    if "profiler_port" not in f:
        return
    from train.runtime import compilation, profiling

    if f.profiler_port:
        # Processes with numbers are on one machine, so each has its own port.
        profiling.serve(f.profiler_port + f.process_id)
    compilation.enable(f.compilation_cache, f.workdir)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out on the host, or on a device, which only the message of XLA says."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)[:200]


@contextlib.contextmanager
def expected_errors() -> Iterator[None]:
    """Ends the command with a message and exit code 1 where an error of `EXPECTED` is raised."""
    try:
        yield
    except EXPECTED as e:
        fail(str(e))


def guarded(main: Callable[[list[str]], None], argv: list[str]) -> None:
    """Runs `main`. Bad input ends with a message and exit code 1, and a traceback in log.txt; exit
    codes are those of train/runtime/processes.py."""
    try:
        main(argv)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None
    except processes.Preempted as e:
        print(e, file=sys.stderr)
        raise SystemExit(processes.PREEMPTED) from None
    except Exception as e:
        lost = processes.is_lost_peer(e)
        full = _is_out_of_memory(e)
        expected = full or isinstance(e, EXPECTED)
        message = short(str(e))
        if full:
            message = (
                f"there is not enough memory ({outputs.reason(e):.200}); lower data.batch_size, "
                "data.length or the model's size, or raise accumulate. python -m tpu.fit "
                "predicts the memory of a recipe"
            )
        if lost:
            message = f"another process of this run is gone ({message.splitlines()[0]})"
        if not (lost or expected):
            traceback.print_exc()
        elif _log and outputs.append(_log, traceback.format_exc()):
            message += f"\n(the traceback is in {_log})"
        if processes.joined():
            processes.leave(processes.LOST if lost else 1, message)
        if not expected:
            raise
        fail(message)
