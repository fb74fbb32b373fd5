"""The toy PPO race beside TRL, seed by seed: both sides, their judge, and the comparison."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import random_models, turns, workers
from benchmarks.ppo import toy
from model.config import TransformerConfig
from model.generate import Sampling, generate
from model.transformer import Transformer
from train.checkpoints import loading
from train.interop import published

WORKER = Path(__file__).with_name("trl_side.py")
HELDOUT, WARM = 1024, 5


@partial(jax.jit, static_argnames="config")
def judge(
    config: TransformerConfig, policy: Any, reference: Any, prompts: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(scores, KLs to the reference) of an answer to each of prompts [B, P]; both [B]."""
    P, R = prompts.shape[1], toy.RESPONSE
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
    rows: Any = toy.random_prompts(seed)(None).train
    race = {
        "prompts": rows["tokens"].tolist(),
        "response": toy.RESPONSE, "updates": toy.UPDATES, "schedule": schedule,
        "seed": seed, "threads": threads,
    }  # fmt: skip
    Path(directory, "race.json").write_text(json.dumps(race))
    return workers.run([python, WORKER, directory], threads)


def one_seed(python: str, seed: int, schedules: Sequence[str], threads: int) -> dict[str, dict]:
    """{side: score, kl, j, train_seconds, versions, and of each update update_seconds and
    processor_seconds}."""
    heldout = np.random.default_rng([seed, 1]).integers(0, 32, (HELDOUT, toy.PROMPT), np.int32)
    results, policies = {}, {}
    with tempfile.TemporaryDirectory() as directory:
        toy.write_policy(f"{directory}/policy", seed)
        config, first = loading.load(f"{directory}/policy")
        sides = {f"TRL, {schedule}": schedule for schedule in schedules} | {"ours": ""}
        for name in turns.order(sides, seed):
            if name == "ours":
                results[name] = toy.train(directory, seed) | {"versions": {}}
                policies[name] = [loading.load(f"{directory}/{part}") for part in ("ppo", "policy")]
                continue
            folder = Path(directory, sides[name])
            (folder / "policy").mkdir(parents=True)
            random_models.write_hf(folder / "policy", config, first)
            results[name] = run_trl(python, folder, seed, sides[name], threads)
            policies[name] = [published.load(folder / part) for part in ("trained", "policy")]
        results = {name: results[name] for name in sides}
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
