"""μP: the rules of the paper's tables, the coordinate check, and what is refused."""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import taps, weights
from model.config import TransformerConfig
from model.sizes import SIZES
from model.transformer import Transformer
from ranges import ConfigError
from train.assembly.mup import scale_rates
from train.optimizer import OptimizerConfig, make_optimizer

BASE = 32
LLAMA = dict(tie_embeddings=False, norm_eps=1e-5, rope_base=5e5)
GEMMA3 = SIZES["gemma3-1b"] | dict(layer_pattern=("local", "global"), window=8)
FORMS = {"llama": LLAMA, "gemma3": GEMMA3}
MUP = dict(parametrization="mup", base_width=BASE)
PLAIN = OptimizerConfig(peak_lr=0.001, schedule="constant", warmup_steps=0, clip_norm=0.0)
TOKENS = jax.random.randint(jax.random.key(1), (4, 16), 0, 61)


def form(name: str, width: int, **changes) -> TransformerConfig:
    shape = dict(
        vocab_size=61, embed_dim=width, num_layers=2, num_heads=width // 16,
        num_kv_heads=width // 32, head_dim=16, mlp_dim=2 * width, vocab_multiple=64, scan_unroll=0,
        embedding_std=0.5,
    )  # fmt: skip
    return TransformerConfig(**FORMS[name] | shape | changes)


def optimizer(config: TransformerConfig, settings: OptimizerConfig = PLAIN):
    configs = {"policy": settings}
    return scale_rates(make_optimizer(configs, 10), configs, {"policy": config.width_ratio})


def parameters(config: TransformerConfig) -> dict:
    """Initial weights, by the initializer of each row: nothing is compiled."""
    shapes = jax.eval_shape(lambda: Transformer(config).init(jax.random.key(0), TOKENS))

    def init(path, x):
        init = weights.initializer(weights.row(path[-1].key), config)
        key = jax.random.key(sum(map(ord, path[-1].key)))
        return nn.unbox(init(key, x.shape, x.dtype))

    return jax.tree_util.tree_map_with_path(init, nn.unbox(shapes)["params"])


def relative(value: float, expected: float) -> None:
    np.testing.assert_allclose(value, expected, rtol=0.06)


# The rules.


def test_initial_weights_are_those_of_the_tables():
    """Yang et al. 2022, tables 3 and 8: variances of 1/fan_in in the hidden layers, constant at the
    input and, with its multiplier of 1/fan_in, at the output; 1/fan_in² without one."""
    width, changes = 4 * BASE, dict(num_experts=4, experts_per_token=2, embedding_std=0.5)
    params = parameters(form("llama", width, **MUP, **changes, mlp_dim=512))
    relative(np.var(params["unembedding"]), 1 / BASE)
    relative(np.std(params["embedding"]), 0.5)
    relative(np.var(params["layers"]["query"]), 1 / width)
    relative(np.var(params["layers"]["expert_down"]), 1 / 512)
    np.testing.assert_allclose(
        np.var(params["layers"]["router"]), BASE / width**2, rtol=0.25  # of 1,024 numbers
    )  # fmt: skip
    head = weights.row("head")
    inits = [weights.initializer(head, form("llama", width, **c), std=0.1) for c in (MUP, {})]
    values = [nn.unbox(init(jax.random.key(0), (width, 1))) for init in inits]
    np.testing.assert_allclose(values[0], values[1] / 2, rtol=1e-6)


@pytest.mark.parametrize("name, hidden", [("adamw", 1 / 4), ("adafactor", 1 / 4), ("muon", 1 / 2)])
def test_learning_rates_are_those_of_the_tables_and_the_decay_is_not_changed(name, hidden):
    """The same tables for Adam: rates of 1/fan_in in the hidden layers, 1 elsewhere. A step of Muon
    has the spectral norm √width, and that of a step that changes the activations by as much at
    every width is 1 (Yang et al. 2023, arXiv:2310.17813)."""
    config = form("llama", 4 * BASE, **MUP, attention_bias=True, mlp_dim=4 * BASE)
    standard = dataclasses.replace(config, parametrization="standard", base_width=256)
    params = {"policy": parameters(config)}
    grads = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), params)

    def updates(config, decay):
        tx = optimizer(config, dataclasses.replace(PLAIN, name=name, weight_decay=decay))
        out, _ = jax.jit(tx.update)(grads, tx.init(params), params)
        return {path[-1].key: x for path, x in jax.tree.leaves_with_path(out)}

    mup, plain = updates(config, 0.0), updates(standard, 0.0)
    ratios = {key: float(jnp.mean(mup[key] / plain[key])) for key in mup}
    matrices = {row.name for row in weights.rows(config, "layers") if row.inputs}
    expected = {key: hidden if key in matrices else 1.0 for key in ratios}
    assert ratios == pytest.approx(expected, rel=1e-5)
    decayed = updates(config, 0.5)
    for key in ("query", "embedding", "unembedding"):
        (value,) = (x for p, x in jax.tree.leaves_with_path(params) if p[-1].key == key)
        np.testing.assert_allclose(decayed[key] - mup[key], -0.001 * 0.5 * value, atol=2e-6)


