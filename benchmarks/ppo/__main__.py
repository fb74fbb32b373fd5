"""The toy PPO race (benchmarks/ppo/toy.py) beside TRL, seed by seed.

    sh benchmarks/other_env.sh runs/trl_env torch==2.13.0 transformers==5.24.0 trl==1.12.0
    python -m benchmarks.ppo --other_python=runs/trl_env/bin/python

Both sides begin with the same random policy, see the same 1,600 prompts in 25 updates of 64
episodes, and have the race's settings: 4 epochs × 2 minibatches, learning rate 1e-3, KL coefficient
0.02, λ 0.95, float32, the same number of cores. They take turns, in the other order at every second
seed, ours in this process, TRL in one of its own. TRL writes its trained policy as a Hugging Face
directory; one judge, in this process, samples an answer of both policies to each of 1,024 held-out
prompts and computes the score and the KL to the first policy (exact over the vocabulary at every
token, given the answer so far; nats an answer).

Prints for each seed score, KL, J = score − 0.02·KL, the seconds of training (compilation included)
and, in steady state, those of an update, of all after the first five: the median by the clock, the
mean in processor time, which other work on the machine does not stretch, and the 10th percentile
by the clock. The last is nearest to a quiet machine: another guest of the host that shares a core's
arithmetic units slows an update by every clock, and not both sides alike. With more than one core
ours has one JAX device a core, between which rows are divided.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import app, flags

from benchmarks import results
from benchmarks.ppo import race
from train.terminal.console import console

TIMES = ("an update, ms: median", "processor time", "a tenth is under")


def milliseconds(seconds: Mapping[str, float]) -> list[str]:
    """The cells of `race.times`."""
    return [f"{1e3 * seconds[name]:.0f}" for name in ("median", "processor", "quick")]


def table_of_seeds(runs: Sequence[Mapping[str, dict]]) -> results.Table:
    """A row for each side of each seed."""
    columns = ("seed", "side", "score", "KL", "J", "seconds", *TIMES)
    rows = [
        [
            str(seed), name, f"{side['score']:.3f}", f"{side['kl']:.2f}", f"{side['j']:.3f}",
            f"{side['train_seconds']:.1f}", *milliseconds(race.times([side])),
        ]
        for seed, run in enumerate(runs)
        for name, side in run.items()
    ]  # fmt: skip
    return results.Table(columns, rows)


def table_of_sides(summary: Mapping[str, dict]) -> results.Table:
    """A row for each side, over all seeds."""
    columns = ("side", "J", *TIMES, "ours is faster: median, processor, tenth",
               "ours is ahead, in standard errors of J")  # fmt: skip
    rows = []
    for name, side in summary.items():
        j = f"{side['j']:.3f} ± {side['error']:.3f}"
        faster = ", ".join(f"{x:.2f}" for x in side.get("speedup", {}).values())
        ahead = f"{side['ahead']:+.1f}" if "ahead" in side else ""
        rows.append([name, j, *milliseconds(side["times"]), faster, ahead])
    return results.Table(columns, rows)


def sides(threads: int) -> dict[str, dict[str, str]]:
    """The settings of both."""
    cores = "one core" if threads == 1 else f"{threads} cores"
    both = {
        "precision of weights, compute, optimizer": "float32",
        "optimizer": "AdamW, b2 0.999, gradients clipped at 1, no weight decay",
        "allocator": "as the process inherits it",
    }
    return {
        "TRL": both | {
            "framework": "torch eager (no torch.compile)",
            "threads": f"process bound to {cores}; OMP_NUM_THREADS={threads}",
            "execution": "gradient checkpointing off, 2 minibatches of 32, no saving",
            "sampling": "transformers.generate, as TRL calls it",
            "reward": "a torch module of the whole batch",
        },
        "ours": both | {
            "framework": "JAX, programs compiled by XLA",
            "threads": "process bound to the same, one JAX device a core",
            "execution": "layers unrolled, no remat, 2 minibatches of 32, no saving",
            "sampling": "model.generate, compiled for the race's shapes",
            "reward": "a Python function called for every answer",
        },
    }  # fmt: skip


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    # Before JAX starts, as it makes a thread for each core it may use; a child inherits the cores.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.threads])
    jax.config.update("jax_num_cpu_devices", given.threads)
    runs, versions = list[dict[str, Any]](), dict[str, str]()
    for seed in range(given.seeds):
        runs.append(race.one_seed(given.other_python, seed, given.schedules, given.threads))
        for side in runs[-1].values():
            versions |= side.pop("versions")
        ends = ", ".join(f"{name} J {side['j']:.3f}" for name, side in runs[-1].items())
        console.print(f"seed {seed}: {ends}")
    tables = [table_of_seeds(runs)]
    if len(runs) > 1:
        tables.append(table_of_sides(race.summary(runs)))
    results.report(
        results.Result(
            "ppo", tables, {"seeds": runs}, results.given(), sides(given.threads), versions
        )
    )


if __name__ == "__main__":
    flags.DEFINE_string("other_python", None, "A Python that has torch, transformers and trl.")
    flags.DEFINE_integer("seeds", 5, "Races.", lower_bound=1)
    flags.DEFINE_integer("threads", 1, "Cores that each side may use.", lower_bound=1)
    flags.DEFINE_list("schedules", ["linear", "constant"], "TRL's learning rates: its own, ours.")
    results.define_flags()
    flags.mark_flag_as_required("other_python")
    app.run(main)
