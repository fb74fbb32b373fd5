"""Runs of a sweep by `python -m tpu.launch`, each on machines of its own (`--launch`).

A run is one process of `tpu.launch supervise` or `local` here, which leaves with this one. Slices
are named by the run's workdir, so that a sweep that was killed finds those that it has requested:
`supervise` waits for what runs on them. launch.json in a run's workdir says that there may be
slices; it is written before they are requested, and removed when they are gone.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
import threading
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import NamedTuple, Protocol

from etils import epath
from jax.sharding import AbstractMesh

from data.atomic import is_remote, write_atomically
from model.sharding import MESH_AXES
from ranges import ConfigError
from train.runtime import outputs, processes, strict_json
from train.sweep import inputs, results
from train.sweep.metric import Metric
from train.sweep.results import DIVERGED, FAILED, FINISHED, SETTLED, Outcome
from train.sweep.runner import check_metric, say
from train.sweep.trials import Run
from train.terminal.console import console
from train.terminal.progress import Progress, phase

MARK = "launch.json"
LOOK = 0.2  # seconds between two looks at a request to stop
LAST = 50  # lines of a launcher's output that are searched for the reason of a failure
# Parts of the messages with which a run diverges (train/guards/numbers.py, train/checkpoints/).
SIGNS = ("updates were not applied", "holds NaN or infinity")


class Launcher(Protocol):
    """The functions of tpu/launch/verbs.py, which is above this floor."""

    def check(self, argv: list[str]) -> Namespace: ...
    def devices(self, argv: list[str]) -> int: ...
    def delete(self, argv: list[str], say: Callable[[str], None]) -> None: ...
    def first_error(self, argv: list[str]) -> str: ...
    def main(self, argv: list[str]) -> int: ...


class Launch(NamedTuple):
    """The request of `--launch`.

    Attributes:
      words: the verb of tpu.launch and its flags. at_once: the most runs at one time.
      recipe: the words of the command line that all runs share. cache: --compilation_cache.
      points: {trial: {setting: text}}.
    """

    launcher: Launcher
    words: Sequence[str]
    at_once: int
    recipe: Sequence[str]
    cache: str
    points: Mapping[str, Mapping[str, str]]

    @property
    def makes_slices(self) -> bool:
        return self.words[0] != "local"

    def command(self, run: Run) -> list[str]:
        """The arguments of tpu.launch for a run."""
        settings = {**self.points[run.trial], "seed": str(run.seed)}
        words = [*self.words, *([f"--name={self.name(run)}"] if self.makes_slices else [])]
        words += ["--", *self.recipe, *(f"--config.{k}={text}" for k, text in settings.items())]
        cache = self.cache
        if cache == "auto" and self.makes_slices:  # on a TPU each run would have its own
            cache = str(run.workdir.parent.parent / "programs")
        return [*words, f"--workdir={run.workdir}", f"--compilation_cache={cache}"]

    def name(self, run: Run) -> str:
        """The name of a run's slices: that of --launch, and a hash of the run's workdir."""
        names = re.findall(r"\0--name[=\0]([^\0]+)", "\0".join(self.words))
        digest = hashlib.sha256(str(run.workdir).encode()).hexdigest()[:8]
        return f"{names[-1] if names else ''}-{digest}"


def read(text: str) -> list[str]:
    """The words of `--launch`.

    Raises:
      ConfigError: quotes that do not end, or no words.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--launch={text}: {error}") from None
    if not words or "--" in words or words[0] not in ("supervise", "local"):
        raise ConfigError(
            f"--launch={text!r:.80}: type what follows python -m tpu.launch, without the run's own "
            "flags: --launch='supervise --name=rates --accelerator=v5e-16 --zone=us-west4-a "
            "--bucket=gs://my-bucket', or --launch='local --processes=2'"
        )
    return words


def check(launch: Launch, runs: Sequence[Run]) -> None:
    """Checks the runs and their commands before anything is requested.

    Raises:
      ConfigError, ShardingError: bad input.
    """
    for run in runs:
        args = launch.launcher.check(launch.command(run))
        if getattr(args, "dry_run", False):
            raise ConfigError("--dry_run is a flag of the sweep, beside --launch and not in it")
    count = launch.launcher.devices(launch.command(runs[0]))
    inputs.check(runs, lambda mesh: AbstractMesh(mesh.shape(count), MESH_AXES))


def describe(launch: Launch, runs: Sequence[Run]) -> str:
    """A line on what is launched."""
    one = launch.launcher.devices(launch.command(runs[0]))
    what = f"each by tpu.launch {launch.words[0]} on {one} device{'s' * (one != 1)}"
    return f"{len(runs)} run{'s' * (len(runs) != 1)}, {what}, {launch.at_once} at once"


def check_readable(workdir: epath.Path) -> None:
    """Refuses a bucket that this process cannot read.

    Raises:
      ConfigError: a package is missing.
    """
    try:
        workdir.exists()
    except ImportError as error:
        reason = outputs.reason(error)
        raise ConfigError(f"{workdir}: {reason}. Type pip install '.[tpu]'") from None


def show(launch: Launch, runs: Sequence[Run]) -> None:
    """Prints what would be launched for runs that have not ended, without a look into a bucket."""
    console.print(f"  {describe(launch, runs)}")
    for number, run in enumerate(runs, 1):
        outcome = None if is_remote(run.workdir) else results.read_outcome(run.workdir)
        console.print(f"[bold]▸ {number}/{len(runs)} {run.name}[/]", markup=True)
        command = launch.command(run)
        if outcome and outcome["status"] in SETTLED:
            console.print(f"  {outcome['status']} already")
        elif not launch.makes_slices:
            console.print(shlex.join(["python", "-m", "tpu.launch", *command]))
        else:
            dry = [command[0], "--dry_run", *command[1:]]
            launch.launcher.main(dry)
            launch.launcher.delete(dry, lambda text: None)


