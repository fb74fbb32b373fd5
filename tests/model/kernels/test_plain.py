"""Attention against masks written by hand, and rotary positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.kernels import plain
from model.kernels.plain import CHUNK, attend
from model.layers.rotary import rope

causal_attention = jax.jit(plain.causal_attention)

# One row: a segment of 3, one of 2, padding. Entry [i, j]: whether query i sees key j.
SEGMENTS = [1, 1, 1, 2, 2, 0, 0]
SEES = np.array(
    [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0],  # padding sees padding, and no token sees it
        [0, 0, 0, 0, 0, 1, 1],
    ],
    bool,
)


def qkv(T, H=4, K=2, N=6, B=1, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (B, T, H, N), (B, T, K, N), (B, T, K, N)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def by_hand(q, k, v, sees):
    """Softmax attention of one head at a time in float64; query head h has key head h // (H/K)."""
    B, T, H, N = q.shape
    out = np.zeros(q.shape)
    for b in range(B):
        for h in range(H):
            kh = h // (H // k.shape[2])
            scores = q[b, :, h].astype(float) @ k[b, :, kh].T.astype(float) / np.sqrt(N)
            weights = np.exp(scores - scores.max()) * sees
            out[b, :, h] = weights / weights.sum(1, keepdims=True) @ v[b, :, kh]
    return out


def test_packed_segments_see_themselves_and_the_past():
    q, k, v = qkv(7)
    out = causal_attention(q, k, v, jnp.array([SEGMENTS]))
    np.testing.assert_allclose(out, by_hand(q, k, v, SEES), atol=1e-5)


def test_poison_elsewhere_does_not_reach_a_segment():
    """Huge values in another segment, the padding and the future have weight 0 exactly."""
    q, k, v = qkv(7)
    clean = np.asarray(causal_attention(q, k, v, jnp.array([SEGMENTS])))
    for i in range(7):
        poisoned = v.copy()
        poisoned[:, ~SEES[i]] = 1e30
        dirty = causal_attention(q, k, poisoned, jnp.array([SEGMENTS]))
        np.testing.assert_array_equal(dirty[:, i], clean[:, i])


def test_a_query_that_sees_nothing_is_finite():
    q, k, v = qkv(3)
    out = attend(q, k, v, jnp.zeros((1, 3, 3), bool))
    np.testing.assert_allclose(
        out, np.broadcast_to(v.mean(1).repeat(2, 1)[:, None], q.shape), atol=1e-5
    )


@pytest.mark.parametrize("T", [CHUNK, CHUNK + 37])
def test_chunked_equals_unchunked(monkeypatch, T):
    q, k, v = qkv(T, H=2, K=1, N=4, B=2)
    segments = np.sort(np.random.default_rng(1).integers(1, 5, (2, T)))
    segments[:, T - 5 :] = 0

    def run():
        def loss(*args):
            out = plain.causal_attention(*args, segments)
            return jnp.sum(out**2), out

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)

    chunked = run()
    monkeypatch.setattr(plain, "CHUNK", T)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), chunked, run())


def test_grouped_heads_are_repeated_heads():
    q, k, v = qkv(5, H=6, K=2)
    mask = jnp.tril(jnp.ones((1, 5, 5), bool))
    repeated = jax.jit(attend)(q, k.repeat(3, axis=2), v.repeat(3, axis=2), mask)
    np.testing.assert_allclose(jax.jit(attend)(q, k, v, mask), repeated, atol=1e-6)


def test_rope_products_depend_on_the_distance_alone():
    q, k, _ = qkv(1, H=1, K=1, N=8)

    def product(i, j):
        turned = [rope(x, jnp.array([[p]]), 100.0) for x, p in ((q, i), (k, j))]
        return float(jnp.sum(turned[0] * turned[1]))

    for distance in (0, 1, 7):
        products = [product(start + distance, start) for start in (0, 3, 50)]
        np.testing.assert_allclose(products, products[0], rtol=1e-4)
    assert abs(product(1, 0) - product(7, 0)) > 1e-2
    assert abs(product(3, 0) - product(0, 3)) > 1e-2  # the sign of the distance matters


def test_rope_turns_each_pair_by_its_wavelength():
    """Pairs are (i, i + N/2); at position p pair i turns by p·base^(-2i/N)."""
    N, p = 6, 5
    for i in range(N // 2):
        x = np.zeros((1, 1, 1, N), np.float32)
        x[..., i] = 1
        angle = p * 100.0 ** (-2 * i / N)
        expected = np.zeros(N)
        expected[i], expected[i + N // 2] = np.cos(angle), np.sin(angle)
        np.testing.assert_allclose(rope(x, jnp.array([[p]]), 100.0)[0, 0, 0], expected, atol=1e-6)


def test_a_branch_sees_its_trunk_and_itself():
    """Equal to each branch after its own copy of the trunk, over two chunks of queries."""
    trunk, sizes = CHUNK - 6, (9, 4, 7)
    T = trunk + sum(sizes)
    q, k, v = qkv(T, H=4, K=2)
    branches = np.repeat(range(4), (trunk, *sizes))[None]
    out = causal_attention(q, k, v, jnp.ones((1, T), jnp.int32), jnp.asarray(branches))
    for branch in (1, 2, 3):
        index = np.flatnonzero((branches[0] == 0) | (branches[0] == branch))
        segments = jnp.ones((1, len(index)), jnp.int32)
        alone = causal_attention(*(x[:, index] for x in (q, k, v)), segments)
        np.testing.assert_allclose(out[:, index], alone, atol=1e-6)
