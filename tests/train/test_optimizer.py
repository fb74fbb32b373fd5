"""Schedules at their corners, decay masks, one optimizer a model, and where its state lies."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from model import sharding
from model.config import TransformerConfig
from model.heads import value_model
from model.sharding import MeshConfig, make_mesh
from model.transformer import Transformer
from train.assembly.moments import opt_state_shardings
from train.optimizer import (
    OptimizerConfig,
    decay_mask,
    global_norm,
    learning_rates,
    make_optimizer,
    make_schedule,
    rate_tables,
)

PLAIN = OptimizerConfig(
    peak_lr=0.1, schedule="constant", warmup_steps=0, weight_decay=0.0, clip_norm=0.0
)
CONFIG = TransformerConfig(
    vocab_size=20, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
    mlp_dim=32, vocab_multiple=32, tie_embeddings=False,
)  # fmt: skip


@pytest.mark.parametrize(
    "options,steps,expected",
    [
        (dict(schedule="cosine"), 110, {0: 0.1, 4: 0.5, 9: 1, 10: 1, 60: 0.55, 110: 0.1, 500: 0.1}),
        (dict(schedule="constant"), 110, {0: 0.1, 9: 1, 10: 1, 109: 1}),
        (dict(schedule="wsd", decay_fraction=0.2), 100, {0: 0.1, 9: 1, 79: 1, 80: 1, 90: 0.55,
                                                         100: 0.1, 200: 0.1}),
        (dict(schedule="cosine", warmup_steps=0), 100, {0: 1, 50: 0.55, 100: 0.1}),
        (dict(schedule="constant", warmup_steps=1), 10, {0: 1, 1: 1}),
        (dict(schedule="cosine", final_fraction=0.0), 110, {110: 0}),
        (dict(schedule="cosine", warmup_steps=50), 5, {0: 0.2, 4: 1}),  # fewer steps than warm-up
        (dict(schedule="wsd", warmup_steps=50), 5, {0: 0.2, 4: 1}),
    ],
)  # fmt: skip
def test_schedules_at_their_corners(options, steps, expected):
    config = OptimizerConfig(**({"peak_lr": 2.0, "warmup_steps": 10} | options))
    schedule = make_schedule(config, steps)
    for step, fraction in expected.items():
        np.testing.assert_allclose(schedule(step), 2.0 * fraction, atol=1e-6, err_msg=str(step))


def test_cycles_are_warm_restarts():
    """Against optax's SGDR without warm-up; by hand with one, from the rate that was reached."""
    peaks, lengths = {0: 1.0, 40: 0.5, 100: 0.25}, [40, 60, 100]
    config = OptimizerConfig(
        peak_lr=1.0, warmup_steps=0, cycles={"100": 0.25, "40": 0.5}, weight_decay=0.0
    )
    cycles = [
        dict(init_value=p, peak_value=p, warmup_steps=0, decay_steps=n, end_value=0.1 * p)
        for p, n in zip(peaks.values(), lengths, strict=True)
    ]
    theirs = [optax.sgdr_schedule(cycles)(step) for step in range(200)]
    np.testing.assert_allclose(rate_tables({"policy": config}, 200)["policy"][:200], theirs, 1e-5)

    reached, by_hand = 0.0, []
    for peak, length in zip(peaks.values(), lengths, strict=True):
        by_hand += [reached + (peak - reached) * (n + 1) / 5 for n in range(5)]
        share = np.arange(length - 5) / (length - 5)
        by_hand += (peak * (0.1 + 0.9 * (1 + np.cos(np.pi * share)) / 2)).tolist()
        reached = 0.1 * peak
    rates = rate_tables({"policy": dataclasses.replace(config, warmup_steps=5)}, 200)["policy"]
    np.testing.assert_allclose(rates[:200], by_hand, 1e-5)


