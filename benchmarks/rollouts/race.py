"""Answers a second of rollouts in slots beside rollouts in whole batches.

    python -m benchmarks.rollouts [--rows=256] [--slots=64] [--limit=64]
    python -m benchmarks.rollouts --run=runs/demo/ppo [--rows=128] [--slots=64]

Three samplers take turns in one process, with the same weights, prompts and random keys:

- `slots`: `model.decoding.refill` in `--slots` rows, with `--widths` widths of prompts;
- `batches`: `model.generate` in batches of `--slots` rows, one after another: the same cache;
- `whole`: `model.generate` of all rows at once, whose cache is `--rows` / `--slots` times as large.

Without `--run` the model is random, of size 10m with a vocabulary of 4,096, and so many of its ids
stop an answer that a token is the last with a probability of about 4 / limit: lengths are
geometric, cut off at the limit. With `--run`, the workdir of a finished PPO or GRPO run, the policy
answers the run's own prompts with the run's lengths; the workdir is only read.

The order of the samplers is reversed at every round; the first compiles and is not counted.
Prints for each the median answers a second and the bytes that its program needs beside the
weights, the ratios of `slots` to the others (medians of the ratios within a round), the same by
processor time, which other work on the machine stretches less, and the share of answers whose
tokens are all equal. Where it is below 1, XLA on CPU rounded a product of few rows otherwise than
one of many, which changes a rare token.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import turns
from benchmarks.random_models import random_model
from benchmarks.results import Table
from model import sharding
from model.config import TransformerConfig
from model.decoding import refill
from model.generate import Sample, Sampling, generate, prepare
from train.assembly import inputs
from train.checkpoints import loading, networks
from train.config import saved
from train.config.run import build
from train.objectives import registry
from train.rl import sampler

RATIOS = ("batches", "whole")


class Rollout(NamedTuple):
    """A rollout to sample. prompts: [rows, P] int32, left padded; mask: [rows, P] bool."""

    config: TransformerConfig
    params: Any
    prompts: np.ndarray
    mask: np.ndarray
    sampling: Sampling


def random_rollout(rows: int, length: int, limit: int) -> Rollout:
    """Random prompts for a random model that ends answers after limit / 4 tokens on average."""
    config, params = random_model()
    config = dataclasses.replace(config, scan_unroll=0)  # as our recipes for CPU have it
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, config.vocab_size, (rows, length)).astype(np.int32)
    stop_ids = tuple(range(config.vocab_size * 4 // limit))
    sampling = Sampling(limit, stop_ids=stop_ids)
    return Rollout(config, params, prompts, np.ones_like(prompts, bool), sampling)


def run_rollout(run: str, rows: int) -> Rollout:
    """The first prompts of a finished run, with its policy and its settings of sampling."""
    config = build(saved.recipe_of(run))
    config = dataclasses.replace(config, init_from={"policy": run})
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    with tempfile.TemporaryDirectory() as workdir, jax.set_mesh(mesh):
        objective = registry.find(config)
        ctx = inputs.open_context(config, objective, workdir, mesh, None, None)
        abstract = networks.abstract_params("policy", ctx.models["policy"], mesh)
        params = loading.load_params(run, "policy", abstract)
        data: Any = ctx.data.train
        sampling = sampler.Sampler(ctx).sampling
    prompts = {name: np.asarray(data[name][:rows]) for name in ("tokens", "mask")}
    return Rollout(ctx.models["policy"], params, prompts["tokens"], prompts["mask"], sampling)


def programs(rollout: Rollout, slots: int, widths: int) -> dict[str, Callable]:
    """{sampler: function(params, prompts, mask, keys) -> Sample}."""
    config, sampling = rollout.config, rollout.sampling

    def in_slots(params, prompts, mask, keys):
        return refill.generate(config, params, prompts, mask, keys, sampling, slots, widths)

    def whole(params, prompts, mask, keys):
        return generate(config, params, prompts, mask, keys, sampling)

    return {"slots": in_slots, "batches": whole, "whole": whole}


class Sampler:
    """A compiled sampler of a rollout: `run(seed)` -> (what it took, Sample).

    `bytes` is what its program needs beside its arguments.
    """

    def __init__(self, function: Callable, rollout: Rollout, params: Any, rows: int):
        self.rollout, self.params, self.rows = rollout, params, rows
        args = params, rollout.prompts[:rows], rollout.mask[:rows], self._keys(0)[:rows]
        self.program = jax.jit(function).lower(*args).compile()
        memory: Any = self.program.memory_analysis()
        self.bytes = memory.temp_size_in_bytes + memory.output_size_in_bytes

    def _keys(self, seed):
        return jax.random.split(jax.random.key(seed), len(self.rollout.prompts))

    def run(self, seed: int) -> tuple[turns.Took, Sample]:
        keys = jax.block_until_ready(self._keys(seed))
        samples: list[Any] = []
        with turns.clock() as took:
            for first in range(0, len(keys), self.rows):
                part = slice(first, first + self.rows)
                args = self.rollout.prompts[part], self.rollout.mask[part], keys[part]
                samples.append(jax.device_get(self.program(self.params, *args)))
        return took, jax.tree.map(lambda *parts: np.concatenate(parts), *samples)


def race(rollout: Rollout, slots: int, rounds: int, widths: int = 1) -> dict[str, Any]:
    """Runs the samplers turn about; see the top of the file."""
    rows = len(rollout.prompts)
    params = jax.jit(partial(prepare, rollout.config))(rollout.params)
    sizes = {"slots": rows, "batches": slots, "whole": rows}
    samplers = {
        name: Sampler(function, rollout, params, sizes[name])
        for name, function in programs(rollout, slots, widths).items()
    }
    runs = turns.race({name: sampler.run for name, sampler in samplers.items()}, rounds)
    rates = {name: [rows / took.seconds for took, _ in side] for name, side in runs.items()}
    processor = {name: [rows / took.processor for took, _ in side] for name, side in runs.items()}
    samples = {name: [sample for _, sample in side] for name, side in runs.items()}
    lengths = [float(sample.response_mask.sum(1).mean()) for sample in samples["slots"]]

    def equal(name: str) -> float:
        pairs = zip(samples["slots"], samples[name], strict=True)
        return float(np.mean([np.all(a.tokens == b.tokens, axis=1) for a, b in pairs]))

    return {
        "rows": rows,
        "slots": slots,
        "limit": rollout.sampling.max_new_tokens,
        "mean_length": float(np.mean(lengths)),
        "answers_per_second": rates,
        "bytes": {name: sampler.bytes for name, sampler in samplers.items()},
        "ratios": {name: turns.ratios(rates, "slots", name) for name in RATIOS},
        "ratio": {name: turns.ratio(rates, "slots", name) for name in RATIOS},
        "processor_ratio": {name: turns.ratio(processor, "slots", name) for name in RATIOS},
        "equal": {name: equal(name) for name in RATIOS},
    }


def table(result: dict[str, Any]) -> Table:
    """The result of `race`, a row for each sampler."""
    columns = ("", "answers/s", "MiB beside the weights", "slots / it", "by processor time",
               "ratios of the rounds", "answers equal")  # fmt: skip
    rows = []
    for name, rates in result["answers_per_second"].items():
        cells = [name, turns.spread(rates, 1), f"{result['bytes'][name] / 2**20:.0f}"]
        if name in RATIOS:
            rounds = ", ".join(f"{x:.2f}" for x in result["ratios"][name])
            cells += [f"**{result['ratio'][name]:.2f}**", f"{result['processor_ratio'][name]:.2f}"]
            cells += [rounds, f"{result['equal'][name]:.2%}"]
        rows.append(cells + [""] * (len(columns) - len(cells)))
    return Table(columns, rows)
