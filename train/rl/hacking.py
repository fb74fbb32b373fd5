"""Signs that a policy games its reward rather than answers better: much longer or shorter answers,
repetition, a policy that has all but one thing to say. They are warnings, not proofs.

Axes: B answers, R response length.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from train.rl.advantages import EQUAL

NGRAM = 4


def repetition(ids, mask):
    """Share of each answer's n-grams (n = 4) that stand in it before, [B] float32.

    Args:
      ids: [B, R] int32; mask: [B, R], 1 through and including the last token.
    """
    valid = (mask > 0) & (jnp.arange(ids.shape[1]) >= NGRAM - 1)
    key = jnp.zeros(ids.shape, jnp.uint32)
    for back in range(NGRAM):  # a 32-bit hash of the n-gram that ends at each token
        shifted = jnp.pad(ids, ((0, 0), (back, 0)))[:, : ids.shape[1]]
        key = key * jnp.uint32(2654435761) + shifted.astype(jnp.uint32) + 1
    invalid, key = jax.lax.sort(((~valid).astype(jnp.int32), key), dimension=1, num_keys=2)
    again = (key[:, 1:] == key[:, :-1]) & (invalid[:, 1:] == 0)
    return jnp.sum(again, axis=1) / jnp.maximum(jnp.sum(valid, axis=1), 1)


def signs(first, now) -> dict[str, str]:
    """{what: text} of what stands out.

    Args:
      first, now: {`length`, `repetition`, `entropy`}, means of the first rollout and of this one.
    """
    found = {}
    length = now["length"] / max(first["length"], 1.0)
    if not 0.5 <= length <= 2:
        found["length"] = f"answers are {length:.1f} times as long as at the start"
    if now["repetition"] > first["repetition"] + 0.2:
        found["repetition"] = (
            f"{now['repetition']:.0%} of the answers' 4-grams repeat earlier ones "
            f"({first['repetition']:.0%} at the start)"
        )
    if now["entropy"] < 0.25 * first["entropy"]:
        found["entropy"] = (
            f"the policy's entropy is {now['entropy']:.2f} nats a token "
            f"({first['entropy']:.2f} at the start)"
        )
    return found


def no_lesson(metrics) -> dict[str, str]:
    """{`scores`: text} of a rollout in which no answer was better than another it is compared with.

    Args:
      metrics: of the rollout: `score`, `score_std`, and `equal_groups` where there are groups.
    """
    if "equal_groups" in metrics:
        which, equal = "the answers to each prompt", metrics["equal_groups"] == 1
    else:
        which, equal = "all answers", metrics["score_std"] <= EQUAL * abs(metrics["score"])
    text = f"{which} of a rollout have the same score: there is nothing to learn"
    return {"scores": text} if equal else {}
