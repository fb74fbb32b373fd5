"""The Transformer against an independent float64 numpy implementation, and against itself.

Axes: B batch, T length, H query heads, K key/value heads, N head size, V vocabulary.
"""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.config import TransformerConfig
from model.heads import reward_model, value_model
from model.transformer import Transformer
from model.weights import kernel_init

CONFIG = TransformerConfig(
    vocab_size=21, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=6,
    mlp_dim=20, vocab_multiple=16, rope_base=500.0, norm_eps=1e-5,
)  # fmt: skip
B, T = 2, 9
SEGMENTS = np.array([[1, 1, 1, 1, 2, 2, 2, 2, 2], [1, 1, 1, 2, 2, 3, 3, 0, 0]])
POSITIONS = np.array([[0, 1, 2, 3, 0, 1, 2, 3, 4], [0, 1, 2, 0, 1, 0, 1, 0, 0]])
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (B, T))


def random_params(model, seed=0):
    """Parameters that leave no norm at 1 and no logit near 0."""
    rng = np.random.default_rng(seed)
    tokens = jnp.zeros((1, 2), jnp.int32)
    shapes = nn.unbox(jax.eval_shape(lambda: model.init(jax.random.key(0), tokens)))["params"]
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0.3, 0.5, x.shape), x.dtype), shapes)


