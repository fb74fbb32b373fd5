"""The two sides of the race of samplers, and the race."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from benchmarks import turns, workers
from model import sharding
from model.config import TransformerConfig
from model.generate import Sampling, generate, prepare
from train.checkpoints import networks
from train.rl import sampler

WORKER = Path(__file__).with_name("transformers_side.py")


class Ours:
    """Our sampler: `run(prompts, new, temperature)` -> (seconds, ids [B, new]), with a new key each
    time.

    Between `tensor` devices heads and mlp are divided and between the others rows, as a run
    divides them.
    """

    def __init__(
        self, config: TransformerConfig, params: Any, devices: Sequence[jax.Device], tensor: int = 1
    ):
        self.config = dataclasses.replace(config, scan_unroll=0)  # as our recipes for CPU have it
        self.mesh, self.runs = sharding.make_mesh(sharding.MeshConfig(tensor=tensor), devices), 0
        shapes = jax.eval_shape(partial(networks.init_params, "policy", config), jax.random.key(0))
        params = sampler.cast_weights(params, config.activation_dtype)
        params = jax.device_put(params, sharding.parameter_shardings(shapes, self.mesh))
        params = jax.device_put(params, sharding.decoding_shardings(params, self.mesh))
        with jax.set_mesh(self.mesh):
            self.params = jax.jit(prepare, static_argnums=0)(self.config, params)
        rows = sharding.batch_sharding(self.mesh)
        self.generate = jax.jit(
            generate, static_argnames=("config", "sampling"), out_shardings=rows
        )

    def run(self, prompts: np.ndarray, new: int, temperature: float) -> tuple[float, np.ndarray]:
        self.runs += 1
        keys = jax.random.split(jax.random.key(self.runs), len(prompts))
        mask = np.ones_like(prompts, bool)
        with jax.set_mesh(self.mesh), turns.clock() as took:
            placed = jax.device_put((prompts, mask, keys), sharding.batch_sharding(self.mesh))
            sample = self.generate(self.config, self.params, *placed, Sampling(new, temperature))
            tokens = np.asarray(sample.tokens)
        return took.seconds, tokens[:, prompts.shape[1] :]


class Theirs:
    """The sampler of `transformers`, in a process of another Python that waits between runs."""

    def __init__(self, python: str, directory: epath.PathLike, threads: int, attention: str):
        command = [python, str(WORKER), str(directory), str(threads), attention]
        self.worker = workers.Worker(command, threads)
        self.versions: dict[str, str] = self.worker.read()

    def run(self, prompts: np.ndarray, new: int, temperature: float) -> tuple[float, np.ndarray]:
        answer = self.worker.ask(prompts=prompts.tolist(), new=new, temperature=temperature)
        return answer["seconds"], np.asarray(answer["tokens"])

    def close(self) -> None:
        self.worker.close()


def race(ours: Ours, theirs: Theirs, prompts: np.ndarray, new: int, rounds: int) -> dict[str, Any]:
    """Runs both turn about; the round that compiles is not counted.

    Returns:
      `ours`, `theirs`: tokens a second of every round; `median` of each, `ratio`, the median of the
      ratios within a round; `greedy_equal`, how many of `rows` both decode alike.
    """
    sides: dict[str, Ours | Theirs] = {"ours": ours, "theirs": theirs}

    def rate(side: Ours | Theirs, number: int) -> float:
        del number
        seconds, tokens = side.run(prompts, new, 1.0)
        return tokens.size / seconds

    rates = turns.race({name: partial(rate, side) for name, side in sides.items()}, rounds)
    greedy = [side.run(prompts, new, 0.0)[1] for side in sides.values()]
    return rates | {
        "median": {name: statistics.median(values) for name, values in rates.items()},
        "ratio": turns.ratio(rates, "ours", "theirs"),
        "greedy_equal": int(np.sum(np.all(greedy[0] == greedy[1], axis=1))),
        "rows": len(prompts),
    }
