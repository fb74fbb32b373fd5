"""Profiles for xprof and TensorBoard: of some steps of a run, or whenever someone asks.

`xprof --logdir=WORKDIR/profile` (pip install xprof) shows where the steps' time went.
"""

from __future__ import annotations

import re

import jax
from etils import epath

from ranges import ConfigError
from train.runtime.processes import port_is_free


def parse_steps(text: str) -> range:
    """`10:13` -> the steps after the 10th up to the 13th; empty -> none.

    Raises:
      ConfigError: it says something else.
    """
    found = re.fullmatch(r"(\d+):(\d+)", text or "0:0")
    if not found or (text and int(found[1]) >= int(found[2])):
        raise ConfigError(
            f"--profile_steps={text}: write FROM:TO, as 10:13 for steps 11, 12 and 13"
        )
    return range(int(found[1]), int(found[2]))


def serve(port: int) -> None:
    """Lets `python -m jax.collect_profile PORT MILLISECONDS` and TensorBoard's capture ask.

    Raises:
      ConfigError: the port is taken.
    """
    if not port_is_free(port):
        raise ConfigError(f"--profiler_port={port} is taken by another program; choose another")
    jax.profiler.start_server(port)


class Profile:
    """Traces the steps of a run that are in `steps`, from before the first to the end of the last,
    into `<workdir>/profile`. Process 0 traces; so may all, but on one machine they overwrite each
    other."""

    def __init__(self, workdir, steps: range):
        self._directory, self._steps = epath.Path(workdir) / "profile", steps
        self._tracing, self._writes = False, jax.process_index() == 0

    def step(self, number: int, state):
        """Called before step `number`, from 0; returns the context it runs in.

        Args:
          state: what steps before it compute: that is waited for, so that it is not traced.
        """
        if self._writes and (number in self._steps) != self._tracing:
            jax.block_until_ready(state)
            self.close() if self._tracing else self._start()
        return jax.profiler.StepTraceAnnotation("train", step_num=number + 1)

    def _start(self):
        jax.profiler.start_trace(str(self._directory))
        self._tracing = True

    def close(self) -> None:
        """Writes what is being traced."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
