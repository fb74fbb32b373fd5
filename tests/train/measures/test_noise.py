"""The gradient noise scale, against its definition."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from train.measures.noise import DECAY, NoiseScale, estimates
from train.objectives.base import Stage
from train.step import accumulate_gradients


def test_the_estimates_are_unbiased():
    """Over all batches of four rows, each of whose gradients is one of two vectors."""
    vectors = np.array([[1.0, 2.0, 0.5], [3.0, -1.0, 0.0]])
    found = []
    for rows in itertools.product((0, 1), repeat=4):
        gradients = vectors[list(rows)]
        parts = [gradients[:2].sum(0) / 4, gradients[2:].sum(0) / 4]
        micro = jnp.array([np.sum(part**2) for part in parts])
        found.append(estimates(micro, jnp.array(np.sum(sum(parts) ** 2)), 4))
    signal, trace = np.mean(np.array(found, np.float64), axis=0)
    mean = vectors.mean(0)
    assert signal == pytest.approx(np.sum(mean**2), rel=1e-5)
    assert trace == pytest.approx(np.sum((vectors - mean) ** 2) / 2, rel=1e-5)


def test_a_step_measures_its_microbatches():
    """The noise scale of a linear loss, whose gradient for a row is the row."""
    rows = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    stage = Stage(
        weights=lambda batch: {"all": jnp.float32(8)},
        loss=lambda trainable, frozen, batch: (
            {"all": jnp.sum(batch["x"] @ trainable["policy"]["w"])}, {}
        ),
        source=None, evaluation=None,
    )  # fmt: skip
    trainable = {"policy": {"w": jnp.zeros(3)}}
    _, grads, metrics = accumulate_gradients(stage, trainable, {}, {"x": rows}, 4, noise=True)
    np.testing.assert_allclose(grads["policy"]["w"], rows.mean(0), rtol=1e-5)
    # Microbatch i holds the rows i, i + 4.
    small = np.mean([np.sum(rows[i::4].mean(0) ** 2) for i in range(4)])
    big = np.sum(rows.mean(0) ** 2)
    assert metrics["noise_signal"] == pytest.approx((8 * big - 2 * small) / 6, rel=1e-4)
    assert metrics["noise_trace"] == pytest.approx((small - big) / (1 / 2 - 1 / 8), rel=1e-4)
    assert accumulate_gradients(stage, trainable, {}, {"x": rows}, 4)[2] == {}


def test_the_scale_is_a_ratio_of_averages_and_survives_a_checkpoint():
    scale = NoiseScale({})
    assert scale.add({"noise_signal": 2.0, "noise_trace": 8.0}) == {"noise_scale": 4.0}
    assert scale.add({"loss": 1.0}) == {}
    scale = NoiseScale(scale.notes())
    signal, trace = DECAY * 2 + (1 - DECAY) * 12, DECAY * 8 + (1 - DECAY) * 4
    values = {"value_noise_signal": -1.0, "value_noise_trace": 1.0}
    values |= {"noise_signal": 12.0, "noise_trace": 4.0}
    assert scale.add(values) == {"noise_scale": pytest.approx(trace / signal)}
    assert scale.add({"noise_signal": float("nan"), "noise_trace": 1.0}) == {}