def run_all(launch: Launch, runs: Sequence[Run], metric: Metric) -> None:
    """Launches what has not ended, and deletes the slices of what has.

    Raises:
      ConfigError: a run has finished and its evaluations lack the metric.
      processes.Stopped: the process was asked to stop, and the runs at work are saved.
    """
    controller = Controller(launch, len(runs), metric)
    with (
        ThreadPoolExecutor(launch.at_once) as threads,
        Progress("sweep"),
        phase("running", len(runs)) as progress,
    ):
        left = {threads.submit(controller.run, run, number) for number, run in enumerate(runs, 1)}
        try:
            while left:
                done, left = wait(left, LOOK, FIRST_COMPLETED)
                for future in done:
                    future.result()
                progress.count(len(runs) - len(left))
                if processes.asked_to_stop():
                    raise processes.Stopped
        except BaseException as error:
            controller.stop()
            wait(left)
            if isinstance(error, KeyboardInterrupt | processes.Stopped):
                message = "the runs at work are saved; the same command resumes there"
                raise processes.Stopped(message) from error
            raise


class Controller:
    """The runs at work, each in a thread with a process of tpu.launch."""

    def __init__(self, launch: Launch, total: int, metric: Metric):
        self._launch, self._total, self._metric = launch, total, metric
        self._lock, self._stopping = threading.Lock(), False
        self._children = set[subprocess.Popen]()

    def stop(self) -> None:
        """Lets the runs at work save and end; no other begins."""
        with self._lock:
            self._stopping = True
            for child in self._children:
                child.terminate()

    def run(self, run: Run, number: int) -> None:
        """Launches a run, unless it has ended, and waits for its end.

        Raises:
          ConfigError: it has finished and its evaluations lack the metric.
        """
        if self._stopping:
            return
        place = f"{number}/{self._total} "
        outcome = results.read_outcome(run.workdir)
        if not (outcome and outcome["status"] in SETTLED):
            outcome = self._outcome(run, place)
            if not outcome:
                return
            results.write_outcome(run.workdir, outcome)
        say(place, run, self._metric)
        self._delete(run)
        if outcome["status"] == FINISHED:
            check_metric(run, self._metric)

    def _outcome(self, run: Run, place: str) -> Outcome | None:
        """The end of a run that is launched now; None if this process is asked to stop."""
        outputs.make_folder(run.workdir)
        name = self._launch.name(run) if self._launch.makes_slices else ""
        if name:
            write_atomically(run.workdir / MARK, strict_json.dumps({"name": name}) + "\n")
        child = self._start(run)
        if child is None:
            return None
        console.print(f"[bold]▸ {place}{run.name}{f' on {name}' * bool(name)}[/]", markup=True)
        try:
            lines = self._follow(child, run)
            code = child.wait()
        finally:
            with self._lock:
                self._children.discard(child)
        if code and self._stopping:
            return None
        if not code:
            return Outcome(status=FINISHED)
        reason = self._reason(run, lines) or "its launcher gave no reason"
        reason += f" (exit code {code})" * (code != 1)
        diverged = any(sign in reason for sign in SIGNS)
        return Outcome(status=DIVERGED if diverged else FAILED, reason=reason[:300])

    def _start(self, run: Run) -> subprocess.Popen | None:
        """The process of a run; None if none is to begin any more."""
        verb, *words = self._launch.command(run)
        with self._lock:
            if self._stopping:
                return None
            child = subprocess.Popen(
                [sys.executable, "-m", "tpu.launch", verb, "--attached", *words],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, errors="replace", start_new_session=True,
            )  # fmt: skip
            self._children.add(child)
            return child

    def _follow(self, child: subprocess.Popen, run: Run) -> Sequence[str]:
        """Prints what the launcher says, and keeps all of its output beside the run where that is
        on this machine; returns the last lines."""
        last = deque[str](maxlen=LAST)
        path = os.devnull if is_remote(run.workdir) else run.workdir / "launch.txt"
        with open(path, "a") as log:
            for line in child.stdout or ():
                log.write(line)
                log.flush()
                last.append(line.strip())
                if line.startswith("launch: "):
                    console.print(f"  {run.name}: {line.strip().removeprefix('launch: ')}")
        return last

    def _reason(self, run: Run, lines: Sequence[str]) -> str:
        """The reason of a failure: an error of the run, else what the launcher said last."""
        found = self._launch.launcher.first_error(self._launch.command(run))
        said = [
            match[1]
            for start in ("launch: ", r"(?:\[\d+\] )?error: ")
            for line in lines
            if (match := re.match(f"{start}(.*)", line))
        ]
        return found or (said[-1] if said else "")

    def _delete(self, run: Run) -> None:
        """Deletes the slices of a run that has ended; what remains is deleted by the same command,
        or by hand."""
        mark = run.workdir / MARK
        if not (self._launch.makes_slices and mark.exists()):
            return
        try:
            self._launch.launcher.delete(self._launch.command(run), lambda text: None)
        except ValueError as error:
            console.print(f"  {run.name}: {self._launch.name(run)} may still exist: {error}")
            return
        console.print(f"  {run.name}: {self._launch.name(run)} is deleted")
        mark.unlink()
