"""Workdirs with random models of a few thousand parameters, and the byte tokenizer."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data.text import tokenizer
from model.config import TransformerConfig
from model.pretrained.hf_config import config_from_hf
from model.sharding import MeshConfig, make_mesh
from train.checkpoints import networks, saved_models
from train.checkpoints.checkpointer import Checkpointer
from train.step import TrainState

TOKENIZER = tokenizer.train("byte", [], 0)
FIXTURES = Path(__file__).parents[2] / "model/fixtures"
CONFIG = TransformerConfig(
    vocab_size=TOKENIZER.vocab_size, embed_dim=16, num_layers=3, num_heads=4, num_kv_heads=2,
    head_dim=6, mlp_dim=20, rope_base=500.0, max_length=64,
)  # fmt: skip


def family(name: str, **changes: Any) -> TransformerConfig:
    """The miniature of an open family, with the vocabulary of the byte tokenizer."""
    hf = json.loads(str(np.load(FIXTURES / f"{name}.npz")["config"]))
    return dataclasses.replace(config_from_hf(hf), vocab_size=TOKENIZER.vocab_size, **changes)


def random_params(role: str, config: TransformerConfig, seed: int = 0) -> Any:
    """Parameters of a role that leave no norm at 1, on one device."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    rng = np.random.default_rng(seed)

    def draw(x):
        return jax.device_put(rng.normal(0.1, 0.3, x.shape).astype(np.float32), x.sharding)

    return jax.tree.map(draw, networks.abstract_params(role, config, mesh))


def write_run(
    workdir: Path, config: TransformerConfig = CONFIG, roles: Mapping[str, int] | None = None,
    step: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Writes the workdir of a run that trained `roles` {role: seed}, by default a policy, or adds a
    checkpoint to it. Returns {role: parameters}."""
    roles = roles or {"policy": step}
    workdir.mkdir(exist_ok=True, parents=True)
    TOKENIZER.save(workdir / "tokenizer")
    saved_models.save_models(workdir, dict.fromkeys(roles, config))
    trainable = {role: random_params(role, config, seed) for role, seed in roles.items()}
    checkpoints = Checkpointer(workdir, keep=10)
    count = {"count": np.zeros((), np.int32)}
    checkpoints.save(TrainState(np.int32(step), trainable, count, count), {}, wait=True)
    checkpoints.close()
    return trainable