def test_a_cycle_begins_any_schedule_again():
    config = OptimizerConfig(
        peak_lr=2.0, schedule="wsd", warmup_steps=10, cycles={"100": 1.0}, weight_decay=0.0
    )
    once = make_schedule(dataclasses.replace(config, cycles={}), 100)
    schedule = make_schedule(config, 200)
    assert [schedule(step) for step in range(100)] == [once(step) for step in range(100)]
    expected = {100: 0.2 + 0.8 / 10, 109: 1.0, 110: 1.0, 179: 1.0, 190: 0.55, 200: 0.1, 300: 0.1}
    for step, rate in expected.items():
        np.testing.assert_allclose(schedule(step), rate, atol=1e-6)
    # A run of fewer steps has no part of it, and a program may have them as constants.
    plain = dataclasses.replace(config, cycles={})
    assert make_schedule(config, 90)(50) == make_schedule(plain, 90)(50)
    np.testing.assert_allclose(jax.jit(lambda n: make_schedule(config, 200)(n))(109), 1.0)
    for cycles, message in (
        ({"soon": 1e-3}, r"optimizer\.cycles: 'soon' is no step after 0"),
        ({"5": 11.0}, r"optimizer\.cycles\.5=11\.0; it must be at least 0 and at most 10"),
        ({"5": 10.0}, r"optimizer\.cycles=10\.0 times optimizer\.weight_decay=0\.1"),
    ):
        with pytest.raises(ValueError, match=message):
            OptimizerConfig(cycles=cycles)


def test_an_unknown_schedule_is_an_error():
    with pytest.raises(ValueError, match=r"optimizer\.schedule='step'; choose cosine, wsd, const"):
        OptimizerConfig(schedule="step")


def abstract(model):
    tokens = jnp.zeros((1, 2), jnp.int32)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), tokens))["params"]


def test_matrices_decay_and_norms_do_not():
    """Norms of the layers are stacked, hence matrices, and must not decay either."""
    mask = decay_mask(nn.unbox(abstract(value_model(CONFIG))))
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="/"): decays
        for path, decays in jax.tree_util.tree_flatten_with_path(mask)[0]
    }
    kept = {name for name, decays in flat.items() if not decays}
    assert kept == {
        "backbone/final_norm",
        "backbone/layers/attention_norm",
        "backbone/layers/mlp_norm",
    }
    assert {"head", "backbone/embedding", "backbone/layers/query"} <= flat.keys() - kept


def test_decay_shrinks_weights_and_leaves_norms():
    params = {"policy": {"query": jnp.ones((2, 2)), "key_norm": jnp.ones((3, 2))}}
    optimizer = make_optimizer({"policy": dataclasses.replace(PLAIN, weight_decay=0.5)}, 10)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_allclose(updates["policy"]["query"], -0.1 * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(updates["policy"]["key_norm"], 0)


def test_each_model_has_its_own_rate_and_its_own_clipping():
    """Adam's first update is the rate in every coordinate, whatever the gradient's size."""
    clipped = dataclasses.replace(PLAIN, peak_lr=0.2, clip_norm=1.0, eps=1.0)
    optimizer = make_optimizer({"policy": PLAIN, "value": clipped}, steps=10)
    params = {"policy": {"w": jnp.zeros((2, 2))}, "value": {"w": jnp.zeros((3, 4))}}
    state = optimizer.init(params)

    def updates(policy, value):
        grads = {
            "policy": {"w": jnp.full((2, 2), policy)},
            "value": {"w": jnp.full((3, 4), value)},
        }
        out, _ = optimizer.update(grads, state, params)
        return np.asarray(out["policy"]["w"]), np.asarray(out["value"]["w"])

    policy, value = updates(3.0, 100.0)
    np.testing.assert_allclose(policy, -0.1, rtol=1e-5)
    each = 1 / np.sqrt(12)  # of a gradient of norm 1; with ε = 1 Adam's update tells its size
    np.testing.assert_allclose(value, -0.2 * each / (each + 1), rtol=1e-5)
    np.testing.assert_array_equal(updates(1e6, 100.0)[1], value)  # the policy's norm is not its
    frozen = make_optimizer({"policy": dataclasses.replace(PLAIN, peak_lr=0.0)}, 10)
    only = {"policy": params["policy"]}
    out, _ = frozen.update(jax.tree.map(jnp.ones_like, only), frozen.init(only), only)
    assert not out["policy"]["w"].any()


@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon"])
def test_the_rate_is_that_of_the_last_update_that_was_applied(name):
    """Muon updates no weight here, and AdamW its others: their counts are equal."""
    config = dataclasses.replace(PLAIN, name=name, warmup_steps=2, schedule="wsd")
    configs = {"policy": config, "value": dataclasses.replace(config, peak_lr=0.5)}
    params = {role: {"query": jnp.ones((1, 2, 2, 2))} for role in configs}
    optimizer, rates = make_optimizer(configs, 10), learning_rates(rate_tables(configs, 10))
    state = optimizer.init(params)
    schedules = {role: make_schedule(c, 10) for role, c in configs.items()}
    tables = rate_tables(configs, 10)
    for step in range(4):
        before, same = (optimizer.update(params, state, params, rates=r) for r in (None, tables))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), before, same)
        state = same[1]
        wanted = {role: float(schedules[role](step)) for role in configs}
        assert rates(state) == pytest.approx(wanted)


