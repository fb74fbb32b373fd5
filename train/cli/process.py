"""The process of a command: its log, the other processes of the run, its exit code."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import flags

from data.errors import DataError
from interpreter import python
from printable import escaped
from ranges import ConfigError
from train.cli.errors import EXPECTED, fail, no_backend, short
from train.cli.flags import config
from train.rl import time_limit
from train.runtime import outputs, processes
from train.terminal import interrupts, saved
from train.terminal.console import print_error

BEGUN = time.time()  # the start of this process, approximately
_log = ""  # this process's log file; "" if the workdir is in a bucket


def run_arguments() -> dict[str, Any]:
    """The keyword arguments of `loop.run` and `multistage.run`, from the flags."""
    from train.guards.settings import check_names
    from train.runtime.profiling import parse_steps

    f = flags.FLAGS
    return dict(
        config=config(),
        workdir=f.workdir,
        begun=BEGUN,
        profile=parse_steps(f.profile_steps),
        allow_change=check_names(f.allow_change),
    )


def start(kept: Callable[[], str] | None = None, log: str = "") -> None:
    """Sends the log messages of libraries to <workdir>/log.txt, joins the other hosts if asked,
    configures the allocator and the compilation cache; for commands that train (`define_run_flags`)
    also serves profiles.

    Args:
      kept: gives the message about what is saved, after Ctrl-C; by default that of a run or chain.
      log: another name of the log.
    """
    from train.runtime.metrics import quiet_to_file

    global _log
    f = flags.FLAGS
    if not f.workdir:
        fail("--workdir is empty; give a directory for the run")
    trains, several = "profiler_port" in f, "distributed" in f
    describe = functools.partial(saved.describe, f.workdir) if trains else None
    interrupts.watch(kept or describe)
    if "://" not in f.workdir:
        try:
            outputs.make_folder(Path(f.workdir))
        except ValueError as e:
            fail(str(e))
        number = f.process_id if several else 0
        name = log or (f"log-{number}.txt" if number else "log.txt")
        _log = quiet_to_file(os.path.join(f.workdir, name))
    if several and f.distributed:
        processes.join(f.coordinator, f.num_processes, f.process_id, f.peer_timeout, f.heartbeat)
    else:
        processes.watch_for_preemption()
    from etils import epath

    from model import cpu
    from train.runtime import compilation, profiling

    cpu.keep_memory()
    compilation.enable(f.compilation_cache, epath.Path(f.workdir))
    if trains and f.profiler_port:
        # Processes with numbers are on one machine, so each has its own port.
        profiling.serve(f.profiler_port + f.process_id, f.profiler_public)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out on the host, or on a device, which only the message of XLA says."""
    start = str(error)[:200]
    return (
        isinstance(error, MemoryError)
        or "RESOURCE_EXHAUSTED" in start
        or ("Out of memory" in start)
    )


@contextlib.contextmanager
def leaving_hung_threads() -> Iterator[None]:
    """A context that ends the process at once where Python would wait for threads that may never
    end, as of a reward function that hung."""
    code = 0
    try:
        yield
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
        raise
    except BaseException:
        code = 1
        raise
    finally:
        others = [t for t in threading.enumerate() if t is not threading.main_thread()]
        if time_limit.left_behind.is_set() and not all(t.daemon for t in others):
            outputs.report()
            processes.end(code)


@leaving_hung_threads()
def guarded(main: Callable[[list[str]], None], argv: list[str]) -> None:
    """Runs `main`. Bad input ends with a message and exit code 1, and a traceback in log.txt; exit
    codes are those of train/runtime/processes.py."""
    try:
        main(argv)
    except KeyboardInterrupt:
        interrupts.leave(interrupts.message())
    except processes.Stopped as e:
        if interrupts.asked() and not processes.joined():
            interrupts.leave(str(e))
        print_error(str(e))
        interrupted = interrupts.asked()
        raise SystemExit(processes.INTERRUPTED if interrupted else processes.PREEMPTED) from None
    except processes.Unsaved as e:
        if processes.joined():
            processes.leave(processes.UNSAVED, str(e))
        print_error(f"error: {e}")
        raise SystemExit(processes.UNSAVED) from None
    except Exception as e:
        lost = processes.is_lost_peer(e)
        full = _is_out_of_memory(e)
        missing = no_backend(e)
        expected = full or missing or isinstance(e, EXPECTED)
        message = missing or short(str(e))
        if full:
            message = (
                f"there is not enough memory ({outputs.reason(e):.200}); lower data.batch_size, "
                "data.length or the model's size, or raise accumulate. "
                f"{python()} -m tpu.fit "
                "predicts the memory of a recipe"
            )
        if lost:
            message = f"another process of this run is gone ({message.splitlines()[0]})"
        if not (lost or expected):
            print(escaped(traceback.format_exc()), file=sys.stderr, flush=True)
        elif (
            _log
            and outputs.append(_log, traceback.format_exc())
            and not (missing or isinstance(e, ConfigError | DataError))  # which say all
        ):
            message += f"\n(the traceback is in {_log})"
        if processes.joined():
            processes.leave(processes.LOST if lost else 1, message)
        if not expected:
            raise SystemExit(1) from None
        fail(message)
