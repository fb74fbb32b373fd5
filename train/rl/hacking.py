"""Warning signs of reward hacking: much longer or shorter answers, repetition, and a collapse of
the policy's entropy. They are warnings, not proofs.

Axes: B answers, R response length.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from train.rl.advantages import ROUNDING

NGRAM = 4


def repetition(ids: jax.Array, mask: jax.Array) -> jax.Array:
    """Share of each answer's n-grams (n = 4) that repeat earlier ones in it, [B] float32.

    Args:
      ids: [B, R] int32; mask: [B, R], 1 through and including the last token.
    """
    valid = (mask > 0) & (jnp.arange(ids.shape[1]) >= NGRAM - 1)
    key = jnp.zeros(ids.shape, jnp.uint32)
    for back in range(NGRAM):  # a 32-bit hash of the n-gram that ends at each token
        shifted = jnp.pad(ids, ((0, 0), (back, 0)))[:, : ids.shape[1]]
        key = key * jnp.uint32(2654435761) + shifted.astype(jnp.uint32) + 1
    invalid, key = jax.lax.sort(((~valid).astype(jnp.int32), key), dimension=1, num_keys=2)
    repeated = (key[:, 1:] == key[:, :-1]) & (invalid[:, 1:] == 0)
    return jnp.sum(repeated, axis=1) / jnp.maximum(jnp.sum(valid, axis=1), 1)


def signs(first: Mapping[str, float], current: Mapping[str, float]) -> dict[str, str]:
    """{sign: warning} of the metrics that have changed suspiciously since the first rollout.

    Args:
      first, current: {`length`, `repetition`, `entropy`}, means over the first rollout and over the
        current one.
    """
    warnings = {}
    length = current["length"] / max(first["length"], 1.0)
    if not 0.5 <= length <= 2:
        warnings["length"] = f"answers are {length:.1f} times as long as at the start"
    if current["repetition"] > first["repetition"] + 0.2:
        warnings["repetition"] = (
            f"{current['repetition']:.0%} of the answers' 4-grams repeat earlier ones "
            f"({first['repetition']:.0%} at the start)"
        )
    if current["entropy"] < 0.25 * first["entropy"]:
        warnings["entropy"] = (
            f"the policy's entropy is {current['entropy']:.2f} nats a token "
            f"({first['entropy']:.2f} at the start)"
        )
    return warnings


def no_lesson(metrics: Mapping[str, float]) -> dict[str, str]:
    """{`scores`: warning} if all answers that a rollout compares have the same score, so that there
    is nothing to learn; else empty.

    Args:
      metrics: the rollout's `score`, `score_std` and, if it has groups, `equal_groups`.
    """
    if "equal_groups" in metrics:
        answers, equal = "the answers to each prompt", metrics["equal_groups"] == 1
    else:
        answers, equal = "all answers", metrics["score_std"] <= ROUNDING * abs(metrics["score"])
    text = f"{answers} of a rollout have the same score: there is nothing to learn"
    return {"scores": text} if equal else {}
