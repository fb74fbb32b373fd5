"""Training a mixture of experts: the router's term, on meshes and in microbatches."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from model import sharding
from model.config import TransformerConfig
from model.sizes import SIZES
from train.checkpoints import networks
from train.config.run import LossConfig
from train.objectives.base import Stage
from train.objectives.next_token import next_token_terms
from train.step import accumulate_gradients

CONFIG = TransformerConfig(
    vocab_size=40, num_experts=4, experts_per_token=2, scan_unroll=0, **SIZES["tiny"]
)
SETTINGS = LossConfig(load_balance=1.0, router_z=0.5)  # large enough to be seen in gradients
B, T = 16, 12


def batch():
    rng = np.random.default_rng(0)
    segments = np.where(np.arange(T) < rng.integers(4, T, B)[:, None], 1, 0).astype(np.int32)
    mask = (segments * (np.arange(T) > 0)).astype(np.float32)
    positions = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    tokens = rng.integers(0, 40, (B, T)).astype(np.int32)
    return dict(tokens=tokens, positions=positions, segment_ids=segments, loss_mask=mask)


def gradients(settings: LossConfig, sizes=None, accumulate: int = 1):
    """(loss, gradients, metrics) of one batch."""
    run = SimpleNamespace(models={"policy": CONFIG}, config=SimpleNamespace(loss=settings))
    weights, loss = next_token_terms(run)
    stage = Stage(weights, loss, source=None, evaluation=None)
    devices = jax.devices() if sizes else jax.devices()[:1]
    mesh = sharding.make_mesh(sharding.MeshConfig(**sizes or {}), devices)
    with jax.set_mesh(mesh):
        abstract = networks.abstract_params("policy", CONFIG, mesh)
        rng = np.random.default_rng(1)
        params = jax.tree.map(
            lambda x: jax.device_put(rng.normal(0, 0.2, x.shape).astype(x.dtype), x.sharding),
            abstract,
        )
        step = jax.jit(lambda p, b: accumulate_gradients(stage, {"policy": p}, {}, b, accumulate))
        return jax.device_get(step(params, sharding.put_batch(batch(), mesh)))


@pytest.fixture(scope="module")
def one_device():
    return gradients(SETTINGS)


def assert_same(got, want):
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got[1], want[1])


def test_an_expert_mesh_trains_as_one_device(one_device):
    got = gradients(SETTINGS, dict(data=1, fsdp=2, expert=4))
    assert_same(got, one_device)
    for name, value in one_device[2].items():
        np.testing.assert_allclose(got[2][name], value, rtol=1e-4)


def test_the_router_has_its_term(one_device):
    without = gradients(LossConfig(load_balance=0.0, router_z=0.0))
    loss, _, metrics = one_device
    term = SETTINGS.load_balance * metrics["load_balance"] + SETTINGS.router_z * metrics["router_z"]
    np.testing.assert_allclose(loss - without[0], term, rtol=1e-3)
    assert metrics["load_balance"] > 1  # 1 is even
    moved = [g["policy"]["layers"]["router"] for g in (one_device[1], without[1])]
    assert np.abs(moved[0] - moved[1]).max() > 1e-3


def test_microbatches_add_but_for_the_balance():
    """Its fractions are of a microbatch; everything else is additive."""
    settings = dataclasses.replace(SETTINGS, load_balance=0.0)
    assert_same(gradients(settings, accumulate=4), gradients(settings))
