"""The command `python -m train.replay`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

import plugins
from train import cli
from train.replay.plan import Options, Plan
from train.replay.report import terminal
from train.replay.run import replay
from train.tasks.evaluation import command as evaluation
from train.terminal import interrupts
from train.terminal.console import print_error


def run(options: Options) -> int:
    """Replays, writes and shows the report; returns the exit code: 1 if a gate failed.

    Raises:
      ConfigError, DataError, ValueError: as `replay`.
    """
    printed = list[str]()

    def begin(planned: Plan) -> None:
        printed.extend(planned.read.notes)
        evaluation.begin(epath.Path(options.out).parent, planned.kept)

    try:
        done = replay(options, begin)
    except KeyboardInterrupt:
        interrupts.leave(interrupts.message())
    terminal.show(done.content, done.report, printed)
    if failed := sum(not verdict.passed for verdict in done.content.verdicts):
        print_error(f"{failed} of {len(done.content.verdicts)} gates failed")
        return 1
    return 0


def main(
    fields: Sequence[str], transforms: Sequence[str], modules: Sequence[str],
    values: Mapping[str, Any],
) -> int:  # fmt: skip
    """The command with its flags; returns the exit code.

    Args:
      fields, transforms: as typed. modules: plugins to import first. values: other fields of
        `Options`.

    Raises:
      ConfigError, DataError, ValueError: as `run`.
    """
    plugins.load(modules)
    values = {**values, "dtype": values["dtype"] or ""}
    return run(
        Options(fields=cli.templates_of(fields), transforms=cli.transforms_of(transforms), **values)
    )
