"""Scaling laws fitted to the losses of a ladder, with bootstrap intervals.

Loss by parameters and tokens is approach 3 of Hoffmann et al. 2022 (arXiv:2203.15556),
L(N, D) = E + A/N^α + B/D^β, and loss by compute L(C) = E + K/C^γ. Both are fitted as there: the
Huber loss of log L, minimized by L-BFGS from the best of a grid of starts. In place of its mean, of
which the optimizer took the small values for convergence (Besiroglu et al. 2024, arXiv:2404.10102),
its sum is minimized in units of δ².

Axes: R runs, J terms beside E, S starts, P = 1 + 2·J numbers of a law, K resamples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

# δ of the Huber loss, in log L.
HUBER = 1e-3
RESAMPLES, SHARE = 300, 0.95
_STARTS = 8  # of the grid, from which L-BFGS runs
_MOST = math.log(3.0)  # of the logarithm of an exponent
_LEAST = 1e-6  # of a direction in which the errors of a fit say nothing, as a share

Number = float | np.ndarray


class Estimate(NamedTuple):
    """A value, and the ends of its bootstrap interval of `SHARE`."""

    value: float
    low: float
    high: float


class Law:
    """log L = logsumexp(e, aⱼ − exp(bⱼ)·xⱼ), fitted; xⱼ are centred logarithms of N and D, or of C.

    Attributes:
      theta: [P] e, a₁, b₁, a₂, b₂. draws: [K, P] of resamples.
    """

    def __init__(self, columns: Sequence[np.ndarray], losses: np.ndarray, seed: int = 0):
        """Fits a law.

        Args:
          columns: J arrays [R] of positive numbers. losses: [R].
        """
        logs = np.log(np.stack(columns))  # [J, R]
        self.centre = logs.mean(axis=1, keepdims=True)
        x, y = logs - self.centre, np.log(losses)
        with threadpool_limits(1):  # in several threads, BLAS takes ten times as long for so few
            self._fit(x, y, seed)

    def _fit(self, x: np.ndarray, y: np.ndarray, seed: int) -> None:
        self.theta = _fitted(x, y, _starts(x, y))
        predicted = _log_loss(self.theta, x)
        # Residuals of a fit are smaller than the noise, by the numbers that were fitted.
        free = max(len(y) - len(self.theta), 1)
        residuals = (y - predicted) * math.sqrt(len(y) / free)
        rng = np.random.default_rng(seed)
        samples = predicted + rng.choice(residuals, (RESAMPLES, len(y)))
        self.draws = np.stack([_descended(x, sample, self.theta) for sample in samples])

    def estimate(self, function: Callable[[np.ndarray], Number]) -> Estimate:
        """A function of the numbers of a law [..., P], with its interval."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            value, drawn = float(function(self.theta)), np.asarray(function(self.draws))
        low, high = np.nanquantile(drawn, [(1 - SHARE) / 2, (1 + SHARE) / 2])
        return Estimate(value, float(min(low, value)), float(max(high, value)))

    def loss(self, *at: float) -> Estimate:
        """The predicted loss at N and D, or at C."""
        x = np.log(np.array(at))[:, None] - self.centre
        return self.estimate(lambda theta: np.exp(_log_loss(theta, x))[..., 0])

    @property
    def irreducible(self) -> Estimate:
        """E, in nats a token."""
        return self.estimate(lambda theta: np.exp(theta[..., 0]))

    def exponent(self, term: int) -> Estimate:
        """α, β or γ."""
        return self.estimate(lambda theta: _power(theta[..., 2 + 2 * term]))

    def coefficient(self, term: int) -> Estimate:
        """A, B or K."""
        return self.estimate(lambda theta: np.exp(_log_coefficient(self, theta, term)))


def optimum(law: Law, flops: float) -> tuple[Estimate, Estimate, Estimate]:
    """(N, D, loss) that a law of N and D predicts to be the best for C FLOPs, with C = 6·N·D
    (equation 4 of Hoffmann et al. 2022)."""

    def log_parameters(theta):
        a, b = (_log_coefficient(law, theta, term) for term in (0, 1))
        alpha, beta = _power(theta[..., 2]), _power(theta[..., 4])
        ratio = np.log(alpha) + a - np.log(beta) - b
        return (ratio + beta * math.log(flops / 6)) / (alpha + beta)

    def log_loss(theta):
        n = log_parameters(theta)
        x = np.stack([n - law.centre[0, 0], math.log(flops / 6) - n - law.centre[1, 0]])
        return _log_loss(theta, x[..., None])[..., 0]

    return (
        law.estimate(lambda theta: np.exp(log_parameters(theta))),
        law.estimate(lambda theta: flops / 6 / np.exp(log_parameters(theta))),
        law.estimate(lambda theta: np.exp(log_loss(theta))),
    )


