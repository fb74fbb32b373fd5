"""Four episodes of a tiny model for tests of experience: two end early, one at the last token, one
is cut off.

Axes: B episodes, P prompt length (left padded), R response length.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from data.text.builtin import EOS, PAD
from model.config import TransformerConfig
from train.config.rl import RLConfig
from train.objectives import grpo as grpo_
from train.objectives import ppo as ppo_
from train.objectives.grpo import GRPOConfig
from train.objectives.ppo import PPOConfig
from train.rl.experience import make_experience
from train.rl.sampler import place

CONFIG = TransformerConfig(
    vocab_size=24, embed_dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8,
    mlp_dim=24, vocab_multiple=16, max_length=32,
)  # fmt: skip
P, R = 5, 6
PROMPT_LENGTHS = np.array([5, 2, 3, 1])
RESPONSE_LENGTHS = np.array([6, 3, 1, 6])
ENDED = np.array([True, True, True, False])
B = len(PROMPT_LENGTHS)
SCORES = np.array([0.7, -1.3, 2.1, 0.25], np.float32)


def settings(**options: Any) -> tuple[RLConfig, PPOConfig]:
    """(RLConfig, PPOConfig) for these episodes, each with the options that are its fields."""
    options = dict(
        prompt_length=P, response_length=R, rollout_batch=B, gamma=0.5, lam=1.0, kl_coef=0.1,
        whiten_advantages=False, normalize_scores=False,
    ) | options  # fmt: skip
    shared = {f.name for f in dataclasses.fields(RLConfig)}
    rl = RLConfig(**{k: v for k, v in options.items() if k in shared})
    return rl, PPOConfig(**{k: v for k, v in options.items() if k not in shared})


def random_params(model: nn.Module, seed: int) -> Any:
    """Parameters away from their initial values, heads and norms included."""
    rng = np.random.default_rng(seed)
    tokens = jnp.zeros((1, 2), jnp.int32)
    shapes = nn.unbox(jax.eval_shape(lambda: model.init(jax.random.key(0), tokens)))["params"]
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.5, x.shape), x.dtype), shapes)


def make_batch() -> dict[str, jax.Array]:
    """The episodes as a sampler returns them; padding holds arbitrary ids."""
    rng = np.random.default_rng(0)
    prompt_mask = np.arange(P) >= P - PROMPT_LENGTHS[:, None]
    response_mask = (np.arange(R) < RESPONSE_LENGTHS[:, None]).astype(np.float32)
    tokens = rng.integers(7, CONFIG.vocab_size, (B, P + R)).astype(np.int32)
    for b in range(B):
        tokens[b, P + RESPONSE_LENGTHS[b] :] = PAD
        if ENDED[b]:
            tokens[b, P + RESPONSE_LENGTHS[b] - 1] = EOS
    positions, segment_ids = place(jnp.asarray(tokens), prompt_mask, response_mask)
    return {
        "tokens": jnp.asarray(tokens),
        "positions": positions,
        "segment_ids": segment_ids,
        "response_mask": jnp.asarray(response_mask),
        "sampler_logprobs": jnp.zeros((B, R)),
    }


MASK = np.arange(R) < RESPONSE_LENGTHS[:, None]
LAST = RESPONSE_LENGTHS - 1


def scalars(
    number: int = 0, kl_coef: float = 0.1, gain: float = 1.0, bias: float = 0.0
) -> dict[str, np.ndarray]:
    s = {"rollout": np.int32(number), "kl_coef": kl_coef, "gain": gain, "bias": bias}
    return {k: np.asarray(v, np.int32 if k == "rollout" else np.float32) for k, v in s.items()}


def make(
    batch: dict,
    roles: dict,
    options: Any = (),
    s: dict | None = None,
    scores: np.ndarray = SCORES,
    train_policy: bool = True,
    batch_size: int = B,
    jit: Callable = jax.jit,
    grpo: GRPOConfig | None = None,
    normalizer: Any = None,
) -> tuple:
    """Calls make_experience as the source does: (experience, scalars, metrics) as numpy.

    Args:
      options: of `settings`.
    """
    rl, ppo = settings(**dict(options))
    ctx = SimpleNamespace(
        config=SimpleNamespace(
            rl=rl,
            ppo=ppo,
            grpo=grpo or GRPOConfig(group_size=2),
            data=SimpleNamespace(batch_size=batch_size),
            loss=SimpleNamespace(chunk=0),
        ),
        models=dict.fromkeys(("policy", "value", "reference"), CONFIG),
        tokenizer=SimpleNamespace(stop_ids=(EOS,)),
        normalizer=normalizer,
    )
    advantages_of = partial(ppo_.advantages, ppo)
    if not {"value", "value_head"} & roles.keys():
        advantages_of = partial(grpo_.advantages, ctx.config.grpo)
    function = jit(partial(make_experience, ctx, advantages_of))
    s = s or scalars(kl_coef=rl.kl_coef)
    kept = ("policy", "value", "value_head", "reference")
    roles = {n: roles[n] for n in kept if n in roles}
    return jax.device_get(function(roles, batch, jnp.asarray(scores), s, np.bool_(train_policy)))
