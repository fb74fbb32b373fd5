"""Losses: poison behind masks, identities, and loops in plain Python."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.layers.moe import RouterStats
from model.vocabulary import log_probs
from train import losses
from train.config import run as configs

POISONS = [1e30, -1e30, np.nan, np.inf]
B, R, V, C = 3, 5, 11, 4
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], np.float32)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def response(rng):
    """Per-token arrays of a PPO batch."""
    names = ("logprobs", "old", "advantages", "values", "old_values", "returns")
    return {n: rng.normal(size=(B, R)).astype(np.float32) for n in names}


def policy(x, **options):
    args = x["logprobs"], x["old"], x["advantages"], MASK
    return losses.ppo_policy_loss(*args, clip_low=0.2, clip_high=0.2, **options)


def ppo_total(x):
    total, _, metrics = policy(x, dual=3.0)
    value, _ = losses.value_loss(x["values"], x["old_values"], x["returns"], MASK, 0.2)
    return total + value, metrics


ppo_gradient = jax.jit(jax.value_and_grad(ppo_total, has_aux=True))


@pytest.mark.parametrize("poison", POISONS)
def test_poison_behind_the_mask_changes_neither_ppo_losses_nor_gradients(response, poison):
    clean, clean_grads = ppo_gradient(response)
    poisoned = {k: np.where(MASK > 0, v, np.float32(poison)) for k, v in response.items()}
    dirty, dirty_grads = ppo_gradient(poisoned)
    jax.tree.map(np.testing.assert_array_equal, dirty, clean)
    jax.tree.map(np.testing.assert_array_equal, dirty_grads, clean_grads)
    assert all(np.all(np.asarray(g)[MASK == 0] == 0) for g in clean_grads.values())
    assert all(np.any(np.asarray(clean_grads[n]) != 0) for n in ("logprobs", "values"))


@pytest.mark.parametrize("poison", POISONS)
def test_poison_behind_the_mask_does_not_reach_the_next_token_loss(rng, poison):
    tokens = rng.integers(0, V, (B, R)).astype(np.int32)
    logits = rng.normal(size=(B, R, V)).astype(np.float32)
    loss_mask = np.roll(MASK, 1, axis=1)  # a prompt, some answer, and padding
    used = np.append(loss_mask[:, 1:], np.zeros((B, 1)), axis=1)[..., None] > 0
    poisoned = np.where(used, logits, np.float32(poison))

    def total(x):
        sums = losses.next_token_loss(x, tokens, loss_mask, z_loss=1e-3)
        return sums[0], sums

    gradient = jax.value_and_grad(total, has_aux=True)
    (_, clean), clean_grads = gradient(logits)
    (_, dirty), dirty_grads = gradient(poisoned)
    np.testing.assert_array_equal(dirty, clean)
    np.testing.assert_array_equal(dirty_grads, clean_grads)


@pytest.mark.parametrize("poison", POISONS)
def test_a_masked_sum_passes_over_poison(response, poison):
    x = np.where(MASK > 0, response["logprobs"], np.float32(poison))
    value, gradient = jax.value_and_grad(losses.masked_sum)(x, 2 * MASK)
    np.testing.assert_allclose(value, 2 * np.sum(response["logprobs"][MASK > 0]), rtol=1e-5)
    np.testing.assert_array_equal(gradient, 2 * MASK)


@pytest.mark.parametrize("poison", POISONS)
def test_poison_in_an_absent_candidate_does_not_reach_the_reward_loss(rng, poison):
    rank = np.array([[0, 1, 2, 3], [1, 0, -1, -1], [0, 0, 1, -1]])
    rewards = rng.normal(size=rank.shape).astype(np.float32)
    poisoned = np.where(rank >= 0, rewards, np.float32(poison))
    gradient = jax.value_and_grad(lambda r: losses.bradley_terry(r, rank, 0 * rank, 0.1, 0.01)[0])
    jax.tree.map(np.testing.assert_array_equal, gradient(poisoned), gradient(rewards))


def test_next_token_loss_is_the_loop_over_tokens(rng):
    tokens = rng.integers(0, V, (B, R))
    logits = rng.normal(size=(B, R, V)) * 2
    mask = rng.integers(0, 3, (B, R)).astype(np.float32)  # weights, not only 0 and 1
    nats, squares, weight = 0.0, 0.0, 0.0
    for b in range(B):
        for t in range(1, R):
            z = math.log(sum(math.exp(x) for x in logits[b, t - 1]))
            nats += mask[b, t] * (z - logits[b, t - 1, tokens[b, t]])
            squares += mask[b, t] * z**2
            weight += mask[b, t]
    got = losses.next_token_loss(jnp.asarray(logits), jnp.asarray(tokens), mask, z_loss=0.01)
    np.testing.assert_allclose(got, (nats + 0.01 * squares, nats, weight), rtol=1e-5)
    plain, same, _ = losses.next_token_loss(jnp.asarray(logits), jnp.asarray(tokens), mask)
    assert plain == same


@pytest.mark.parametrize("margin,center", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.1), (0.3, 0.05)])
def test_bradley_terry_is_the_double_loop_over_candidates(rng, margin, center):
    """K-way rankings with ties, two rankings in a row, rows with fewer candidates than C, and
    candidates alone in theirs."""
    rank = np.array([[3, 0, 2, 1], [0, 1, 1, 0], [1, -1, 0, -1], [0, 0, 0, 0], [-1, 1, 0, 0]])
    group = np.array([[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 2]])
    rewards = rng.normal(size=rank.shape) * 3
    total, count = 0.0, 0
    for r, k, g in zip(rewards, rank, group, strict=True):
        for i in range(C):
            for j in range(C):
                if 0 <= k[i] < k[j] and g[i] == g[j]:
                    total += math.log1p(math.exp(-(r[i] - r[j] - margin)))
                    total += center * (r[i] + r[j]) ** 2
                    count += 1
    assert count == 6 + 2 + 1
    total += sum(math.log1p(math.exp(x)) for x in (rewards[4, 1], -rewards[4, 2], -rewards[4, 3]))
    count += 3
    got = losses.bradley_terry(jnp.asarray(rewards), jnp.asarray(rank), group, margin, center)
    np.testing.assert_allclose(got, (total, count), rtol=1e-5)


def test_bradley_terry_with_doubtful_labels_and_ties(rng):
    """Targets of 0.9 for a pair and ½ for a tie, which weighs 0.4; with a margin and centering."""
    rank = np.array([[3, 0, 0, 1], [0, 1, 1, 0], [1, -1, -1, 0]])
    group = np.array([[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]])
    rewards = rng.normal(size=rank.shape) * 3
    total = weight = 0.0

    def nats(logit, target):
        p = 1 / (1 + math.exp(-logit))
        return -target * math.log(p) - (1 - target) * math.log(1 - p)

    for r, k, g in zip(rewards, rank, group, strict=True):
        for i in range(C):
            for j in range(C):
                if k[i] < 0 or k[j] < 0 or g[i] != g[j]:
                    continue
                extra = 0.05 * (r[i] + r[j]) ** 2
                if k[i] < k[j]:
                    total += nats(r[i] - r[j] - 0.3, 0.9) + extra
                    weight += 1
                elif k[i] == k[j] and i < j:
                    total += 0.4 * (nats(r[i] - r[j], 0.5) + extra)
                    weight += 0.4
    np.testing.assert_allclose(weight, 8 + 0.4)
    args = jnp.asarray(rewards), rank, group, 0.3, 0.05, 0.1, 0.4
    np.testing.assert_allclose(losses.bradley_terry(*args), (total, weight), rtol=1e-5)


def test_soft_labels_are_the_mean_over_what_the_label_may_be(rng):
    """A ranking that is right with 0.7 costs 0.7 times it and 0.3 times its reverse, an answer that
    is good with 0.8 likewise; of two sources of doubt a label is wrong if one of them turned it."""
    rank = np.array([[0, 1, 0], [1, 0, 1]])
    group = np.array([[0, 0, 1], [0, 0, 1]])  # a pair and an answer alone
    doubt = np.array([[0.3, 0.3, 0.2], [0.0, 0.0, 0.5]], np.float32)
    rewards = rng.normal(size=rank.shape)

    def cost(x, wrong):
        return (1 - wrong) * math.log1p(math.exp(-x)) + wrong * math.log1p(math.exp(x))

    for share in (0.0, 0.1):
        total = 0.0
        for r, k, d in zip(rewards, rank, doubt, strict=True):
            pair, alone = (share * (1 - x) + (1 - share) * x for x in (d[0], d[2]))
            total += cost((r[0] - r[1]) * (1 if k[0] < k[1] else -1), pair)
            total += cost(r[2] * (1 if k[2] == 0 else -1), alone)
        noise = losses.label_noise(share, doubt)
        got = losses.bradley_terry(jnp.asarray(rewards), rank, group, smoothing=noise)
        np.testing.assert_allclose(got, (total, 4), rtol=1e-6)


def test_k3_is_never_negative():
    """exp(d) - d - 1 would be, by cancellation."""
    tiny = np.geomspace(1e-12, 1e-2, 4000)
    wide = np.linspace(-30, 30, 4001)
    d = np.concatenate([tiny, -tiny, wide]).astype(np.float32)
    for estimate in (losses.kl_estimate, jax.jit(losses.kl_estimate, static_argnums=2)):
        k3 = np.asarray(estimate(d, np.zeros_like(d), "k3"))
        assert np.all(k3 >= 0)
        assert k3[wide.size // 2 + 2 * tiny.size] == 0
    near = np.array([1e-2, -1e-2, 1e-3], np.float32)
    np.testing.assert_allclose(
        losses.kl_estimate(near, 0 * near, "k3"), near**2 / 2 - near**3 / 6, rtol=1e-3
    )


def test_an_unknown_kl_estimator_is_an_error():
    with pytest.raises(ValueError, match=r"k4.*choose k1, k2 or k3"):
        losses.kl_estimate(jnp.zeros(1), jnp.zeros(1), "k4")


def test_equal_logprobs_give_ratio_one_and_clip_nothing(response):
    x = response | {"old": response["logprobs"]}
    total, weight, metrics = policy(x)
    assert metrics["ratio"] == weight == MASK.sum()
    assert metrics["clip_fraction"] == 0
    assert metrics["approx_kl"] == 0
    np.testing.assert_allclose(total, -np.sum(x["advantages"] * MASK), rtol=1e-6)


def test_policy_gradient_vanishes_only_where_clipping_binds():
    """Clipping to [0.9, 1.3]: A > 0 binds above, A < 0 binds below."""
    old = jnp.zeros((1, 6))
    ratio = jnp.array([[1.25, 1.35, 0.85, 1.35, 0.85, 0.95]])
    advantages = jnp.array([[1.0, 1.0, 1.0, -1.0, -1.0, -1.0]])

    def loss(logprobs):
        return losses.ppo_policy_loss(
            logprobs, old, advantages, jnp.ones((1, 6)), clip_low=0.1, clip_high=0.3
        )[0]

    expected = [[-1.25, 0, -0.85, 1.35, 0, 0.95]]
    np.testing.assert_allclose(jax.grad(loss)(jnp.log(ratio)), expected, rtol=1e-5)


def test_a_runaway_ratio_is_finite():
    total, _, _ = losses.ppo_policy_loss(
        jnp.full((1, 1), 500.0), jnp.zeros((1, 1)), -jnp.ones((1, 1)), jnp.ones((1, 1)), 0.2, 0.2
    )
    np.testing.assert_allclose(total, math.exp(losses.MAX_LOG_RATIO), rtol=1e-5)


def test_dual_clip_bounds_the_loss_at_negative_advantages(response):
    x = response | {"advantages": -jnp.abs(response["advantages"])}
    far = x | {"logprobs": x["old"] + 5.0}
    total, _, _ = policy(far, dual=3.0)
    np.testing.assert_allclose(total, -3 * np.sum(x["advantages"] * MASK), rtol=1e-5)


def test_value_loss_without_a_clip_is_half_the_squared_error(response):
    total, weight = losses.value_loss(
        response["values"], response["old_values"], response["returns"], MASK, 0.0
    )
    error = (response["values"] - response["returns"])[MASK > 0]
    np.testing.assert_allclose((total, weight), (0.5 * np.sum(error**2), MASK.sum()), rtol=1e-6)


def test_logprobs_are_those_of_the_distribution_at_that_temperature(rng):
    logits = rng.normal(size=(B, V)).astype(np.float32)
    for temperature in (0.7, 1.0, 2.0):
        every = jnp.stack([log_probs(logits, jnp.full(B, i), temperature) for i in range(V)], -1)
        np.testing.assert_allclose(np.exp(every).sum(-1), 1, rtol=1e-6)
        expected = np.exp(logits.astype(np.float64) / temperature)
        expected = np.log(expected / expected.sum(-1, keepdims=True))
        np.testing.assert_allclose(every, expected, atol=1e-5)
    big = log_probs(jnp.array([[1e4, 0.0]]), jnp.array([0]), 0.7)
    assert big == 0
    half = log_probs(jnp.asarray(logits, jnp.bfloat16), jnp.zeros(B, jnp.int32), 1.0)
    assert half.dtype == jnp.float32


def test_router_losses_by_hand():
    """Two layers, two experts, four tokens with one expert each: an even layer, and a lopsided."""
    stats = RouterStats(
        np.array([[2.0, 2.0], [4.0, 0.0]]), np.array([[2.0, 2.0], [3.0, 1.0]]), np.array([8.0, 4.0])
    )
    balance, z = losses.router_losses(stats, 4.0, 1)
    even, lopsided = 2 * (0.5 * 0.5 + 0.5 * 0.5), 2 * (1.0 * 0.75)
    np.testing.assert_allclose(balance, 4 * (even + lopsided) / 2)
    np.testing.assert_allclose(z, (8 + 4) / 2)
    assert losses.router_losses(stats._replace(probability=0 * stats.probability), 0.0, 1)[0] == 0


def test_k3_s_exponent_is_bounded():
    """As the ratio's; elsewhere it is the formula."""
    far = jnp.array([-1000.0, -89.0, -21.0, -19.0, 0.0, 30.0, 1000.0])
    value, gradient = jax.vmap(
        jax.value_and_grad(lambda d: losses.kl_estimate(d, jnp.float32(0), "k3"))
    )(far)
    assert np.all(np.isfinite(value)) and np.all(np.isfinite(gradient))
    np.testing.assert_allclose(value[:3], np.expm1(20) - 20, rtol=1e-6)
    exact = np.expm1(-np.float64(far[3:])) + far[3:]
    np.testing.assert_allclose(value[3:], exact, rtol=1e-6)


