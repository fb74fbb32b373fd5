"""Commands run as if typed: in this process, by the real flags, with what they print."""

import contextlib
import io
import os
import runpy
import shlex
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from absl import app, flags


class Typed(NamedTuple):
    """The exit code of a command, and what it printed."""

    code: int
    text: str


def type_command(line: str) -> Typed:
    """Runs `python -m MODULE …`, after `cd DIR && ` in that folder.

    Signals, the log file and the compilation cache of this process are left as they are.
    """
    words = shlex.split(line)
    folder = Path.cwd()
    if words[0] == "cd":
        folder, words = Path(words[1]), words[3:]
    module = words[2]
    before, printed, code = set(flags.FLAGS), io.StringIO(), 0

    def run(main, argv=None, flags_parser=None):
        main(flags_parser(sys.argv))

    with contextlib.ExitStack() as stack:
        for name, instead in (
            ("train.runtime.outputs.guard", lambda: None),
            ("train.runtime.metrics.quiet_to_file", lambda path: ""),
            ("train.runtime.processes.watch_for_preemption", lambda: None),
            ("train.runtime.compilation.enable", lambda *args: None),
        ):
            stack.enter_context(mock.patch(name, instead))
        stack.enter_context(mock.patch.object(app, "run", run))
        stack.enter_context(mock.patch.object(sys, "argv", [module, *words[3:]]))
        stack.enter_context(mock.patch.dict(os.environ))
        stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(contextlib.redirect_stdout(printed))
        stack.enter_context(contextlib.redirect_stderr(printed))
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code or 0
        finally:
            for name in set(flags.FLAGS) - before:
                delattr(flags.FLAGS, name)
    return Typed(code, printed.getvalue())