def test_runs_of_other_rates_share_a_program():
    """Also of another schedule, and of other steps."""
    params = {"policy": {"query": jnp.ones((1, 2, 2, 2))}}
    lowered = set()
    for settings, steps in (({}, 10), ({"peak_lr": 0.3}, 10), ({"schedule": "cosine"}, 99)):
        configs = {"policy": dataclasses.replace(PLAIN, **settings)}
        optimizer = make_optimizer(configs, steps)
        args = params, optimizer.init(params), params
        update = jax.jit(lambda *a, update=optimizer.update, **k: update(*a, **k))
        lowered.add(update.lower(*args, rates=rate_tables(configs, steps)).as_text())
    assert len(lowered) == 1


def test_moments_lie_where_their_parameters_do():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    boxed = {"policy": abstract(Transformer(CONFIG)), "value": abstract(value_model(CONFIG))}
    params, placed = nn.unbox(boxed), sharding.parameter_shardings(boxed, mesh)
    optimizer = make_optimizer({"policy": OptimizerConfig(), "value": OptimizerConfig()}, 10)
    state = jax.eval_shape(optimizer.init, params)
    everywhere = sharding.replicated(mesh)
    shardings = opt_state_shardings(state, params, placed, everywhere)
    flat = {
        jax.tree_util.keystr(path): (leaf.shape, where.spec)
        for (path, leaf), where in zip(
            jax.tree_util.tree_flatten_with_path(state)[0], jax.tree.leaves(shardings), strict=True
        )
    }
    for moment in (".mu", ".nu"):
        for model in ("policy", "value"):
            for path, leaf in jax.tree_util.tree_flatten_with_path(placed[model])[0]:
                ends = f"{moment}['{model}']{jax.tree_util.keystr(path)}"
                found = [spec for name, (_, spec) in flat.items() if name.endswith(ends)]
                assert found == [leaf.spec], ends
    counters = [spec for shape, spec in flat.values() if shape == ()]
    assert counters and all(spec == P() for spec in counters)


def test_an_optimizer_state_of_no_parameter_is_an_error():
    mesh = make_mesh(MeshConfig())
    everywhere = sharding.replicated(mesh)
    params = {"w": jax.ShapeDtypeStruct((2, 2), jnp.float32)}
    state = {"trace": {"other": jax.ShapeDtypeStruct((50, 50), jnp.float32)}}
    with pytest.raises(ValueError, match=r"\['trace'\]\['other'\] matches no parameter"):
        opt_state_shardings(state, params, {"w": everywhere}, everywhere)


