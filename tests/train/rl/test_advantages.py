"""Advantages: recursions against loops, poison behind masks, and the adaptive coefficient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.rl import advantages as adv

MASK = np.array(
    [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0]], np.float32
)
B, R = MASK.shape
LAST = [5, 2, 0, 3]


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(1)
    x = {n: rng.normal(size=(B, R)).astype(np.float32) for n in ("kl", "values", "rewards")}
    return x | {"scores": np.array([0.7, -1.3, 2.1, 0.2], np.float32)}


def test_the_score_lands_on_the_last_valid_token(inputs):
    """Float scores stay fractions, and nothing lands on padding."""
    rewards = np.asarray(adv.token_rewards(inputs["scores"], inputs["kl"], MASK, 0.0))
    expected = np.zeros((B, R), np.float32)
    expected[range(B), LAST] = inputs["scores"]
    np.testing.assert_array_equal(rewards, expected)
    rewards = np.asarray(adv.token_rewards(inputs["scores"], inputs["kl"], MASK, 0.3))
    np.testing.assert_allclose(rewards, expected - 0.3 * inputs["kl"] * MASK, rtol=1e-6)


def test_integer_scores_and_masks_give_float_rewards(inputs):
    rewards = adv.token_rewards(jnp.array([1, 2, 3, 4]), inputs["kl"], MASK.astype(bool), 0.5)
    assert rewards.dtype == jnp.float32


@pytest.mark.parametrize("bootstrapped", [False, True])
def test_gae_is_the_double_sum_of_its_definition(inputs, bootstrapped):
    """A_t = Σ_k (γλ)^k δ_{t+k} up to the last valid token; the recursion is not repeated here."""
    gamma, lam = 0.9, 0.8
    after = np.array([0.5, 0.0, -1.0, 2.0]) if bootstrapped else np.zeros(B)
    expected = np.zeros((B, R))
    for b in range(B):
        n = int(MASK[b].sum())
        values = [*inputs["values"][b, :n].astype(float), after[b]]
        for t in range(n):
            for k in range(n - t):
                delta = inputs["rewards"][b, t + k] + gamma * values[t + k + 1] - values[t + k]
                expected[b, t] += (gamma * lam) ** k * delta
    bootstrap = jnp.asarray(after) if bootstrapped else None
    advantages, returns = adv.gae(inputs["rewards"], inputs["values"], MASK, gamma, lam, bootstrap)
    np.testing.assert_allclose(advantages, expected, atol=1e-5)
    np.testing.assert_allclose(returns, (expected + inputs["values"]) * MASK, atol=1e-5)


def test_gae_at_lambda_one_is_the_discounted_return(inputs):
    """For any values."""
    _, returns = adv.gae(inputs["rewards"], inputs["values"], MASK, 0.9, 1.0)
    for b, last in enumerate(LAST):
        expected = sum(0.9**t * inputs["rewards"][b, t] for t in range(last + 1))
        np.testing.assert_allclose(returns[b, 0], expected, atol=1e-5)


@pytest.mark.parametrize("poison", [1e30, np.nan, np.inf])
def test_poison_behind_the_mask_changes_nothing(inputs, poison):
    def everything(x):
        rewards = adv.token_rewards(x["scores"], x["kl"], MASK, 0.1)
        advantages, returns = adv.gae(x["rewards"], x["values"], MASK, 0.99, 0.95)
        return rewards, advantages, returns, adv.whiten(x["rewards"], MASK)

    poisoned = {
        k: v if k == "scores" else np.where(MASK > 0, v, np.float32(poison))
        for k, v in inputs.items()
    }
    clean, dirty = everything(inputs), everything(poisoned)
    jax.tree.map(np.testing.assert_array_equal, dirty, clean)
    assert all(np.all(np.asarray(x)[MASK == 0] == 0) for x in clean)


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitened_advantages_have_std_one_over_valid_tokens(inputs, shift_mean):
    x = inputs["rewards"] * 3 + 5
    white = np.asarray(adv.whiten(x, MASK, shift_mean))[MASK > 0]
    np.testing.assert_allclose(white.std(ddof=1), 1, rtol=1e-5)
    np.testing.assert_allclose(white.mean(), 0 if shift_mean else x[MASK > 0].mean(), atol=1e-5)


def test_whitening_one_valid_entry_gives_zero():
    mask = np.zeros((2, 3), np.float32)
    mask[0, 0] = 1
    np.testing.assert_array_equal(adv.whiten(np.full((2, 3), 7.0, np.float32), mask), 0)


@pytest.mark.parametrize("value", [0.7, 1 / 3, 1e-20, 1e20, -123.456, 0.1 + 0.2])
@pytest.mark.parametrize("scale", ["std", "none"])
@pytest.mark.parametrize("baseline", ["mean", "others"])
def test_equal_rewards_have_no_advantage_at_all(value, scale, baseline):
    groups = jnp.full(3 * 8, value, jnp.float32)
    assert not np.any(adv.group_advantages(groups, 8, baseline, scale))
    rounded = groups.at[3].set(np.nextafter(np.float32(value), np.float32(np.inf)))
    assert not np.any(adv.group_advantages(rounded, 8, baseline, scale))
    assert not np.any(adv.whiten(jnp.full((B, R), value, jnp.float32), MASK))
    assert not adv.varies(groups, True) and adv.varies(groups.at[3].multiply(1.001), True)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_moments_of_numbers_of_any_size(size):
    x = np.array([1.0, 2.0, 4.0, 7.0], np.float32)
    mean, std = adv.moments(jnp.asarray(x * np.float32(size)), True)
    np.testing.assert_allclose([mean / size, std / size], [x.mean(), x.std(ddof=1)], rtol=1e-5)
    mean, std = adv.moments(jnp.asarray(x), jnp.array([True, False, True, False]))
    np.testing.assert_allclose([mean, std], [2.5, x[::2].std(ddof=1)], rtol=1e-6)
    mean, std = adv.moments(jnp.asarray(x), jnp.zeros(4, bool))
    assert (mean, std) == (0, 0)


def test_adaptive_kl_moves_towards_the_target_and_is_clipped():
    """β(1 + clip(KL/target - 1, ±0.2)·n/horizon)."""
    step = 512 / 10_000
    for kl, error in [(6.0, 0.0), (6.6, 0.1), (5.4, -0.1), (60.0, 0.2), (0.0, -0.2)]:
        np.testing.assert_allclose(
            adv.adaptive_kl(0.3, kl, target=6, horizon=10_000, n=512),
            0.3 * (1 + error * step),
            rtol=1e-6,
        )


def test_last_token_of_each_row():
    np.testing.assert_array_equal(np.argmax(adv.last_token(MASK), axis=1), LAST)
    np.testing.assert_array_equal(adv.last_token(MASK).sum(axis=1), 1)
    np.testing.assert_array_equal(adv.last_token(np.zeros((1, R))), np.zeros((1, R)))
