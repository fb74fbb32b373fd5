"""Products in 8 bits against the same quantization in NumPy, and in a model.

Axes: B batch, T length, D inputs, F outputs.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from model.config import TransformerConfig
from model.generate import Sampling, generate
from model.kernels import tpu
from model.layers import low_precision
from model.sharding import MeshConfig, make_mesh
from model.transformer import Transformer

CONFIG = TransformerConfig(
    vocab_size=30, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
    mlp_dim=24, vocab_multiple=32,
)  # fmt: skip
INT8 = dataclasses.replace(CONFIG, matmul="int8")
B, T, D, F = 4, 3, 16, 10
TOKENS = np.random.default_rng(0).integers(0, 30, (B, 12)).astype(np.int32)


def rounded(x, form, axes):
    """x in 8 bits, as float64, with a scale for every index but those of `axes`."""
    x = np.asarray(x, np.float32)
    largest = np.abs(x).max(axis=axes, keepdims=True)
    if form == "int8":
        scale = largest * np.float32(1 / 127.5)  # XLA divides by a constant like this
        values = np.clip(np.rint(x / scale), -128, 127)
    else:
        dtype = getattr(ml_dtypes, form)
        scale = largest * np.float32(1 / float(ml_dtypes.finfo(dtype).max))
        values = (x / scale).astype(dtype)
    return values.astype(np.float64), scale.astype(np.float64)


def expected(x, w, g, matmul, shards=1):
    """(out, gradients of x and of w) of x [B, T, D] @ w [D, F], a shard of rows at a time."""
    forward, backward = ("int8",) * 2 if "int8" in matmul else ("float8_e4m3fn", "float8_e5m2")
    by_tensor = matmul.endswith("tensor")
    out, dx, dw = [], [], 0
    w8, w_scale = rounded(w, forward, (0, 1) if by_tensor else (0,))
    for rows, g_rows in zip(np.split(x, shards), np.split(g, shards), strict=True):
        x, g = rows.reshape(-1, D), g_rows.reshape(-1, F)
        x8, x_scale = rounded(x, forward, (0, 1) if by_tensor else (1,))
        out.append((x8 @ w8 * x_scale * w_scale).reshape(-1, T, F))
        if by_tensor:
            g8, scale = rounded(g, backward, (0, 1))
            dx.append((g8 @ w8.T * scale * w_scale).reshape(-1, T, D))
            dw = dw + x8.T @ g8 * scale * x_scale
            continue
        g8, scale = rounded(g * w_scale.astype(np.float32), backward, (1,))
        dx.append((g8 @ w8.T * scale).reshape(-1, T, D))
        g8, scale = rounded(g * x_scale.astype(np.float32), backward, (0,))
        dw = dw + x8.T @ g8 * scale
    return np.concatenate(out), np.concatenate(dx), dw


def product(x, w, g, matmul, name="gate"):
    """The same three arrays by the layers' own function: of a weight whose inputs or whose outputs
    are the residual stream; those of `out` and `query` are two axes."""
    heads = {
        "out": (w.reshape(4, -1, F), x.reshape(B, T, 4, -1)),
        "query": (w.reshape(D, 5, -1), x),
    }
    weight, given = heads.get(name, (w, x))
    to_stream = name in tpu.TO_STREAM

    def out(x, w):
        weight = low_precision.quantize_weights({name: w[None]}, matmul)[name]
        weight = jax.tree.map(lambda a: jnp.moveaxis(a[0], -1, 0) if to_stream else a[0], weight)
        return low_precision.matmul(x, weight, to_stream)

    y, pull = jax.vjp(out, given, weight)
    dx, dw = pull(g.reshape(y.shape))
    return y.reshape(g.shape), dx.reshape(x.shape), dw.reshape(w.shape)


def factors():
    rng = np.random.default_rng(1)
    # Rows, columns and outputs of different sizes, so that one scale does not serve for another;
    # the largest number of each is positive, as a negative one may be rounded to -127 or to -128.
    sizes = (np.exp(rng.normal(size=shape)) for shape in ((B, T, 1), (D, F), (B, 1, F)))
    shapes = (B, T, D), (D, F), (B, T, F)
    arrays = ((rng.exponential(size=s) - 0.2) * k for s, k in zip(shapes, sizes, strict=True))
    return [a.astype(np.float32) for a in arrays]


@pytest.mark.parametrize("name", ["gate", "query", "down", "out"])
@pytest.mark.parametrize("matmul", low_precision.FORMATS)
def test_the_product_and_both_gradients_are_those_of_the_rounded_factors(matmul, name):
    got = jax.jit(product, static_argnums=(3, 4))(*factors(), matmul, name)
    for what, a, b in zip(("out", "dx", "dw"), got, expected(*factors(), matmul), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max(), err_msg=what)
    exact = factors()[0] @ factors()[1]
    error = np.abs(got[0] - exact).mean() / np.abs(exact).mean()
    assert 0.001 < error < 0.05  # rounded, and no further off than that


@pytest.mark.parametrize("name", ["gate", "out"])
@pytest.mark.parametrize("matmul", ["int8", "int8_tensor"])
def test_on_a_mesh_every_device_has_its_scales(matmul, name):
    with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))):
        got = jax.jit(product, static_argnums=(3, 4))(*factors(), matmul, name)
    for a, b in zip(got, expected(*factors(), matmul, shards=4), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


@pytest.fixture(scope="module")
def params():
    return nn.unbox(jax.jit(Transformer(CONFIG).init)(jax.random.key(0), TOKENS))


def loss_and_gradient(params, config):
    model = Transformer(config)

    def loss(params):
        logits = model.apply(params, TOKENS)[:, :-1]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), TOKENS[:, 1:, None], -1))

    return jax.jit(jax.value_and_grad(loss))(params)


def test_a_models_loss_and_gradients_are_near_those_in_float32(params):
    (loss, grads), (exact, exact_grads) = (loss_and_gradient(params, c) for c in (INT8, CONFIG))
    assert loss != exact and abs(loss - exact) < 0.01 * exact
    for path, a in jax.tree.leaves_with_path(grads):
        b = exact_grads
        for key in path:
            b = b[key.key]
        name = jax.tree_util.keystr(path)
        assert jnp.linalg.norm(a - b) < 0.05 * jnp.linalg.norm(b), name


@pytest.mark.parametrize("changes", [dict(remat="qkv"), dict(scan_unroll=0)])
def test_remat_and_unrolling_change_nothing(params, changes):
    loss, grads = loss_and_gradient(params, INT8)
    same, same_grads = loss_and_gradient(params, dataclasses.replace(INT8, **changes))
    np.testing.assert_allclose(loss, same, rtol=1e-6)
    # A last bit of a factor may round to the next integer.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), grads, same_grads)


def test_sampling_reads_the_weights_as_they_are(params):
    def sample(config):
        mask, keys = jnp.ones(TOKENS.shape, bool), jax.random.split(jax.random.key(0), B)
        return jax.jit(generate, static_argnums=(0, 5))(
            config, params["params"], jnp.asarray(TOKENS), mask, keys, Sampling(max_new_tokens=4)
        )

    jax.tree.map(np.testing.assert_array_equal, sample(INT8), sample(CONFIG))


def test_experts_are_refused():
    with pytest.raises(ValueError, match=r"num_experts=2: the grouped products of experts"):
        dataclasses.replace(INT8, num_experts=2, experts_per_token=1)