def test_the_global_norm_is_float32():
    tree = {"a": jnp.full(4, 300.0, jnp.float16), "b": jnp.full(1, 800.0, jnp.float16)}
    np.testing.assert_allclose(global_norm(tree), 1000.0)


MATRIX = {
    "policy": {"layers": {"query": jnp.zeros((2, 256, 2, 128))}, "final_norm": jnp.zeros(256)}
}


def test_adafactor_is_its_formula():
    """One step from zero moments: g / sqrt(row · column / mean(row)), its RMS clipped to 1."""
    config = dataclasses.replace(PLAIN, name="adafactor")
    tx = make_optimizer({"policy": config}, 10)
    g = np.random.default_rng(0).normal(size=(2, 256, 2, 128)).astype(np.float32)
    params = {"policy": {"layers": {"query": jnp.zeros_like(g)}}}
    updates, state = tx.update(
        {"policy": {"layers": {"query": jnp.asarray(g)}}}, tx.init(params), params
    )
    assert sum(x.size for x in jax.tree.leaves(state)) < g.size / 50
    squares = g.astype(np.float64) ** 2 + 1e-30
    row, column = squares.mean(axis=1, keepdims=True), squares.mean(axis=3, keepdims=True)
    # The two longest axes are factored; the mean is over the rows of each matrix.
    u = g / np.sqrt(row * column / column.mean(axis=1, keepdims=True))
    u /= max(1.0, np.sqrt(np.mean(u**2)))
    np.testing.assert_allclose(updates["policy"]["layers"]["query"], -0.1 * u, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("steps", [3, 5])
def test_muon_is_its_formula(steps):
    """From zero moments: Newton-Schulz of the gradient (Jordan et al. 2024, coefficients 3.4445,
    -4.7750, 2.0315), times 0.2·√(longer side) (Liu et al. 2025, arXiv:2502.16982)."""
    config = dataclasses.replace(PLAIN, name="muon", ns_steps=steps)
    tx = make_optimizer({"policy": config}, 10)
    g = np.random.default_rng(0).normal(size=(2, 16, 2, 12)).astype(np.float32)
    params = {"policy": {"layers": {"query": jnp.zeros_like(g)}}}
    updates, _ = tx.update(
        {"policy": {"layers": {"query": jnp.asarray(g)}}}, tx.init(params), params
    )
    for layer, update in zip(g, updates["policy"]["layers"]["query"], strict=True):
        x = layer.reshape(16, 24).astype(np.float64)
        x /= np.linalg.norm(x)
        for _ in range(steps):
            square = x @ x.T
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        expected = -0.1 * 0.2 * np.sqrt(24) * x
        np.testing.assert_allclose(update.reshape(16, 24), expected, rtol=1e-4, atol=1e-6)


def test_muon_s_momentum_is_its_own():
    """Muon's matrices use it; other weights use AdamW with b2. The second update shows it."""
    grads = [jax.tree.map(lambda x, i=i: jnp.sin(jnp.arange(x.size) + i).reshape(x.shape), MATRIX)
             for i in (0, 7)]  # fmt: skip

    def second(**options):
        tx = make_optimizer({"policy": dataclasses.replace(PLAIN, name="muon", **options)}, 10)
        _, state = tx.update(grads[0], tx.init(MATRIX), MATRIX)
        updates, _ = tx.update(grads[1], state, MATRIX)
        return updates["policy"]["layers"]["query"], updates["policy"]["final_norm"]

    matrix, norm = second()
    other, same = second(momentum=0.5)
    assert np.max(np.abs(matrix - other)) > 1e-4
    np.testing.assert_array_equal(norm, same)
    same, other = second(b2=0.5)
    np.testing.assert_array_equal(matrix, same)
    assert np.max(np.abs(norm - other)) > 1e-3


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_bfloat16_moments_take_half_and_train_alike(name):
    grads = jax.tree.map(
        lambda x: jnp.asarray(np.random.default_rng(x.size).normal(size=x.shape), x.dtype), MATRIX
    )
    results, sizes = {}, {}
    for dtype in ("float32", "bfloat16"):
        config = dataclasses.replace(PLAIN, name=name, state_dtype=dtype)
        tx = make_optimizer({"policy": config}, 10)
        state, params = tx.init(MATRIX), MATRIX
        for _ in range(3):
            updates, state = tx.update(grads, state, params)
            params = jax.tree.map(jnp.add, params, updates)
        results[dtype] = params
        sizes[dtype] = sum(x.nbytes for x in jax.tree.leaves(state))
    assert sizes["bfloat16"] < 0.52 * sizes["float32"]
    for a, b in zip(*map(jax.tree.leaves, results.values()), strict=True):
        np.testing.assert_allclose(a, b, rtol=0.1, atol=0.02)


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(state_dtype="float16"), r"optimizer\.state_dtype='float16'; choose float32 or"),
        (dict(state_dtype="bfloat16", b2=0.999), r"optimizer\.b2=0\.999 moves a second moment by"),
        (dict(ns_steps=0), r"optimizer\.ns_steps=0; it must be at least 1"),
        (dict(name="muon", state_dtype="bfloat16", momentum=0.995), r"momentum=0\.995 moves a mom"),
        (dict(momentum=1.0), r"optimizer\.momentum=1\.0; it must be at least 0 and below 1"),
        (dict(name="lion"), r"optimizer\.name='lion'; choose adamw, adafactor, muon"),
    ],
)
def test_what_an_optimizer_cannot_do_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**options)


