"""Scaling laws: known exponents are recovered from synthetic losses, within the intervals."""

import functools

import numpy as np
import pytest

from train.ladder.laws import Law, frontier, optimum

# Hoffmann et al. 2022, equation 10.
E, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.34, 0.28


def true_loss(n, d):
    return E + A / n**ALPHA + B / d**BETA


@functools.cache
def chinchilla(noise=0.002) -> Law:
    n, ratio = (x.ravel() for x in np.meshgrid(np.geomspace(4e7, 4e9, 6), [4.0, 15.0, 60.0]))
    noise = np.exp(noise * np.random.default_rng(3).standard_normal(n.shape))
    return Law([n, n * ratio], true_loss(n, n * ratio) * noise)


def within(estimate, value, width):
    """The interval holds the value, and says something."""
    assert estimate.low <= value <= estimate.high, estimate
    assert estimate.high - estimate.low < width, estimate


def test_the_exponents_of_loss_by_parameters_and_tokens():
    law = chinchilla()
    within(law.exponent(0), ALPHA, 0.2)
    within(law.exponent(1), BETA, 0.2)
    within(law.irreducible, E, 0.5)
    within(law.loss(70e9, 1.4e12), true_loss(70e9, 1.4e12), 0.3)


def test_without_noise_the_law_is_exact():
    law = chinchilla(noise=0.0)
    numbers = (law.irreducible, *(f(i) for i in (0, 1) for f in (law.coefficient, law.exponent)))
    np.testing.assert_allclose([x.value for x in numbers], (E, A, ALPHA, B, BETA), rtol=2e-3)


@pytest.mark.parametrize("flops", [1e19, 5.76e23])
def test_the_best_size_for_a_compute_is_where_no_other_is_better(flops):
    """By trying 100,000 sizes of the true law."""
    n = np.geomspace(1e6, 1e13, 100_000)
    losses = true_loss(n, flops / 6 / n)
    best = n[np.argmin(losses)]
    parameters, tokens, loss = optimum(chinchilla(noise=0.0), flops)
    np.testing.assert_allclose(parameters.value, best, rtol=0.02)
    np.testing.assert_allclose(tokens.value, flops / 6 / best, rtol=0.02)
    np.testing.assert_allclose(loss.value, losses.min(), rtol=1e-3)
    parameters, tokens, loss = optimum(chinchilla(), flops)
    assert parameters.low <= best <= parameters.high
    np.testing.assert_allclose(loss.value, losses.min(), rtol=0.01)


def test_the_exponent_of_loss_by_compute():
    flops = np.geomspace(1e15, 1e19, 9)
    noise = np.exp(0.001 * np.random.default_rng(1).standard_normal(9))
    law = Law([flops], (1.8 + (3e13 / flops) ** 0.16) * noise)
    within(law.exponent(0), 0.16, 0.1)
    within(law.irreducible, 1.8, 0.8)
    within(law.coefficient(0), 3e13**0.16, 1e4)
    within(law.loss(1e21), 1.8 + (3e13 / 1e21) ** 0.16, 0.4)


def test_a_run_that_a_cheaper_one_beats_is_not_on_the_frontier():
    assert frontier([4.0, 1.0, 2.0, 3.0, 3.0], [1.0, 4.0, 5.0, 3.0, 2.5]) == [1, 4, 0]
