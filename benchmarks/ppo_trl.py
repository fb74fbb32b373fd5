"""The toy PPO race (benchmarks/ppo_toy.py) beside TRL, seed by seed.

    sh benchmarks/other_env.sh runs/trl_env torch==2.13.0 transformers==5.24.0 trl==1.12.0
    python -m benchmarks.ppo_trl --other_python=runs/trl_env/bin/python

Both sides begin with the same random policy, see the same 1,600 prompts in 25 updates of 64
episodes, and have the race's settings: 4 epochs × 2 minibatches, learning rate 1e-3, KL coefficient
0.02, λ 0.95, float32, the same number of cores. They take turns, ours in this process, TRL in one
of its own. TRL writes its trained policy as a Hugging Face directory; one judge, in this process,
samples an answer of both policies to each of 1,024 held-out prompts and computes the score and the
KL to the first policy (exact over the vocabulary at every token, given the answer so far; nats an
answer).

Prints for each seed score, KL, J = score - 0.02·KL, the seconds of training (compilation included)
and, in steady state, those of an update, of all after the first five: the median by the clock, the
mean in processor time, which other work on the machine does not stretch, and the 10th percentile
by the clock. The last is nearest to a quiet machine: another guest of the host that shares a core's
arithmetic units slows an update by every clock, and not both sides alike. With more than one core
ours has one JAX device a core, between which rows are divided.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import ppo_toy
from benchmarks.sampling import write_model
from model.config import TransformerConfig
from model.generate import Sampling, generate
from model.transformer import Transformer
from train.checkpoints import loading
from train.interop import published
from train.terminal.console import console

WORKER = Path(__file__).with_name("ppo_trl_other.py")
HELDOUT, WARM = 1024, 5


@partial(jax.jit, static_argnames="config")
def judge(
    config: TransformerConfig, policy: Any, reference: Any, prompts: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(scores, KLs to the reference) of an answer to each of prompts [B, P]; both [B]."""
    P, R = prompts.shape[1], ppo_toy.RESPONSE
    keys = jax.random.split(jax.random.key(0), len(prompts))
    mask = jnp.ones_like(prompts, bool)
    tokens = generate(config, policy, prompts, mask, keys, Sampling(R)).tokens
    apply: Any = Transformer(config).apply
    ours, theirs = (
        jax.nn.log_softmax(apply({"params": p}, tokens)[:, P - 1 : -1]) for p in (policy, reference)
    )
    return jnp.sum(tokens == 7, axis=1) / R, jnp.sum(jnp.exp(ours) * (ours - theirs), (1, 2))


