"""The workarounds for XLA on CPU against the plain operations, and what they compile to."""

import ctypes
import importlib.util
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from model import cpu
from model.cpu import FEW, TransposedWeight, gated, matmul


def compiled(f, *args):
    return jax.jit(f).lower(*args).compile().as_text()


@pytest.mark.parametrize("inputs,outputs", [(4, 5), (5, 4)])
def test_matmul_has_the_gradient_of_a_product(inputs, outputs):
    rng = np.random.default_rng(3)
    x, w = rng.normal(size=(2, 3, inputs)), rng.normal(size=(inputs, outputs))
    g = rng.normal(size=(2, 3, outputs))
    x, w, g = (jnp.asarray(a, jnp.float32) for a in (x, w, g))
    ours, back = jax.vjp(matmul, x, w)
    theirs, expected = jax.vjp(jnp.matmul, x, w)
    np.testing.assert_array_equal(ours, theirs)
    for a, b in zip(back(g), expected(g), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_bfloat16_products_are_summed_in_float32():
    """The form that XLA on CPU computes two to six times as fast where the CPU has bfloat16."""
    x, w = jnp.ones((4, 8), jnp.bfloat16), jnp.ones((8, 16), jnp.bfloat16)
    out, back = jax.vjp(matmul, x, w)
    assert [a.dtype for a in (out, *back(out))] == [jnp.bfloat16] * 3
    both = jax.jit(lambda x, w, g: jax.vjp(matmul, x, w)[1](g)).lower(x, w, out).as_text()
    products = [line for line in both.splitlines() if "dot_general" in line]
    assert len(products) == 2 and all(line.endswith("xf32>") for line in products), products


@pytest.mark.parametrize("inputs,outputs", [(32, 64), (64, 32)])
def test_products_on_cpu_have_no_left_operand_to_transpose(inputs, outputs):
    """XLA's fast matmuls there have none; it would fold a plain transpose into the product."""
    x, w, g = jnp.ones((16, inputs)), jnp.ones((inputs, outputs)), jnp.ones((16, outputs))
    program = compiled(lambda x, w, g: jax.vjp(matmul, x, w)[1](g), x, w, g)
    assert re.findall(r"lhs_contracting_dims=\{(\d)\}", program) == ["1", "1"]


def test_products_of_attention_have_no_left_operand_to_transpose():
    """Their gradients are the plain product's."""
    rng = np.random.default_rng(4)
    q, k, v = (rng.normal(size=(2, 3, n, 8)).astype(np.float32) for n in (4, 6, 6))

    def ours(q, k, v):
        return jnp.sum(cpu.weighted_sums(jnp.sin(cpu.scores(q, k)), v) ** 2)

    def plain(q, k, v):
        return jnp.sum((jnp.sin(q @ k.swapaxes(2, 3)) @ v) ** 2)

    gradient = jax.grad(ours, (0, 1, 2))
    for a, b in zip(gradient(q, k, v), jax.grad(plain, (0, 1, 2))(q, k, v), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    program = compiled(gradient, q, k, v)
    assert set(re.findall(r"lhs_contracting_dims=\{(\d)\}", program)) == {"3"}


@pytest.mark.parametrize("used", [0, 1, 4, 7, 10])
def test_sums_of_rows_compute_the_parts_in_use_alone(monkeypatch, used):
    """Their gradient is the plain sum's, and a row that is not in use may hold anything."""
    monkeypatch.setattr(cpu, "PART", 4)  # 10 rows: parts of 4, the last with two rows
    rng = np.random.default_rng(7)
    table, rows = rng.normal(size=(6, 3)), rng.normal(size=(10, 3))
    ids, mask = rng.integers(0, 6, 10), np.zeros(10)
    mask[rng.permutation(10)[:used]] = rng.uniform(0.5, 2, used)
    computed = []

    def sums(table, rows, ids, mask):
        jax.debug.callback(lambda: computed.append(len(mask)))
        products = jnp.where(mask[:, None] != 0, rows, 0) @ table.T
        picked = jnp.take_along_axis(products, ids[:, None], axis=1)[:, 0]
        return jnp.sum(mask * jnp.sin(picked)), jnp.sum(mask * picked)

    def ours(table, rows, function=cpu.sum_used_rows):
        total, other = function(sums, table, rows, jnp.asarray(ids), jnp.asarray(mask, "float32"))
        return 3 * total, other

    def plain(function, *args):
        return function(*args)

    rows = np.where(mask[:, None] != 0, rows, np.nan)
    args = jnp.asarray(table, "float32"), jnp.asarray(rows, "float32")
    got = jax.block_until_ready(jax.jit(jax.value_and_grad(ours, (0, 1), has_aux=True))(*args))
    jax.effects_barrier()
    assert computed == [4] * -(-used // 4)
    expected = jax.value_and_grad(ours, (0, 1), has_aux=True)(*args, plain)
    value = jax.jit(ours)(*args)  # without a gradient
    frozen = jax.jit(jax.grad(lambda rows: ours(args[0], rows)[0]))
    np.testing.assert_array_equal(frozen(args[1]), got[1][1])
    assert not jax.grad(lambda rows: ours(args[0], rows)[1])(args[1]).any()  # of the other sum
    for a, b in zip(jax.tree.leaves((got, value)), jax.tree.leaves((expected, expected[0])),
                    strict=True):  # fmt: skip
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 3, FEW + 1])
@pytest.mark.parametrize("outputs", [64, 15])
def test_a_transposed_weight_gives_the_same_product(rows, outputs, dtype):
    """Its transpose is computed for a few rows on CPU, with the weight on the left."""
    rng = np.random.default_rng(5)
    x = jnp.asarray(rng.normal(size=(rows, 1, 32)), dtype)
    w = jnp.asarray(rng.normal(size=(32, outputs)), dtype)
    product = jax.jit(matmul)
    ours, expected = product(x, TransposedWeight(w.T)), product(x, w)
    assert ours.dtype == expected.dtype and ours.shape == expected.shape
    ours, expected = (np.asarray(a, np.float32) for a in (ours, expected))
    np.testing.assert_allclose(ours, expected, atol=1e-5 if dtype == "float32" else 0.05)
    program = compiled(matmul, x, TransposedWeight(w.T))
    assert (f"[{outputs},{rows}]{{1,0}} dot(" in program) == (rows <= FEW)


@pytest.mark.parametrize("transposed", [False, True])
def test_gates_in_bfloat16_are_rounded_once_on_cpu(transposed):
    gate, up = np.random.default_rng(6).normal(size=(2, 4, 3, 16))
    gate, up = jnp.asarray(gate, jnp.bfloat16), jnp.asarray(up, jnp.bfloat16)
    weight = TransposedWeight(jnp.ones((4, 16), jnp.bfloat16)) if transposed else None
    ours = gated(jax.nn.silu, gate, up, weight)
    gate, up = (np.asarray(a, np.float64) for a in (gate, up))
    expected = jnp.asarray(gate / (1 + np.exp(-gate)) * up, jnp.bfloat16)
    np.testing.assert_array_equal(ours, expected)


def test_arguments_that_are_replaced_are_not_copied_first():
    optimizer = optax.adamw(1e-3)
    params = {"a": jnp.ones((64, 64)), "b": jnp.ones((64, 64))}
    state = optimizer.init(params)

    def step(params, state, x):
        def loss(params):
            return jnp.sum(jnp.tanh(x @ params["a"]) @ params["b"])

        grads = jax.grad(loss)(params)
        updates, new = optimizer.update(grads, state, params)
        new = optax.apply_updates(params, updates), new
        applied = jnp.isfinite(optax.tree.norm(grads))
        return jax.tree.map(lambda a, b: jnp.where(applied, a, b), new, (params, state))

    def copies(options):
        jitted = jax.jit(step, donate_argnums=(0, 1), compiler_options=options)
        return jitted.lower(params, state, jnp.ones((8, 64))).compile().as_text().count(" copy(")

    assert copies({}) > copies(cpu.in_place_options()) == 0


@pytest.mark.parametrize("configured", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "tpu"])
def test_the_allocator_is_left_alone(configured, monkeypatch):
    for name in os.environ:
        if name.startswith("MALLOC_"):
            monkeypatch.delenv(name)
    if configured == "tpu":
        monkeypatch.delenv("JAX_PLATFORMS")
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "libtpu")
        monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    else:
        monkeypatch.setenv(configured, "glibc.malloc.hugetlb=0")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("the allocator is configured"))
    cpu.keep_memory()