def test_a_factored_moment_lies_as_its_parameter_does():
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    tx = make_optimizer({"policy": OptimizerConfig(name="adafactor")}, 10)
    placed = {"query": P(None, "fsdp", "tensor", None), "final_norm": P(None)}
    params = {"policy": {"layers": {"query": MATRIX["policy"]["layers"]["query"]}}}
    shardings = {"policy": {"layers": {"query": jax.NamedSharding(mesh, placed["query"])}}}
    everywhere = sharding.replicated(mesh)
    state = jax.eval_shape(tx.init, params)
    found = opt_state_shardings(state, params, shardings, everywhere)
    specs = {
        leaf.shape: tuple(s.spec)
        for leaf, s in zip(jax.tree.leaves(state), jax.tree.leaves(found), strict=True)
    }
    assert specs[(2, 2, 128)] == (None, "tensor", None)
    assert specs[(2, 256, 2)] == (None, "fsdp", "tensor")
    jax.jit(tx.init, out_shardings=found)(params)


def test_learning_rates_of_some_weights_are_multiplied():
    """Patterns and groups; factors multiply, the decay of a step too, and the state is the same."""
    params = {"policy": {"query": jnp.full((2, 3, 4), 2.0), "final_norm": jnp.ones(3)}}
    grads = jax.tree.map(jnp.ones_like, params)
    config = dataclasses.replace(PLAIN, weight_decay=0.1)

    def step(**settings):
        tx = make_optimizer({"policy": dataclasses.replace(config, **settings)}, 10)
        return tx.update(grads, tx.init(params), params)

    plain, state = step()
    ours, same = step(lr_multipliers={"hidden": 0.5, "policy/query,final_norm": 0.25})
    np.testing.assert_allclose(ours["policy"]["query"], plain["policy"]["query"] / 8, rtol=1e-6)
    np.testing.assert_allclose(
        ours["policy"]["final_norm"], plain["policy"]["final_norm"] / 4, rtol=1e-6
    )
    jax.tree.map(np.testing.assert_array_equal, state, same)
    with pytest.raises(ValueError, match=r"lr_multipliers: 'quary' matches no parameter; the near"):
        step(lr_multipliers={"quary": 0.5})
    with pytest.raises(ValueError, match=r"lr_multipliers\.query=-1"):
        OptimizerConfig(lr_multipliers={"query": -1.0})
