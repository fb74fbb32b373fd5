"""Tiny runs in processes of their own, and the comparison of what they came to."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from local_runs import ROOT, last_step, records
from quick_compile import FLAGS
from stage_fixtures import write_files

STAGES = ("pretrain", "sft", "reward", "ppo")
STEPS, EVERY = 40, 5  # of each stage, and between two checkpoints
PATIENCE = 240.0  # seconds, for whatever a process is waited for

RECIPES = '''
from pathlib import Path

import ml_collections
from stage_fixtures import recipe

HERE = Path(__file__).parent
ORIGINS = {"pretrain": {}, "sft": {"policy": "pretrain"}, "reward": {"policy": "sft"},
           "ppo": {"policy": "sft", "reward": "reward"}}


def one(stage, **origins):
    config = recipe(stage, HERE, **origins)
    config.steps, config.checkpoint.every, config.checkpoint.keep = %d, %d, 3
    config.evaluate.samples = 0
    return config


def get_config(stages="chain"):
    if stages != "chain":
        return one(stages, **{role: HERE / "reference" / o for role, o in ORIGINS[stages].items()})
    chain = ml_collections.ConfigDict()
    chain.order = tuple(ORIGINS)
    chain.stages = {stage: one(stage, **origins) for stage, origins in ORIGINS.items()}
    return chain
''' % (STEPS, EVERY)  # fmt: skip  # noqa: UP031

# A plugin with faults inside a run, each at the steps or the time that a variable names.
PLUGIN = """
import os
import time
from pathlib import Path

import jax
import numpy as np

from train.evals.perplexity import Perplexity
from train.objectives.base import LoaderSource
from train.rl.rewards import Episode

next_batch, evaluate = LoaderSource.next, Perplexity.__call__


def faulty_next(self, state, frozen, s, step):
    batch, after, metrics = next_batch(self, state, frozen, s, step)
    if os.environ.get("HANG") == str(step):
        time.sleep(3600)
    first, _, last = os.environ.get("NAN", "").partition("-")
    place = int(s["step"])  # in the data, which a run that goes back does not repeat
    if first and int(first) <= place < int(last):
        mask = batch["loss_mask"]
        nans = np.full(mask.shape, np.nan, mask.dtype)
        batch = batch | {"loss_mask": jax.device_put(nans, mask.sharding)}
    return batch, after, metrics


def faulty_evaluate(self, *arguments, **names):
    if os.environ.get("FAIL"):
        raise RuntimeError("this evaluation fails")
    return evaluate(self, *arguments, **names)


def hanging_reward(episode: Episode) -> float:
    if Path(os.environ["MARKER"]).exists():
        time.sleep(3600)
    return -0.01 * len(episode.response)


