"""Our side: the train step of a recipe on random rows, its FLOPs, and what decoding must read."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import turns
from benchmarks.random_models import random_params
from configs import pretrain
from model import sharding
from model.config import TransformerConfig
from model.weights import flops_per_token
from tpu.chips import compiler_options
from tpu.fit import abstract
from tpu.fit.compile import abstract_batch
from train.assembly import partition
from train.config.run import build
from train.objectives.base import Context
from train.step import TrainState, make_train_step

# Memory bandwidth of a GPU, bytes a second, by JAX's `device_kind`, from NVIDIA's data sheets.
BANDWIDTH = {
    "NVIDIA A100-SXM4-80GB": 2.039e12,
    "NVIDIA H100 80GB HBM3": 3.35e12,
    "NVIDIA H200": 4.8e12,
}


def recipe(size: str, rows: int, length: int, remat: str) -> Any:
    """Pretraining in bfloat16 with float32 weights, of a size of model/sizes.py."""
    config = pretrain.get_config(f"size={size}")
    config.model.dtype, config.model.remat = "bfloat16", remat
    config.data.batch_size, config.data.length = rows, length
    config.loss.z_loss = 0.0
    return config


class Ours:
    """Our train step on the first device: `run(steps)` -> {`seconds`, `loss`}.

    Attributes:
      model: the architecture. state: the `TrainState`. parameters: their number. flops: of a token.
    """

    def __init__(self, config: Any, vocab_size: int):
        device = jax.devices()[0]
        self.mesh = sharding.make_mesh(sharding.MeshConfig(), [device])
        run = abstract.assemble(build(config), self.mesh, vocab_size)
        (role,) = run.objective.trainable
        self.model = run.models[role]
        batch, data, tokenizer = abstract_batch(run.config, run.objective.schema, self.mesh)
        stage = run.objective.build(Context(run.config, run.models, tokenizer, data, self.mesh))
        step = make_train_step(partition.joined(stage, run.parts), run.tx, run.config.accumulate)
        options = compiler_options(device, [self.model])
        self.step = jax.jit(step, donate_argnums=0, compiler_options=options)
        rng, train = np.random.default_rng(0), data.train
        assert isinstance(train, dict)
        rows = train | {
            "tokens": rng.integers(vocab_size, size=batch["tokens"].shape, dtype=np.int32)
        }
        with jax.set_mesh(self.mesh):
            self.batch = jax.device_put(rows, sharding.batch_sharding(self.mesh))
            trainable = {role: random_params(self.model, role)}
            opt_state = jax.jit(run.tx.init)(trainable)
            self.state = TrainState(jnp.int32(0), trainable, opt_state, (), jnp.int32(0))
        self.parameters = sum(x.size for x in jax.tree.leaves(trainable))
        self.flops = flops_per_token(self.model, run.config.data.length)
        self.tokens = batch["tokens"].size

    def run(self, steps: int) -> dict[str, float]:
        with jax.set_mesh(self.mesh), turns.clock() as took:
            for _ in range(steps):
                self.state, metrics = self.step(self.state, {}, self.batch)
            jax.block_until_ready(self.state)
        return {"seconds": took.seconds, "loss": float(metrics["loss"])}


def decoding_bytes(config: TransformerConfig, params: Any, rows: int, length: float) -> float:
    """Bytes that a decode step reads from memory at the least: every matmul weight once, and the
    keys and values of `length` tokens of every row, in the activations' dtype."""
    size = jnp.dtype(config.activation_dtype).itemsize
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
    if not config.tie_embeddings:  # the embedding is looked up, one line a row
        count -= math.prod(params["embedding"].shape)
    cache = 2 * config.num_layers * config.num_kv_heads * config.head_dim * rows * length
    return size * (count + cache)