def frontier(costs: Sequence[float], losses: Sequence[float]) -> list[int]:
    """The numbers of the runs with a lower loss than all that cost as much or less, by cost."""
    best, out = math.inf, []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], losses[i])):
        if losses[i] < best:
            best = losses[i]
            out.append(i)
    return out


def _log_coefficient(law: Law, theta: np.ndarray, term: int) -> np.ndarray:
    return theta[..., 1 + 2 * term] + _power(theta[..., 2 + 2 * term]) * law.centre[term, 0]


def _power(b: np.ndarray) -> np.ndarray:
    return np.exp(np.minimum(b, _MOST))


def _terms(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """[..., P], [J, ..., R] -> [1 + J, ..., R], the logarithms of the terms of a law."""
    powers = [
        theta[..., 1 + 2 * j, None] - _power(theta[..., 2 + 2 * j, None]) * x[j]
        for j in range(len(x))
    ]
    return np.stack([np.broadcast_to(theta[..., :1], powers[0].shape), *powers])


def _log_loss(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.logaddexp.reduce(_terms(theta, x), axis=0)


def _slopes(theta: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(log L [R], its derivatives [P, R]) of one law."""
    terms = _terms(theta, x)
    log_loss = np.logaddexp.reduce(terms, axis=0)
    shares = np.exp(terms - log_loss)
    rows = [shares[0]]
    for j in range(len(x)):
        rows += [shares[1 + j], -shares[1 + j] * x[j] * _power(theta[2 + 2 * j])]
    return log_loss, np.stack(rows)


def _huber(r: np.ndarray) -> np.ndarray:
    """The Huber loss of residuals, in units of δ²."""
    r = np.abs(r) / HUBER
    return np.where(r < 1, r**2 / 2, r - 0.5)


def _starts(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[S, P], those of a grid with the least error: shares of E and exponents."""
    least = y.min()
    axes: list[tuple[float, ...]] = [(0.1, 0.3, 0.6, 0.9)]
    axes += [(-3.0, -2.0, -1.0, 0.0, 1.0), (0.1, 0.25, 0.5, 1.0)] * len(x)
    grid = np.array(list(itertools.product(*axes)))
    grid[:, 0] = np.log(grid[:, 0]) + least
    grid[:, 1::2] += least
    grid[:, 2::2] = np.log(grid[:, 2::2])
    errors = _huber(_log_loss(grid, x) - y).sum(axis=-1)
    return grid[np.argsort(errors)[:_STARTS]]


def _fitted(x: np.ndarray, y: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """[P], the best of what L-BFGS finds from `starts` [S, P]."""
    tries = [_descended(x, y, start) for start in starts]
    errors = [_huber(_log_loss(theta, x) - y).sum() for theta in tries]
    return _descended(x, y, tries[int(np.argmin(errors))])


def _descended(x: np.ndarray, y: np.ndarray, start: np.ndarray) -> np.ndarray:
    """[P], where L-BFGS ends. It runs in coordinates in which the errors of all numbers are about
    as large: in their own, the coefficient and the exponent of a term are nearly one."""
    _, slopes = _slopes(start, x)
    sizes, axes = np.linalg.eigh(slopes @ slopes.T)
    scale = axes / np.sqrt(sizes + _LEAST * sizes[-1])

    def error(z):
        predicted, slopes = _slopes(start + scale @ z, x)
        pull = np.clip((predicted - y) / HUBER, -1, 1) / HUBER
        return _huber(predicted - y).sum(), scale.T @ (slopes @ pull)

    options = dict(maxiter=100, maxfun=200, ftol=1e-10, gtol=1e-5)
    return start + scale @ minimize(error, np.zeros_like(start), jac=True, method="L-BFGS-B",
                                    options=options).x  # fmt: skip