def numpy_rms(x, scale, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale


def numpy_rope(x, position, base):
    """[heads, N] at one position, as complex numbers."""
    half = x.shape[-1] // 2
    turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(
        1j * position * base ** (-np.arange(half) / half)
    )
    return np.concatenate([turned.real, turned.imag], axis=-1)


def numpy_logits(c, params, tokens, positions, segments):
    """One row: token by token, head by head, in float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x = p["embedding"][tokens]
    for i in range(c.num_layers):
        w = {k: v[i] for k, v in p["layers"].items()}
        h = numpy_rms(x, w["attention_norm"], c.norm_eps)
        q, k, v = (np.einsum("td,dhn->thn", h, w[n]) for n in ("query", "key", "value"))
        q = [numpy_rope(a, s, c.rope_base) for a, s in zip(q, positions, strict=True)]
        k = [numpy_rope(a, s, c.rope_base) for a, s in zip(k, positions, strict=True)]
        new = x.copy()
        for t in range(len(tokens)):
            visible = [s for s in range(t + 1) if segments[s] == segments[t]]
            for head in range(c.num_heads):
                group = head // (c.num_heads // c.num_kv_heads)
                scores = np.array([q[t][head] @ k[s][group] for s in visible]) / c.head_dim**0.5
                weights = np.exp(scores - scores.max())
                out = (weights / weights.sum()) @ np.stack([v[s][group] for s in visible])
                new[t] += out @ w["out"][head]
        x = new
        h = numpy_rms(x, w["mlp_norm"], c.norm_eps)
        gate = h @ w["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["up"])) @ w["down"]
    x = numpy_rms(x, p["final_norm"], c.norm_eps)
    head = p["embedding"].T if c.tie_embeddings else p["unembedding"]
    return (x @ head)[:, : c.vocab_size]


@pytest.fixture(scope="module")
def params():
    return random_params(Transformer(CONFIG))


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_numpy_and_padded_ids_are_masked(tied):
    config = dataclasses.replace(CONFIG, tie_embeddings=tied)
    params = random_params(Transformer(config), seed=1)
    assert ("unembedding" in params) == (not tied)
    logits = jax.jit(Transformer(config).apply)({"params": params}, TOKENS, POSITIONS, SEGMENTS)
    assert logits.shape == (B, T, 32) and logits.dtype == jnp.float32
    expected = [
        numpy_logits(config, params, *row) for row in zip(TOKENS, POSITIONS, SEGMENTS, strict=True)
    ]
    scale = np.abs(expected).max()
    assert scale > 1
    np.testing.assert_allclose(
        logits[..., : config.vocab_size] / scale, np.array(expected) / scale, atol=1e-5
    )
    assert np.all(logits[..., config.vocab_size :] == -1e30)
    probabilities = jax.nn.softmax(logits, axis=-1)
    assert np.all(probabilities[..., config.vocab_size :] == 0)


def test_positions_and_segments_default_to_one_whole_segment(params):
    apply = jax.jit(Transformer(CONFIG).apply)
    positions = np.tile(np.arange(T), (B, 1))
    given = apply({"params": params}, TOKENS, positions, np.ones((B, T), np.int32))
    np.testing.assert_array_equal(apply({"params": params}, TOKENS), given)


def test_llama_of_transformers_gives_the_same_logits():
    reason = "needs torch and transformers, which Seedpod itself does not"
    torch = pytest.importorskip("torch", reason=reason)
    transformers = pytest.importorskip("transformers", reason=reason)
    c = dataclasses.replace(CONFIG, vocab_size=32, tie_embeddings=False)
    params = random_params(Transformer(c), seed=2)
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=c.vocab_size, hidden_size=c.embed_dim, intermediate_size=c.mlp_dim,
            num_hidden_layers=c.num_layers, num_attention_heads=c.num_heads,
            num_key_value_heads=c.num_kv_heads, head_dim=c.head_dim, rms_norm_eps=c.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": c.rope_base},
            tie_word_embeddings=False, attn_implementation="eager",
        )
    )  # fmt: skip
    p = jax.tree.map(np.array, params)
    state = {
        "model.embed_tokens.weight": p["embedding"],
        "model.norm.weight": p["final_norm"],
        "lm_head.weight": p["unembedding"].T,
    }
    names = {
        "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj",
        "out": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj",
        "down": "mlp.down_proj", "attention_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
    }  # fmt: skip
    for ours, name in names.items():
        for i, w in enumerate(p["layers"][ours]):
            if w.ndim == 3:
                w = w.reshape(-1, c.embed_dim) if ours == "out" else w.reshape(c.embed_dim, -1)
            state[f"model.layers.{i}.{name}.weight"] = w.T
    state = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in state.items()}
    theirs.load_state_dict(state)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(TOKENS)).logits.numpy()
    ours = jax.jit(Transformer(c).apply)({"params": params}, TOKENS)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(ours / scale, expected / scale, atol=1e-5)


# Execution settings.


def loss_and_gradients(config, params):
    def loss(params):
        logits = Transformer(config).apply({"params": params}, TOKENS, POSITIONS, SEGMENTS)
        return jnp.mean(jax.nn.log_softmax(logits)[..., 3]), logits

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


@pytest.fixture(scope="module")
def plain(params):
    return loss_and_gradients(CONFIG, params)


@pytest.mark.parametrize("remat,unroll", [("minimal", 1), ("full", 2), ("none", 0)])
def test_remat_and_unroll_change_no_value_and_no_gradient(params, plain, remat, unroll):
    config = dataclasses.replace(CONFIG, remat=remat, scan_unroll=unroll)
    got = loss_and_gradients(config, params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), got, plain)
    assert all(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(plain[1]))


@pytest.mark.parametrize("pattern,unroll", [((), 1), (("local", "global"), 0)])
def test_the_last_positions_alone_have_the_same_hidden_states_and_gradients(pattern, unroll):
    """Unrolled on CPU the final layer computes no others."""
    last = 3
    config = dataclasses.replace(
        CONFIG, num_layers=2, scan_unroll=unroll, layer_pattern=pattern, window=2 * bool(pattern)
    )
    model, settings = Transformer(config), dict(method=Transformer.hidden)
    params = random_params(model)

    def loss(params, last):
        rows = TOKENS, POSITIONS, SEGMENTS
        hidden, _ = model.apply({"params": params}, *rows, last=last, **settings)
        hidden = hidden[:, -3:]
        return jnp.sum(jnp.sin(hidden)), hidden

    gradient = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    ours, expected = gradient(params, last), gradient(params, 0)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    flops = [gradient.lower(params, n).cost_analysis()["flops"] for n in (last, 0)]
    assert (flops[0] < 0.9 * flops[1]) == (unroll == 0)


def test_parameters_do_not_depend_on_the_execution_settings():
    def shapes(config):
        init = Transformer(config).init
        return jax.eval_shape(lambda: init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32)))

    other = dataclasses.replace(CONFIG, remat="full", scan_unroll=0, dtype="bfloat16")
    assert shapes(CONFIG) == shapes(other)


def test_bfloat16_activations_give_float32_logits(params, plain):
    model = Transformer(dataclasses.replace(CONFIG, dtype="bfloat16"))
    logits = jax.jit(model.apply)({"params": params}, TOKENS, POSITIONS, SEGMENTS)
    assert logits.dtype == jnp.float32
    expected = np.asarray(plain[0][1])[..., : CONFIG.vocab_size]
    error = np.abs(np.asarray(logits)[..., : CONFIG.vocab_size] - expected)
    assert 0 < error.max() < 0.1 * np.abs(expected).max()


def compiled(f, *args):
    return jax.jit(f).lower(*args).compile().as_text()


def test_rotary_sines_are_computed_once_on_cpu(params):
    """XLA there would compute them in all that reads them, for each head."""
    args = params, TOKENS, POSITIONS, SEGMENTS
    model = Transformer(dataclasses.replace(CONFIG, scan_unroll=0))
    program = compiled(jax.grad(lambda p, *x: jnp.sum(model.apply({"params": p}, *x))), *args)
    assert len(re.findall(r" sine\(", program)) == len(re.findall(r" cosine\(", program)) == 1


# Heads.


def test_the_scalar_head_reads_the_hidden_state_at_each_position():
    model = reward_model(CONFIG)
    params = random_params(model, seed=4)
    scores = jax.jit(model.apply)({"params": params}, TOKENS, POSITIONS, SEGMENTS)
    hidden, _ = jax.jit(
        lambda p: Transformer(CONFIG).apply(
            {"params": p}, TOKENS, POSITIONS, SEGMENTS, method=Transformer.hidden
        )
    )(params["backbone"])
    assert scores.shape == (B, T) and scores.dtype == jnp.float32
    expected = np.asarray(hidden, np.float64) @ np.asarray(params["head"], np.float64)
    np.testing.assert_allclose(scores, expected[..., 0], rtol=1e-4, atol=1e-5)


def test_kernels_start_with_the_deviation_that_they_say():
    for fan_in in (16, 1024):
        x = kernel_init(fan_in**-0.5)(jax.random.key(0), (400, 400), jnp.float32)
        np.testing.assert_allclose(np.std(x), fan_in**-0.5, rtol=0.01)
        assert np.max(np.abs(x)) < 2.3 * fan_in**-0.5


def test_heads_start_as_they_should():
    """Reward: normal with std 1/sqrt(D + 1); value: 0, so first advantages are the rewards."""
    config = dataclasses.replace(CONFIG, embed_dim=4095, num_layers=1, mlp_dim=2)
    tokens = jnp.zeros((1, 1), jnp.int32)

    @jax.jit
    def heads():
        return [
            nn.unbox(model(config).init(jax.random.key(0), tokens))["params"]["head"]
            for model in (reward_model, value_model)
        ]

    reward, value = heads()
    np.testing.assert_allclose(np.std(reward), 1 / 64, rtol=0.05)
    assert not value.any()
