"""The processor time of an iteration of PPO by part: its programs, rewards, and the rest.

    python -m benchmarks.ppo.iteration [--models=toy|demo] [--updates=25]

An iteration is a rollout and the updates on it: of the toy race (toy.py), or of the
demo's PPO with random models (steady.py). Every program is waited for, so that its
time is its own. Processor time is that of all threads of this process, which other work on the
machine does not stretch as it does the clock.

Prints for each part the median milliseconds of an iteration and its share; those with compilation,
the first five, are not counted. `updates` are the steps and the choice of their rows, `rewards on
the host` also the texts of the answers. `rest` is all that Python's threads do outside of the
programs and of the rewards: Python itself, prompts, transfers, records of metrics. `ends of
programs` is what XLA's own threads do after a program's results are there, as freeing its memory.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags

from benchmarks import results
from benchmarks.ppo import steady, toy
from train import attempt, loop
from train.rl.rollout import RolloutSource
from train.rl.scoring import Scorer
from train.runtime.metrics import quiet_to_file

ENDS = "ends of programs"
PROGRAMS = ("sampling", "reward model", "log-probabilities and values", "updates")
REWARDS = "rewards on the host"
WARM = 5


def python_time() -> float:
    """The processor time of this process's Python threads, of which XLA's are none."""
    clocks = [time.pthread_getcpuclockid(t.ident) for t in threading.enumerate() if t.ident]
    return sum(map(time.clock_gettime, clocks))


@contextlib.contextmanager
def watched() -> Iterator[list[dict[str, float]]]:
    """Yields a list that grows with every iteration by {part: seconds of processor time}, with
    their sum `all`."""
    iterations: list[dict[str, float]] = []
    parts, begun = dict.fromkeys((*PROGRAMS, REWARDS, "rest"), 0.0), [0.0, 0.0]

    def timed(name: str, function: Callable) -> Callable:
        def run(*args, **kwargs):
            start, python = time.process_time(), python_time()
            out = jax.block_until_ready(function(*args, **kwargs))
            parts[name] += time.process_time() - start
            parts["rest"] -= python_time() - python
            return out

        return run

    with contextlib.ExitStack() as patches:

        def patch(cls: Any, name: str, new: Callable) -> None:
            patches.callback(setattr, cls, name, getattr(cls, name))
            setattr(cls, name, new)

        begin_source, begin_attempt = RolloutSource.__init__, attempt.Attempt.__post_init__
        rollout, verify = RolloutSource.rollout, Scorer.verify

        def init_source(self, *args, **kwargs):
            begin_source(self, *args, **kwargs)
            self.sampler.generate = timed(PROGRAMS[0], self.sampler.generate)
            self.sampler.score_rows = timed(PROGRAMS[1], self.sampler.score_rows)
            self.make_experience = timed(PROGRAMS[2], self.make_experience)
            self._minibatch = timed(PROGRAMS[3], self._minibatch)

        def init_attempt(self):
            begin_attempt(self)
            self.step_fn = timed(PROGRAMS[3], self.step_fn)

        def next_rollout(self, *args):
            now = time.process_time(), python_time()
            whole, python = (a - b for a, b in zip(now, begun))
            parts["rest"] += python
            parts[ENDS] = whole - sum(parts.values())
            iterations.append({**parts, "all": whole})
            begun[:] = now
            del parts[ENDS]
            parts.update(dict.fromkeys(parts, 0.0))
            return rollout(self, *args)

        patch(RolloutSource, "__init__", init_source)
        patch(RolloutSource, "rollout", next_rollout)
        patch(attempt.Attempt, "__post_init__", init_attempt)
        patch(Scorer, "verify", lambda *args: timed(REWARDS, verify)(*args))
        yield iterations


def run(models: str, updates: int) -> list[dict[str, float]]:
    """The iterations of a run, the first ones included."""
    with tempfile.TemporaryDirectory() as directory, watched() as iterations:
        quiet_to_file(f"{directory}/log.txt")
        if models == "toy":
            toy.write_policy(f"{directory}/policy", 0)
            recipe, prompts = toy.recipe_of(0, "ppo"), toy.random_prompts(0)
            recipe.init_from = {"policy": f"{directory}/policy"}
            recipe.steps = updates * recipe.rl.epochs * 2
        else:
            recipe = steady.demo_ppo(directory, updates, 128)
            prompts = steady.random_prompts(recipe.rl.prompt_length, 128 * updates, 128)
        recipe.checkpoint.every = recipe.rl.record = 0
        loop.run(recipe, f"{directory}/run", open_data=prompts)
    return iterations


def summary(iterations: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """{part: {`ms`: median of an iteration, `share`}}."""
    parts = {name: np.array([i[name] for i in iterations[WARM:]]) for name in iterations[0]}
    whole = parts.pop("all")
    return {
        name: {"ms": float(1e3 * np.median(x)), "share": float(np.median(x / whole))}
        for name, x in parts.items()
    }


def main(argv: Sequence[str]) -> None:
    del argv
    parts = summary(run(flags.FLAGS.models, flags.FLAGS.updates))
    rows = [[name, f"{x['ms']:.2f}", f"{x['share']:.1%}"] for name, x in parts.items()]
    table = results.Table(["", "ms of processor time", "share"], rows)
    results.report(results.Result("ppo.iteration", [table], parts, results.given()))


if __name__ == "__main__":
    flags.DEFINE_enum("models", "toy", ["toy", "demo"], "Whose PPO.")
    flags.DEFINE_integer("updates", 25, "Iterations.", lower_bound=WARM + 2)
    results.define_flags()
    app.run(main)