def run_trl(python: str, directory: Path, seed: int, schedule: str, threads: int) -> dict:
    """Trains `directory`/policy (a Hugging Face directory) with TRL; returns the worker's
    output."""
    rows: Any = ppo_toy.random_prompts(seed)(None).train
    race = {
        "prompts": rows["tokens"].tolist(),
        "response": ppo_toy.RESPONSE, "updates": ppo_toy.UPDATES, "schedule": schedule,
        "seed": seed, "threads": threads,
    }  # fmt: skip
    Path(directory, "race.json").write_text(json.dumps(race))
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [python, WORKER, directory], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(
            f"{WORKER.name} ended with {done.returncode}; does --other_python have trl (the top "
            f"of {Path(__file__).name} says how to make one)?\n{done.stderr[-2000:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def one_seed(python: str, seed: int, schedules: Sequence[str], threads: int) -> dict[str, dict]:
    """{side: score, kl, j, train_seconds, versions, and of each update update_seconds and
    processor_seconds}."""
    heldout = np.random.default_rng([seed, 1]).integers(0, 32, (HELDOUT, ppo_toy.PROMPT), np.int32)
    results, policies = {}, {}
    with tempfile.TemporaryDirectory() as directory:
        ppo_toy.write_policy(f"{directory}/policy", seed)
        config, first = loading.load(f"{directory}/policy")
        for schedule in schedules:
            name, folder = f"TRL, {schedule}", Path(directory, schedule)
            (folder / "policy").mkdir(parents=True)
            write_model(folder / "policy", config, first)
            results[name] = run_trl(python, folder, seed, schedule, threads)
            policies[name] = [published.load(folder / part) for part in ("trained", "policy")]
        results["ours"] = ppo_toy.train(directory, seed) | {"versions": f"JAX {jax.__version__}"}
        policies["ours"] = [loading.load(f"{directory}/{part}") for part in ("ppo", "policy")]
    for name, side in results.items():
        (config, policy), (_, reference) = policies[name]
        score, kl = (float(jnp.mean(x)) for x in judge(config, policy, reference, heldout))
        results[name] = {
            "score": score, "kl": kl, "j": score - 0.02 * kl,
            "train_seconds": side["train_seconds"],
            "update_seconds": side["update_seconds"][WARM:],
            "processor_seconds": side["processor_seconds"][WARM:], "versions": side["versions"],
        }  # fmt: skip
    return results


def times(sides: list[dict]) -> dict[str, float]:
    """Seconds of an update in steady state, of all updates of a side's runs: their `median` by the
    clock, the mean of `processor` time, and by the clock the 10th percentile, `quick`."""
    clock, processor = (
        np.concatenate([side[name] for side in sides])
        for name in ("update_seconds", "processor_seconds")
    )
    seconds = np.median(clock), np.mean(processor), np.percentile(clock, 10)
    return dict(zip(("median", "processor", "quick"), map(float, seconds), strict=True))


def summary(runs: list[dict[str, dict]]) -> dict[str, dict]:
    """{side: mean `j` over seeds, its standard `error`, and `times`}; for the others also
    `ahead`, our J minus theirs in their standard errors, and `speedup`, their times divided by
    ours."""
    results: dict[str, dict] = {}
    for name in runs[0]:
        j = [run[name]["j"] for run in runs]
        error = float(np.std(j, ddof=1) / len(j) ** 0.5)
        seconds = times([run[name] for run in runs])
        results[name] = {"j": float(np.mean(j)), "error": error, "times": seconds}
    ours = results["ours"]
    for side in (side for name, side in results.items() if name != "ours"):
        side["ahead"] = (ours["j"] - side["j"]) / side["error"]
        side["speedup"] = {k: v / ours["times"][k] for k, v in side["times"].items()}
    return results


def milliseconds(seconds: dict[str, float]) -> str:
    median, processor, quick = (1e3 * seconds[name] for name in ("median", "processor", "quick"))
    return (
        f"an update {median:.0f} ms, {processor:.0f} of processor time, a tenth under {quick:.0f}"
    )


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    # Before JAX starts, as it makes a thread for each core it may use; a child inherits the cores.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.threads])
    jax.config.update("jax_num_cpu_devices", given.threads)
    runs = []
    for seed in range(given.seeds):
        runs.append(one_seed(given.other_python, seed, given.schedules, given.threads))
        for name, side in runs[-1].items():
            console.print(
                f"seed {seed} {name:13} score {side['score']:.3f}  KL {side['kl']:5.2f}  "
                f"J {side['j']:.3f}  {side['train_seconds']:4.1f} s, {milliseconds(times([side]))}"
            )
        if given.json:
            Path(given.json).write_text(json.dumps(runs) + "\n")
    for name, side in summary(runs).items() if len(runs) > 1 else ():
        console.print(
            f"{name:13} J {side['j']:.3f} ± {side['error']:.3f}, {milliseconds(side['times'])} "
            f"({runs[0][name]['versions']})"
        )
        if "ahead" in side:
            faster = (
                "{median:.2f} times as fast ({processor:.2f} in processor time, {quick:.2f} quick)"
            )
            console.print(
                f"  ours is {side['ahead']:+.1f} of its standard errors, and "
                + faster.format(**side["speedup"])
            )


if __name__ == "__main__":
    flags.DEFINE_string("other_python", None, "A Python that has torch, transformers and trl.")
    flags.DEFINE_integer("seeds", 5, "Races.", lower_bound=1)
    flags.DEFINE_integer("threads", 1, "Cores that each side may use.", lower_bound=1)
    flags.DEFINE_list("schedules", ["linear", "constant"], "TRL's learning rates: its own, ours.")
    flags.DEFINE_string("json", "", "Write the result here as JSON, seed by seed.")
    flags.mark_flag_as_required("other_python")
    app.run(main)
