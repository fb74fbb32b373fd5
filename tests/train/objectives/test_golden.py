"""Losses and advantages against what independent libraries compute (tests/golden/README.md)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.vocabulary import entropy, log_probs
from train import losses
from train.objectives.dpo import pair_loss
from train.rl import advantages as adv

GOLDEN = np.load(Path(__file__).resolve().parents[2] / "golden" / "rlhf.npz")
IN = {name[3:]: GOLDEN[name] for name in GOLDEN if name.startswith("in/")}
MASK = IN["mask"]


def policy_loss(i, **options):
    args = i["new_lp"], i["old_lp"], i["adv"], i["mask"]
    return losses.ppo_policy_loss(*args, clip_low=0.2, clip_high=0.2, **options)


def mean_policy_loss(i, **options):
    total, weight, _ = policy_loss(i, **options)
    return total / weight


def clip_fraction(i):
    _, weight, metrics = policy_loss(i)
    return metrics["clip_fraction"] / weight


def value_loss(i):
    total, weight = losses.value_loss(i["vpred"], i["values"], i["ret"], i["mask"], clip=0.2)
    return total / weight


def bradley_terry(i, **options):
    rewards = jnp.stack([i["rc"], i["rr"]], axis=1)
    rank = jnp.tile(jnp.array([0, 1]), (len(rewards), 1))
    total, weight = losses.bradley_terry(rewards, rank, 0 * rank, **options)
    return total / weight


def bradley_terry_margins(i):
    """The margin is one number a call, so row by row."""
    rows = [{k: v[j : j + 1] for k, v in i.items()} for j in range(len(i["rc"]))]
    return jnp.mean(jnp.array([bradley_terry(r, margin=r["margin"][0]) for r in rows]))


def gae(i):
    return adv.gae(i["rew"], i["values"], i["mask"], gamma=0.99, lam=0.95)


def token_rewards(i):
    kl = losses.kl_estimate(i["old_lp"], i["ref_lp"], "k1")
    return adv.token_rewards(i["scores"], kl, i["mask"], 0.1)


def adaptive_kl(i):
    coef = 0.2
    for kl in (1.0, 20.0, 6.5):
        coef = adv.adaptive_kl(coef, kl, target=6, horizon=10_000, n=512)
    return coef


def dpo(i):
    """The first four of eight rows are chosen, the others rejected."""

    def answers(logits):
        logps = log_probs(logits[:, :-1], i["dpo_ids"][:, 1:], 1.0) * i["dpo_cm"][:, 1:]
        return jnp.sum(logps, axis=1).reshape(2, 4).T

    implicit = 0.1 * (answers(i["dpo_pol"]) - answers(i["dpo_ref"]))
    rank = jnp.tile(jnp.array([0, 1]), (4, 1))
    total, weight = pair_loss(implicit, rank, 0 * rank, 0.1, "sigmoid", 0.0)
    return total / weight


def group_loss(i, mean, beta=0.0):
    """GRPO's: one advantage a sequence, k3 in the loss."""
    weights, count = losses.token_weights(i["mask"], mean)
    advantages = jnp.broadcast_to(i["adv"][:, :1], i["adv"].shape)
    args = i["new_lp"], i["old_lp"], advantages, weights
    total, _, _ = losses.ppo_policy_loss(*args, clip_low=0.2, clip_high=0.2)
    kl = losses.kl_estimate(i["new_lp"], i["ref_lp"], "k3")
    return (total + beta * losses.masked_sum(kl, weights)) / count


def whiten_biased(i):
    """Variance with n where ours has n - 1, and no epsilon."""
    n = jnp.sum(i["mask"])
    return adv.whiten(i["adv"], i["mask"], epsilon=0.0) * jnp.sqrt(n / (n - 1))


COMPUTED = {
    "logprob_t0.7": lambda i: log_probs(i["logits"], i["ids"], 0.7),
    "entropy": lambda i: entropy(i["logits"]),
    "kl_k1": lambda i: losses.kl_estimate(i["new_lp"], i["ref_lp"], "k1"),
    "kl_k2": lambda i: losses.kl_estimate(i["new_lp"], i["ref_lp"], "k2"),
    "kl_k3": lambda i: losses.kl_estimate(i["new_lp"], i["ref_lp"], "k3"),
    "token_rewards": token_rewards,
    "gae_advantages_raw": lambda i: gae(i)[0],
    "gae_returns": lambda i: gae(i)[1],
    "gae_advantages_whitened": lambda i: adv.whiten(gae(i)[0], i["mask"]),
    "whiten_bessel": lambda i: adv.whiten(i["adv"], i["mask"]),
    "whiten_noshift_bessel": lambda i: adv.whiten(i["adv"], i["mask"], shift_mean=False),
    "ppo_policy_loss": mean_policy_loss,
    "ppo_policy_loss_dual3": lambda i: mean_policy_loss(i, dual=3.0),
    "ppo_clip_fraction": clip_fraction,
    "value_loss": value_loss,
    "reward_bt": bradley_terry,
    "reward_bt_margin": bradley_terry_margins,
    "reward_bt_centered0.01": lambda i: bradley_terry(i, center=0.01),
    "adaptive_kl": adaptive_kl,
    "dpo_beta0.1": dpo,
    "grpo_loss_beta0.04": lambda i: group_loss(i, "sequence", beta=0.04),
    "drgrpo_loss": lambda i: group_loss(i, "constant"),
    "group_advantages": lambda i: adv.group_advantages(i["grp"], 4, "mean", "std"),
    "kl_k3_clamp10": lambda i: losses.kl_estimate(i["new_lp"], i["ref_lp"], "k3").clip(-10, 10),
    "whiten_biased": whiten_biased,
}


@pytest.fixture(scope="module")
def ours():
    def compute(inputs):
        return {name: function(inputs) for name, function in COMPUTED.items()}

    return jax.jit(compute)({k: jnp.asarray(v) for k, v in IN.items()})


@pytest.mark.parametrize("name", COMPUTED)
def test_golden_value(ours, name):
    np.testing.assert_allclose(ours[name], GOLDEN[f"out/{name}"], atol=1e-5, rtol=0)


def test_every_golden_value_is_compared():
    assert {f"out/{n}" for n in COMPUTED} == {n for n in GOLDEN if n[:4] == "out/"}


def test_the_inputs_can_tell_formulas_apart():
    """Masked inputs are not 0, some tokens clip, and the dual clip and the margins matter."""
    assert np.all(IN["adv"][MASK == 0] != 0)
    out = {n[4:]: GOLDEN[n] for n in GOLDEN}
    assert 0 < out["ppo_clip_fraction"] < 1
    assert abs(out["ppo_policy_loss"] - out["ppo_policy_loss_dual3"]) > 1e-3
    assert abs(out["reward_bt"] - out["reward_bt_margin"]) > 1e-3
