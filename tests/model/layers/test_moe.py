"""Mixtures of experts: against every expert computed in full, and on meshes against one device.

Axes: B batch, T length, D embed, F mlp, E experts, k experts a token, M tokens.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import sharding
from model.config import TransformerConfig
from model.generate import Sampling, generate
from model.kernels import grouped
from model.layers import moe
from model.transformer import Transformer

CONFIG = TransformerConfig(
    vocab_size=29, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=12,
    vocab_multiple=32, num_experts=8, experts_per_token=3, layer_pattern=("local", "global"),
    window=5,
)  # fmt: skip


def arrays(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def every_expert(x, ids, weights, gate, up, down):
    """`expert_mlps` of all experts with nothing left out and nothing sorted."""
    h = jax.nn.silu(jnp.einsum("md,edf->mef", x, gate)) * jnp.einsum("md,edf->mef", x, up)
    out = jnp.einsum("mef,efd->med", h, down)
    picked = jax.nn.one_hot(ids, gate.shape[0]) * weights[..., None]  # [M, k, E]
    return jnp.einsum("med,mke->md", out, picked)


def kernel(rows, w, sizes, transposed=False):
    """The TPU's kernel, in Pallas' interpreter; the rows that it leaves undefined are poisoned."""
    out = grouped.grouped_matmul(rows, w, sizes, transposed, True)
    return jnp.where(jnp.arange(len(rows))[:, None] < jnp.sum(sizes), out, jnp.nan)


@pytest.mark.parametrize(
    "choice,product,transposed",
    [
        ("mixed", grouped.ragged_matmul, False),
        ("all tokens the same", grouped.ragged_matmul, True),
        ("mixed", kernel, True),
    ],
)
def test_sorted_rows_give_what_every_expert_would(choice, product, transposed):
    M, D, F, E, k = 11, 6, 5, 4, 2
    x, gate, up, down, weights = arrays((M, D), (E, D, F), (E, D, F), (E, F, D), (M, k))
    rng = np.random.default_rng(1)
    ids = jnp.asarray([[2, 0] if choice != "mixed" else rng.permutation(E)[:k] for _ in range(M)])

    def run(apply):
        def loss(*args):
            out = apply(args[0], ids, *args[1:])
            return jnp.mean(jnp.sin(out)), out

        return jax.jit(jax.value_and_grad(loss, argnums=range(5), has_aux=True))(
            x, weights, gate, up, down
        )

    def some(x, ids, w, gate, up, down, first=0):
        down = down.swapaxes(1, 2) if transposed else down
        mlps = ((m,) for m in (gate, up, down))
        return moe.expert_mlps(x, ids, w, *mlps, first, jax.nn.silu, product, transposed)

    # As two devices would, each with half of the experts.
    def halves(x, ids, w, *mlps):
        return sum(some(x, ids, w, *(m[i : i + 2] for m in mlps), i) for i in (0, 2))

    for got in (run(some), run(halves)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            got,
            run(every_expert),
        )


def test_adapters_of_experts_meet_no_undefined_row():
    """Adapters against merged weights, where half of the rows belong to no expert held here."""
    M, D, F, E, k, r = 11, 6, 5, 4, 2, 3
    x, weights = arrays((M, D), (M, k))
    gate, up = (tuple(arrays((2, D, F), (2, D, r), (2, r, F), seed=i)) for i in (1, 2))
    down = tuple(arrays((2, F, D), (2, F, r), (2, r, D), seed=3))
    rng = np.random.default_rng(1)
    ids = jnp.asarray([rng.permutation(E)[:k] for _ in range(M)])

    def run(form):
        def loss(*mlps):
            forms = (form(*m) for m in mlps)
            out = moe.expert_mlps(x, ids, weights, *forms, 1, jax.nn.silu, kernel)
            return jnp.mean(jnp.sin(out))

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(gate, up, down)

    got, want = run(lambda *m: m), run(lambda w, a, b: (w + a @ b,))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), got, want)


def test_routing_counts_real_tokens():
    config = dataclasses.replace(CONFIG, num_experts=4, experts_per_token=2)
    logits = jnp.log(
        jnp.array([[[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]]])
    )
    ids, weights, stats = moe.route(config, logits, jnp.array([[True, True, False]]))
    np.testing.assert_array_equal(ids[0, :2], [[0, 1], [3, 2]])
    np.testing.assert_allclose(weights[0, 0], [4 / 7, 3 / 7], rtol=1e-6)
    np.testing.assert_array_equal(stats.chosen, [1, 1, 1, 1])
    np.testing.assert_allclose(stats.probability, [0.5, 0.5, 0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(stats.z, 0, atol=1e-6)
    plain = dataclasses.replace(config, renormalize_experts=False)
    _, weights, _ = moe.route(plain, logits + 1, jnp.ones((1, 3), bool))
    np.testing.assert_allclose(weights[0, 0], [0.4, 0.3], rtol=1e-6)


# On meshes.

B, T = 8, 8
TOKENS = np.random.default_rng(3).integers(0, CONFIG.vocab_size, (B, T))
SEGMENTS = np.where(np.arange(T) < np.arange(3, 3 + B)[:, None], 1, 0)


def boxed_params():
    init = Transformer(CONFIG).init
    shapes = jax.eval_shape(lambda: init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32)))
    return shapes["params"]


def loss_and_gradients(params, mesh=None):
    def loss(params):
        logits, router = Transformer(CONFIG).apply(
            {"params": params}, TOKENS, None, SEGMENTS, mutable=["router"]
        )
        stats = router["router"]["stats"]
        aux = jnp.mean(stats.chosen * stats.probability) / B + jnp.mean(stats.z)
        return jnp.mean(jax.nn.log_softmax(logits)[..., 3]) + aux / (B * T), (logits, stats)

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    if mesh is None:
        return run(params)
    with jax.set_mesh(mesh):
        shardings = sharding.parameter_shardings(boxed_params(), mesh)
        return jax.device_get(run(jax.device_put(params, shardings)))


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(5)
    shapes = nn.unbox(boxed_params())
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0.15, 0.25, x.shape), x.dtype), shapes)


@pytest.fixture(scope="module")
def one_device(params):
    return loss_and_gradients(params)


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(dict(data=1, expert=8), marks=pytest.mark.slow),
        dict(data=1, fsdp=2, expert=2, tensor=2),
        dict(data=2, expert=2, sequence=2),
    ],
    ids=str,
)
def test_expert_parallel_equals_one_device(params, one_device, sizes):
    mesh = sharding.make_mesh(sharding.MeshConfig(**sizes))
    got = loss_and_gradients(params, mesh)
    (_, (logits, stats)), grads = one_device
    assert all(np.abs(g).max() > 1e-4 for g in jax.tree.leaves(grads))
    np.testing.assert_array_equal(got[0][1][1].chosen, stats.chosen)
    np.testing.assert_allclose(got[0][1][0], logits, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got[1], grads)


def test_generation_on_a_mesh_that_does_not_divide_the_rows(params):
    prompts, mask = jnp.asarray(TOKENS[:3, :4]), jnp.ones((3, 4), bool)
    keys = jax.random.split(jax.random.key(0), 3)
    run = jax.jit(generate, static_argnums=(0, 5))
    args = CONFIG, params, prompts, mask, keys, Sampling(3, temperature=0.0)
    expected = run(*args)
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, expert=4))
    with jax.set_mesh(mesh):
        got = run(*args)
    np.testing.assert_array_equal(got.tokens, expected.tokens)
    np.testing.assert_allclose(got.logprobs, expected.logprobs, atol=1e-4)


def test_more_experts_a_token_than_experts_is_an_error():
    for k in (0, 9):
        with pytest.raises(ValueError, match=rf"experts_per_token={k} is not in 1\.\.model\.num_"):
            dataclasses.replace(CONFIG, experts_per_token=k)
