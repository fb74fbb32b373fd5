"""Profiles for xprof and TensorBoard: of chosen steps of a run, or on request over a port.

`xprof --logdir=WORKDIR/profile` (pip install xprof) shows the time of each operation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from ranges import ConfigError
from train.runtime import outputs
from train.runtime.processes import port_is_free


def parse_steps(text: str) -> range:
    """`10:13` -> the steps after the 10th up to the 13th; "" -> none.

    Raises:
      ConfigError: the text has another form.
    """
    match = re.fullmatch(r"(\d+):(\d+)", text or "0:0")
    if not match or (text and int(match[1]) >= int(match[2])):
        raise ConfigError(
            f"--profile_steps={text}: write FROM:TO, as 10:13 for steps 11, 12 and 13"
        )
    return range(int(match[1]), int(match[2]))


def serve(port: int, public: bool) -> None:
    """Serves profiles to `python -m jax.collect_profile PORT MILLISECONDS` and TensorBoard.

    Args:
      public: whether every machine of the network may ask. JAX's server listens on all interfaces,
        has no password, and writes where it is told.

    Raises:
      ConfigError: the port is taken, or not `public`.
    """
    if not public:
        raise ConfigError(
            f"--profiler_port={port}: JAX's profiler answers every machine of the network, without "
            "a password. Trace chosen steps with --profile_steps=FROM:TO, or where you trust the "
            "network, add --profiler_public"
        )
    if not port_is_free(port):
        raise ConfigError(f"--profiler_port={port} is taken by another program; choose another")
    jax.profiler.start_server(port)


class Profile:
    """Traces the steps of a run that are in `steps`, from before the first to the end of the last,
    into `<workdir>/profile`. Only process 0 traces: processes of one machine would overwrite each
    other's files."""

    def __init__(self, workdir: epath.PathLike, steps: range):
        self._directory, self._steps = epath.Path(workdir) / "profile", steps
        self._tracing, self._writes = False, jax.process_index() == 0

    def step(self, number: int, state: Any) -> jax.profiler.StepTraceAnnotation:
        """The context of step `number`, from 0; starts and ends the trace.

        Args:
          state: the result of earlier steps, which is awaited so that they are not traced.
        """
        if self._writes and (number in self._steps) != self._tracing:
            jax.block_until_ready(state)
            self.close() if self._tracing else self._start()
        return jax.profiler.StepTraceAnnotation("train", step_num=number + 1)

    def _start(self):
        self._tracing = self._tried(jax.profiler.start_trace, str(self._directory))
        self._steps = self._steps if self._tracing else range(0)

    def close(self) -> None:
        """Ends the trace, and writes it."""
        if self._tracing:
            self._tracing = False
            self._tried(jax.profiler.stop_trace)

    def _tried(self, function: Callable, *args: Any) -> bool:
        _, reason = outputs.tried("the profile", function, *args)
        if reason:
            outputs.failed(str(self._directory), reason, "these steps have no profile")
        return not reason