LoaderSource.next, Perplexity.__call__ = faulty_next, faulty_evaluate
"""
FAULTY = "--config.plugins=('faulty',)"


@dataclasses.dataclass
class Row:
    """The outcome of the trials of a fault.

    Attributes:
      number: of the row of the fault table. trials: how often it was made. survived: how often
        what must happen did. exact: how often every later loss equalled that of the uninterrupted
        run, bit for bit; None where nothing is trained on. lost: steps that were taken again, at
        most. seconds: to recover, of each trial. notes: of the trials that failed.
    """

    number: str
    fault: str
    trials: int = 0
    survived: int = 0
    exact: int | None = None
    lost: int | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def add(
        self, survived: bool, exact: bool | None = None, lost: int | None = None,
        seconds: float | None = None, note: str = "",
    ) -> None:  # fmt: skip
        """Counts a trial; `note` says what was seen if it failed."""
        self.trials += 1
        self.survived += survived
        if exact is not None:
            self.exact = (self.exact or 0) + exact
        if lost is not None:
            self.lost = max(self.lost or 0, lost)
        if seconds is not None:
            self.seconds.append(seconds)
        if not survived or exact is False:
            self.notes.append(note[-2000:])

    @property
    def held(self) -> bool:
        return (
            self.trials > 0 and self.survived == self.trials and self.exact in (None, self.trials)
        )


class Process:
    """A command at work, whose output goes to a file.

    Args:
      arguments: of Python. log: the file. environment: variables besides those of this process.
    """

    def __init__(self, arguments: Iterable[object], log: Path, **environment: str):
        env = dict(os.environ, JAX_PLATFORMS="cpu", XLA_FLAGS=FLAGS, PYTHONUNBUFFERED="1")
        folders = ROOT, ROOT / "tests" / "helpers", log.parent.parent
        env["PYTHONPATH"] = os.pathsep.join(map(str, folders))
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log, self._file = log, log.open("w")
        self.popen = subprocess.Popen(
            [sys.executable, *map(str, arguments)], cwd=ROOT, env=env | environment,
            stdin=subprocess.DEVNULL, stdout=self._file, stderr=subprocess.STDOUT,
        )  # fmt: skip

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def until(self, condition: Callable[[], object], pause: float = 0.005) -> bool:
        """Waits until the condition is true; returns False if the process ends before.

        Raises:
          TimeoutError: neither came within `PATIENCE`; the process is killed.
        """
        limit = time.monotonic() + PATIENCE
        while not condition():
            if self.popen.poll() is not None:
                return bool(condition())
            if time.monotonic() > limit:
                self.kill()
                raise TimeoutError(self.output[-2000:])
            time.sleep(pause)
        return True

    def wait(self) -> int:
        """The exit code, as a shell has it."""
        self.until(lambda: self.popen.poll() is not None, 0.02)
        self._file.close()
        code = self.popen.returncode
        return 128 - code if code < 0 else code

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(number)


class Lab:
    """A directory with tiny data, recipes, and the workdirs of runs.

    Attributes:
      reference: the workdir of the chain that nothing interrupted.
    """

    def __init__(self, directory: Path, seed: int = 0):
        self.directory, self.rng, self._count = directory, random.Random(seed), 0
        directory.mkdir(parents=True, exist_ok=True)
        write_files(directory)
        (directory / "faulty.py").write_text(PLUGIN)
        self.recipes = directory / "recipes.py"
        self.recipes.write_text(RECIPES)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(directory / "cache"))
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

    @property
    def reference(self) -> Path:
        workdir = self.directory / "reference"
        if not (workdir / STAGES[-1] / "DONE").exists():
            self.finish(self.start(workdir))
        return workdir

    def new(self, name: str) -> Path:
        """A workdir that does not exist yet."""
        while True:
            self._count += 1
            if not (workdir := self.directory / f"{name}-{self._count}").exists():
                return workdir

    def start(
        self, workdir: Path, stages: str = "chain", *flags: str, launcher: Iterable[str] = (),
        **environment: str,
    ) -> Process:  # fmt: skip
        """Starts a chain, or one stage of it whose origins are those of the reference.

        Args:
          launcher: arguments of `tpu.launch` before the command, if it is to start the processes.
        """
        if stages not in ("chain", STAGES[0]):
            _ = self.reference  # its origins
        module = "train.chain" if stages == "chain" else "train"
        command = [f"--config={self.recipes}:{stages}", f"--workdir={workdir}", *flags]
        before = ["-m", "tpu.launch", *launcher, "--"] if launcher else []
        self._count += 1
        log = self.directory / "logs" / f"{workdir.name}-{self._count}.txt"
        return Process([*before, "-m", module, *command], log, **environment)

    def finish(self, process: Process) -> str:
        """Waits for a process that must end well; returns its output."""
        code = process.wait()
        if code:
            raise RuntimeError(f"ended with {code}: {process.output[-2000:]}")
        return process.output

    def trained(self, stage: str) -> Path:
        """The workdir of one stage of the reference, in a copy to be damaged, as it was saved."""
        workdir = self.new(f"copy-{stage}")
        shutil.copytree(self.reference / stage, workdir)
        (workdir / "DONE").unlink(missing_ok=True)
        return workdir


def newest(workdir: Path) -> int:
    """The newest committed step of a run, or 0."""
    folder = workdir / "checkpoints"
    names = [p.name for p in folder.iterdir()] if folder.exists() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def saving(workdir: Path) -> bool:
    """Whether a checkpoint of the run is being written."""
    folder = workdir / "checkpoints"
    return folder.exists() and any("tmp" in p.name for p in folder.iterdir())


def at_step(workdir: Path, step: int) -> Callable[[], bool]:
    """Whether a run has logged a step."""
    return lambda: last_step(workdir) >= step


def has_saved(workdir: Path, step: int) -> Callable[[], bool]:
    """Whether a run has committed a checkpoint of a step, or of a later one."""
    return lambda: newest(workdir) >= step


def resumed_at(output: str) -> int:
    """The step from which a run said that it resumes, or 0."""
    steps = re.findall(r"resuming \S+ from step ([\d,]+)", output)
    return int(steps[-1].replace(",", "")) if steps else 0


def same(workdir: Path, reference: Path) -> bool:
    """Whether two runs have equal records of every step, except times, and equal weights."""
    return records(workdir) == records(reference) and weights(workdir) == weights(reference)


def weights(workdir: Path) -> dict[str, str]:
    """{role: fingerprint of its weights} of a run's newest checkpoint."""
    from train.checkpoints import fingerprints, loading, saved_models

    return {
        role: fingerprints.fingerprint(loading.load(workdir, role)[1])
        for role in saved_models.read_models(workdir)
    }
