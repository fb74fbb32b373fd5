"""Tokens a second of our sampler beside `transformers.generate`, with the same weights on this CPU.

    sh benchmarks/other_env.sh runs/other_env
    python -m benchmarks.sampling --other_python=runs/other_env/bin/python
    python -m benchmarks.sampling --other_python=runs/other_env/bin/python --model=PATH/model.gguf

Without `--model` a random one of size 10m (384 wide, 6 layers) with a vocabulary of 4,096; the
weights go to the other side as a Hugging Face directory. Both compute in `--dtype`, with a
cache, read `--prompt` random ids a row and sample `--new` more at temperature 1 over the whole
vocabulary; nothing stops a row. Both use the same cores: torch as threads, ours as devices of JAX,
between which rows are divided, or with `--tensor` heads and mlp, so that each reads its part of the
weights alone (JAX_NUM_CPU_DEVICES with `mesh.tensor` or `rl.decode_tensor` does the same for a
run). They take turns, ours in this process and theirs in another that waits; the first turn of
each, which compiles and warms up, is not counted, nor is loading theirs and preparing ours (once,
as chat does: `model.generate.prepare`). Then both decode greedily, and the rows are compared.

Prints the median tokens a second of both, their ratio, and how many greedy rows are equal.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from absl import app, flags
from etils import epath
from flax.traverse_util import flatten_dict

from model import sharding
from model.config import TransformerConfig
from model.generate import Sampling, generate, prepare
from model.pretrained import hf_config
from model.sizes import SIZES
from train.checkpoints import networks
from train.interop import published, weights
from train.rl import sampler

WORKER = Path(__file__).with_name("sampling_transformers.py")


def random_params(config: TransformerConfig) -> Any:
    init = jax.jit(lambda key: nn.unbox(networks.init_params("policy", config, key)))
    return init(jax.random.key(0))


def random_model() -> tuple[TransformerConfig, Any]:
    """(TransformerConfig, params) of a random Llama of size 10m."""
    config = TransformerConfig(vocab_size=4096, **SIZES["10m"])
    return config, random_params(config)


def write_model(directory: epath.PathLike, config: TransformerConfig, params: Any) -> None:
    """Writes the model as a Hugging Face directory, without a tokenizer."""
    hf = hf_config.config_to_hf(config) | {"dtype": config.dtype}
    Path(directory, "config.json").write_text(json.dumps(hf))
    tensors = weights.tensors_of(config, flatten_dict(params).__getitem__)
    weights.write_safetensors(directory, tensors, config.dtype)


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
        with jax.set_mesh(self.mesh):
            rows = sharding.batch_sharding(self.mesh)
            start = time.perf_counter()
            placed = jax.device_put((prompts, mask, keys), rows)
            sample = self.generate(self.config, self.params, *placed, Sampling(new, temperature))
            tokens = np.asarray(sample.tokens)
        return time.perf_counter() - start, tokens[:, prompts.shape[1] :]


class Theirs:
    """The sampler of `transformers`, in a process of another Python that waits between runs."""

    def __init__(self, python: str, directory: epath.PathLike, threads: int, attention: str):
        command = [python, str(WORKER), str(directory), str(threads), attention]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self.process: Any = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.versions = self._read()["versions"]

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{WORKER.name} ended with {self.process.wait()}; its message is above. Does "
                "--other_python have torch and transformers (sh benchmarks/other_env.sh DIR)?"
            )
        return json.loads(line)

    def run(self, prompts: np.ndarray, new: int, temperature: float) -> tuple[float, np.ndarray]:
        request = {"prompts": prompts.tolist(), "new": new, "temperature": temperature}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self._read()
        return answer["seconds"], np.asarray(answer["tokens"])

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def race(ours: Ours, theirs: Theirs, prompts: np.ndarray, new: int, repeats: int) -> dict:
    """Runs both in turns; see the top of the file.

    Returns:
      `ours`, `theirs`: tokens a second of every repeat; `ratio` of their medians; `greedy_equal`,
      the rows of the batch that both decode alike.
    """
    sides: dict[str, Ours | Theirs] = {"ours": ours, "theirs": theirs}
    speed = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            seconds, tokens = side.run(prompts, new, 1.0)
            if turn:
                speed[name].append(tokens.size / seconds)
    greedy = [side.run(prompts, new, 0.0)[1] for side in sides.values()]
    median = {name: float(np.median(values)) for name, values in speed.items()}
    return speed | {
        "ratio": median["ours"] / median["theirs"],
        "median": median,
        "greedy_equal": int(np.sum(np.all(greedy[0] == greedy[1], axis=1))),
        "rows": len(prompts),
    }


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    if given.threads % given.tensor or given.batch % (given.threads // given.tensor):
        raise app.UsageError(
            f"--threads={given.threads} must be a multiple of --tensor={given.tensor}, and "
            f"--batch={given.batch} of the devices that are left"
        )
    jax.config.update("jax_num_cpu_devices", given.threads)
    config, params = published.load(given.model) if given.model else random_model()
    config = dataclasses.replace(config, dtype=given.dtype)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (given.batch, given.prompt))
    with tempfile.TemporaryDirectory() as directory:
        write_model(directory, config, params)
        theirs = Theirs(given.other_python, directory, given.threads, given.attention)
    ours = Ours(config, params, jax.devices(), given.tensor)
    result = race(ours, theirs, ids.astype(np.int32), given.new, given.repeats)
    theirs.close()
    size = sum(x.size for x in jax.tree.leaves(params)) / 1e6
    print(f"{size:.1f}M parameters, {given.batch} rows of {given.prompt} + {given.new} tokens")
    for name, who in (("ours", f"JAX {jax.__version__}"), ("theirs", theirs.versions)):
        spread = ", ".join(f"{x:.0f}" for x in result[name])
        print(f"{name:8}{result['median'][name]:8.0f} tokens/s  ({spread})  {who}")
    print(f"ratio {result['ratio']:.2f}; greedy rows equal: {result['greedy_equal']} of {len(ids)}")
    if given.json:
        Path(given.json).write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    flags.DEFINE_string("other_python", None, "A Python that has torch and transformers.")
    flags.DEFINE_string("model", "", "A Hugging Face directory or GGUF file; empty: a random one.")
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Dtype of weights and matmuls.")
    flags.DEFINE_integer("batch", 32, "Rows.", lower_bound=1)
    flags.DEFINE_integer("prompt", 64, "Ids in the prompt of a row.", lower_bound=1)
    flags.DEFINE_integer("new", 64, "Ids sampled in a row.", lower_bound=1)
    flags.DEFINE_integer("repeats", 5, "Runs of each side that count.", lower_bound=1)
    flags.DEFINE_integer("threads", os.cpu_count(), "Threads of torch; devices of JAX, one a core.")
    flags.DEFINE_integer("tensor", 1, "Our devices that divide heads and mlp.", lower_bound=1)
    flags.DEFINE_enum("attention", "sdpa", ["sdpa", "eager"], "Attention of transformers.")
    flags.DEFINE_string("json", "", "Write the result here as JSON.")
    flags.mark_flag_as_required("other_python")
    app.run(main)