def test_an_adapter_has_the_rates_of_its_two_matrices():
    assert weights.mup_rate("query_lora_a", 4) == 1 / 4
    assert weights.mup_rate("query_lora_b", 4) == 1
    assert weights.mup_rate("query_lora_a", 4, orthogonal=True) == 1 / 4  # Muon leaves it to Adam


def test_attention_is_scaled_by_the_size_of_a_head():
    scales = [form("llama", 64, **MUP, head_dim=n).attention_scale for n in (64, 128, 256)]
    assert scales == [1 / math.sqrt(64), 1 / math.sqrt(64) / 2, 1 / math.sqrt(64) / 4]


@pytest.mark.parametrize("name", FORMS)
def test_at_the_base_width_both_parametrizations_are_one(name):
    """With heads of 64: all of the program, and so of a run, is the same."""
    shape = dict(embed_dim=BASE, num_heads=2, num_kv_heads=1, head_dim=64)

    def text(**changes):
        config = form(name, BASE, **shape | changes)
        params = {"policy": jax.eval_shape(lambda: parameters(config))}

        def step(params):
            def loss(params):
                return jnp.mean(Transformer(config).apply({"params": params["policy"]}, TOKENS))

            tx = optimizer(config)
            return tx.update(jax.grad(loss)(params), tx.init(params), params)

        return jax.jit(step).lower(params).as_text()

    attention = {} if name == "gemma3" else dict(query_scale=0.0)
    assert text(**MUP) == text(**attention) != text(**MUP | {"base_width": 2 * BASE})


# The coordinate check (the paper's appendix D.1).


@functools.cache
def changes(name: str, width: int, parametrization: str) -> dict[str, float]:
    """{tap: RMS of how much an activation changes in four steps of Adam}."""
    config = form(name, width, **(MUP if parametrization == "mup" else {}))
    model, tx = Transformer(config), optimizer(config)

    def loss(params):
        logits = model.apply({"params": params["policy"]}, TOKENS)[:, :-1]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), TOKENS[:, 1:, None], -1))

    def activations(params):
        seen = {}

        def visit(tap, x):
            seen[tap] = x[..., :61] if tap == "logits" else x
            return x

        with taps.watching(visit):
            model.apply({"params": params["policy"]}, TOKENS)
        return seen

    @jax.jit
    def run(params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (jax.tree.map(jnp.add, params, updates), state), None

        (after, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=4)
        return jax.tree.map(
            lambda a, b: jnp.sqrt(jnp.mean((a - b) ** 2)), activations(after), activations(params)
        )

    return {tap: float(x) for tap, x in run({"policy": parameters(config)}).items()}


def growth(name: str, parametrization: str) -> dict[str, float]:
    """{tap: factor by which its changes grow from the base width to 8 times as much}."""
    narrow, wide = changes(name, BASE, "mup"), changes(name, 8 * BASE, parametrization)
    watched = ("layers.1.mlp.gate", "layers.1.mlp.hidden", "layers.1.mlp.out", "final_norm",
               "layers.1.residual", "logits")  # fmt: skip
    return {tap: wide[tap] / narrow[tap] for tap in watched}


# Both forms have the same rules: test_at_the_base_width_both_parametrizations_are_one.
CHECKED = ["llama", pytest.param("gemma3", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", CHECKED)
def test_activations_move_as_far_at_every_width(name):
    """The logits a little less, as long as the initial unembedding is most of what makes them."""
    factors = growth(name, "mup")
    assert all(1 / 3 < factors[tap] < 2 for tap in factors), factors


@pytest.mark.parametrize("name", CHECKED)
def test_the_standard_parametrization_fails_the_coordinate_check(name):
    factors = growth(name, "standard")
    assert factors["logits"] > 2.5 and factors["layers.1.residual"] > 2, factors


# What is refused.


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"model.base_width=64 is of μP alone"):
        form("llama", 64, base_width=64)
    with pytest.raises(ValueError, match=r"model.query_scale=0.1 and model.parametrization=mup"):
        form("llama", 64, **MUP, query_scale=0.1)
    configs = {"policy": dataclasses.replace(PLAIN)}
    object.__setattr__(configs["policy"], "name", "lion")
    with pytest.raises(ConfigError, match=r"no rules for optimizer.name=lion; choose adamw"):
        scale_rates(make_optimizer({"policy": PLAIN}, 10), configs, {"policy": 2.0})
