"""The gradient noise scale (McCandlish et al. 2018, arXiv:1812.06162, appendix A.1).

It is about the number of rows, as in `data.batch_size`, beyond which a larger batch helps little.
A step of several microbatches has the gradient at two batch sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

# The weight of the earlier records in the averages of signal and trace.
DECAY = 0.9


def estimates(micro: jax.Array, whole: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
    """Unbiased estimates of |G|² and tr Σ: the squared norm of the true gradient, and the trace of
    the covariance of a row's gradient.

    Args:
      micro: [n] squared norms of the microbatches' summands gᵢ of the gradient Σ gᵢ; n·gᵢ is the
        gradient of the mean over microbatch i, if microbatches have about the same weight.
      whole: |Σ gᵢ|². rows: B, of all n microbatches together.
    """
    count = micro.shape[0]
    big, small = rows, rows / count
    small_square = count * jnp.sum(micro)  # the mean of |n·gᵢ|²
    signal = (big * whole - small * small_square) / (big - small)
    trace = (small_square - whole) / (1 / small - 1 / big)
    return signal, trace


class NoiseScale:
    """Moving averages of |G|² and tr Σ over the records of a run. Their ratio is the noise scale; a
    ratio of single estimates would be biased, and jump.

    Args:
      saved: `notes()` of a checkpoint, or nothing.
    """

    def __init__(self, saved: Mapping[str, Any]):
        self._averages = {name: list(pair) for name, pair in saved.items()}

    def notes(self) -> dict[str, list[float]]:
        """The averages, for a checkpoint's meta."""
        return {name: list(pair) for name, pair in self._averages.items()}

    def add(self, values: Mapping[str, float]) -> dict[str, float]:
        """{`noise_scale`: the noise scale, in rows} after a record with `noise_signal` and
        `noise_trace`, for each trained model; without it while the signal is not positive."""
        scales = {}
        for name in [name for name in values if name.endswith("noise_signal")]:
            prefix = name.removesuffix("noise_signal")
            new = values[name], values[f"{prefix}noise_trace"]
            if not all(map(math.isfinite, new)):
                continue
            old = self._averages.get(prefix, new)
            pair = [DECAY * a + (1 - DECAY) * b for a, b in zip(old, new)]
            self._averages[prefix] = pair
            if pair[0] > 0:
                scales[f"{prefix}noise_scale"] = pair[1] / pair[0]
        return scales