def test_as_a_loss_k2_alone_has_the_gradient_of_the_kl():
    """In expectation over what is sampled: k1's gradient is 0, k3's is that of KL(ref ‖ policy)."""
    rng = np.random.default_rng(0)
    logits, ref = rng.normal(size=(2, 9)).astype(np.float32)

    def kl(p, q):
        return jnp.sum(jnp.exp(p) * (p - q))

    def gradient(kind):
        def loss(x):
            logp = jax.nn.log_softmax(x)
            estimates = losses.kl_estimate(logp, jax.nn.log_softmax(ref), kind)
            return jnp.sum(jax.lax.stop_gradient(jnp.exp(logp)) * estimates)

        return jax.grad(loss)(logits)

    q = jax.nn.log_softmax(ref)
    forward = jax.grad(lambda x: kl(jax.nn.log_softmax(x), q))(logits)
    backward = jax.grad(lambda x: kl(q, jax.nn.log_softmax(x)))(logits)
    np.testing.assert_allclose(gradient("k2"), forward, atol=1e-6)
    np.testing.assert_allclose(gradient("k1"), 0, atol=1e-6)
    np.testing.assert_allclose(gradient("k3"), backward, atol=1e-6)
    assert configs.RLConfig().kl_estimator == "k1"
    assert configs.RLConfig().kl_loss_estimator == "k2"
