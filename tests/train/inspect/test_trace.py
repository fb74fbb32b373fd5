"""Traces against a forward pass in float64 NumPy, written here from the weights by name.

Axes: T length, D embed, H query heads, K key heads, N head size, F mlp, E experts, k a token's.
"""

import dataclasses
import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from sample_runs.random_runs import CONFIG, family, write_run

from model.transformer import Transformer
from ranges import ConfigError
from train import inspect
from train.inspect import tracing

TEXT = "a few words"
CONFIGS = {
    "llama": family("llama3.1"),
    "gemma3": family("gemma3", attention_softcap=2.0, logit_softcap=3.0),
    "mixtral": family("mixtral"),
}


def rms(c, x, scale):
    scale = scale + 1 if c.norm_offset else scale
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.norm_eps) * scale


def rotated(c, x, kind):
    """x [T, heads, N], each pair turned by its position, as complex numbers."""
    half = x.shape[-1] // 2
    local = kind == "local" and c.local_rope_base
    frequency = (c.local_rope_base if local else c.rope_base) ** (-np.arange(half) / half)
    scaling = None if local else c.rope_scaling
    if scaling and scaling.kind == "linear":
        frequency = frequency / scaling.factor
    elif scaling:  # as in the code of Llama 3.1
        for i, f in enumerate(frequency):
            length = 2 * math.pi / f
            share = (scaling.original_length / length - scaling.low_freq_factor) / (
                scaling.high_freq_factor - scaling.low_freq_factor
            )
            share = min(max(share, 0), 1)
            frequency[i] = (1 - share) * f / scaling.factor + share * f
    angle = np.arange(len(x))[:, None, None] * frequency
    z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
    return np.concatenate([z.real, z.imag], -1)


def act(c, x):
    if c.activation == "silu":
        return x / (1 + np.exp(-x))
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def plain_forward(c, params, ids):
    """{name: value} of everything that a trace names."""
    p = jax.tree.map(lambda w: np.asarray(w, np.float64), params)
    T, H, K = len(ids), c.num_heads, c.num_kv_heads
    out = {}
    x = p["embedding"][ids] * (math.sqrt(c.embed_dim) if c.embedding_scale else 1)
    out["embedding"] = x
    for i in range(c.num_layers):
        w, kind = {n: v[i] for n, v in p["layers"].items()}, c.layer_kinds[i % len(c.layer_kinds)]
        o = {}
        h = o["attention.input"] = rms(c, x, w["attention_norm"])
        q, k, v = (np.einsum("td,dhn->thn", h, w[n]) for n in ("query", "key", "value"))
        if c.qk_norm:
            q, k = rms(c, q, w["query_norm"]), rms(c, k, w["key_norm"])
        q, k = rotated(c, q, kind), rotated(c, k, kind)
        o |= {"attention.query": q, "attention.key": k, "attention.value": v}
        scale = c.query_scale or c.head_dim**-0.5
        logits = np.einsum("thn,shn->hts", q, np.repeat(k, H // K, 1)) * scale
        if c.attention_softcap:
            logits = c.attention_softcap * np.tanh(logits / c.attention_softcap)
        gap = np.arange(T)[:, None] - np.arange(T)
        seen = (gap >= 0) & (gap < c.window if kind == "local" else True)
        weights = o["attention.weights"] = softmax(np.where(seen, logits, -np.inf))
        heads = np.einsum("hts,shn->thn", weights, np.repeat(v, H // K, 1))
        o["attention.heads"] = heads
        a = np.einsum("thn,hnd->td", heads, w["out"])
        a = o["attention.out"] = rms(c, a, w["post_attention_norm"]) if c.post_norms else a
        x = o["residual_middle"] = x + a
        h = o["mlp.input"] = rms(c, x, w["mlp_norm"])
        if c.num_experts:
            logits = o["router.logits"] = h @ w["router"]
            chosen = o["router.experts"] = np.argsort(-logits, -1)[:, : c.experts_per_token]
            shares = np.take_along_axis(softmax(logits), chosen, -1)
            shares = o["router.weights"] = shares / shares.sum(-1, keepdims=True)
            gate, up = (np.einsum("td,tkdf->tkf", h, w[n][chosen])
                        for n in ("expert_gate", "expert_up"))  # fmt: skip
            hidden = act(c, gate) * up
            m = np.einsum("tkf,tkfd,tk->td", hidden, w["expert_down"][chosen], shares)
        else:
            gate, up = h @ w["gate"], h @ w["up"]
            hidden = act(c, gate) * up
            m = hidden @ w["down"]
        o |= {"mlp.gate": gate, "mlp.up": up, "mlp.hidden": hidden}
        m = o["mlp.out"] = rms(c, m, w["post_mlp_norm"]) if c.post_norms else m
        x = o["residual"] = x + m
        out |= {f"layers.{i}.{name}": value for name, value in o.items()}
    x = out["final_norm"] = rms(c, x, p["final_norm"])
    logits = x @ (p["embedding"].T if c.tie_embeddings else p["unembedding"])
    if c.logit_softcap:
        logits = c.logit_softcap * np.tanh(logits / c.logit_softcap)
    out["logits"] = logits[:, : c.vocab_size]
    return out


@pytest.mark.parametrize(
    "name", [pytest.param("llama", marks=pytest.mark.slow), "gemma3", "mixtral"]
)
def test_a_trace_is_a_plain_forward_pass(name, tmp_path):
    config = CONFIGS[name]
    params = write_run(tmp_path / "run", config)["policy"]
    m = inspect.open(tmp_path / "run")
    ids = m.tokens(TEXT).ids
    expected = plain_forward(config, params, ids)
    for unroll in (0, 1):
        m.config = dataclasses.replace(config, scan_unroll=unroll, remat="full")
        trace = m.trace(TEXT)
        assert list(trace) == list(m.names(TEXT)) and trace.keys() == expected.keys()
        for key, value in expected.items():
            scale = np.abs(value).max()
            assert trace[key].shape == value.shape == m.names(TEXT)[key].shape, key
            np.testing.assert_allclose(trace[key] / scale, value / scale, atol=1e-5, err_msg=key)
    # What training computes, by its own attention and under its scan.
    whole = jax.jit(Transformer(m.config).apply)({"params": params}, ids[None])
    np.testing.assert_allclose(trace["logits"], whole[0, :, : config.vocab_size], atol=1e-4)


@pytest.fixture(scope="module")
def m(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    write_run(path, CONFIG, {"policy": 1})
    return inspect.open(path)


def test_a_patch_with_the_identity_changes_nothing_and_one_with_zeros_what_it_should(m):
    trace = m.trace(TEXT)
    same = m.patch(TEXT, {"layers.*": lambda x: x, "logits": np.asarray})
    for name, value in trace.items():
        np.testing.assert_array_equal(same[name], value)
    # Without its additions a layer passes its input on; what is before it stays.
    zeros = {f"layers.1.{part}.out": np.zeros_like for part in ("attention", "mlp")}
    patched = m.patch(TEXT, zeros)
    np.testing.assert_array_equal(patched["layers.0.residual"], trace["layers.0.residual"])
    np.testing.assert_array_equal(patched["layers.1.residual"], trace["layers.0.residual"])
    assert np.abs(patched["logits"] - trace["logits"]).max() > 1e-3
    # Queries that see their own key alone take its value.
    eye = m.patch(TEXT, {"layers.2.attention.weights": lambda w: np.eye(w.shape[1])[None] + 0 * w})
    values = np.repeat(eye["layers.2.attention.value"], 2, axis=1)
    np.testing.assert_allclose(eye["layers.2.attention.heads"], values, atol=1e-6)
    # A change of the last token's residual reaches no other token.
    last = m.patch(TEXT, {"layers.0.residual": lambda x: x.at[-1].set(0)})
    np.testing.assert_array_equal(last["logits"][:-1], trace["logits"][:-1])


def test_a_patched_router_sends_tokens_to_other_experts(tmp_path):
    config = CONFIGS["mixtral"]
    params = write_run(tmp_path / "run", config)["policy"]
    m = inspect.open(tmp_path / "run")
    trace = m.patch(TEXT, {"layers.0.router.experts": lambda e: 0 * e + np.array([3, 1])})
    w = {n: np.asarray(v[0], np.float64) for n, v in params["layers"].items()}
    h = trace["layers.0.mlp.input"]
    out = 0
    for i, expert in enumerate((3, 1)):
        hidden = act(config, h @ w["expert_gate"][expert]) * (h @ w["expert_up"][expert])
        out += trace["layers.0.router.weights"][:, i : i + 1] * (hidden @ w["expert_down"][expert])
    np.testing.assert_allclose(trace["layers.0.mlp.out"], out, rtol=1e-4, atol=1e-4)


def test_what_is_not_there_or_does_not_fit_is_refused(m, tmp_path):
    with pytest.raises(
        ValueError, match=r"'layers\.1\.residuals'; did you mean layers\.1\.residual"
    ):
        m.patch(TEXT, {"layers.1.residuals": lambda x: x})
    with pytest.raises(ValueError, match=r"no value is named 'layers\.9\.residual'"):
        m.trace(TEXT, "layers.9.residual")
    with pytest.raises(ValueError, match=r"is \[12, 16\], and its patch returns \[16\]"):
        m.patch(TEXT, {"layers.1.residual": lambda x: x[0]})
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.out returns NaN or infinity"):
        m.patch(TEXT, {"layers.1.mlp.out": lambda x: x / 0})
    with pytest.raises(ValueError, match=r"'\*residual' and 'layers\.1\.\*' both change"):
        m.patch(TEXT, {"*residual": lambda x: x, "layers.1.*": lambda x: x})
    with pytest.raises(ValueError, match="returns None; return the changed array"):
        m.patch(TEXT, {"layers.1.mlp.out": lambda x: None})
    with pytest.raises(ValueError, match="reads at most 64"):
        m.trace("a" * 64)
    for messages in ([], [{"role": "user"}], ["hello"]):
        with pytest.raises(ValueError, match="is no conversation; write"):
            m.token_losses(messages)
    write_run(tmp_path, CONFIG, {"policy": 1, "value_head": 2})
    head = inspect.open(tmp_path, role="value_head")
    assert list(head.params) == ["head"] and head.params["head"].shape == (16, 1)
    with pytest.raises(ConfigError, match="a value_head reads no text"):
        head.trace(TEXT)
    with pytest.raises(KeyError, match=r"no 'layers\.0\.resdual'; did you mean layers"):
        m.trace(TEXT, ["layers.*.residual"])["layers.0.resdual"]


def test_only_what_is_named_is_kept_and_too_much_is_refused(m, monkeypatch):
    assert list(m.trace(TEXT, ["layers.*.residual", "logits"])) == [
        *(f"layers.{i}.residual" for i in range(3)), "logits",
    ]  # fmt: skip
    monkeypatch.setattr("train.inspect.tracing.LARGEST", 10_000)
    assert len(m.trace(TEXT, "layers.1.mlp.*")) == 5
    with pytest.raises(ValueError, match="name those to keep"):
        m.trace(TEXT)


def test_the_page_names_all_values():
    page = (
        (Path(__file__).parents[3] / "docs/inspect.md").read_text().split("## Runs and rollouts")[0]
    )
    rows = set(re.findall(r"^\| `((?:layers\.N\.)?[\w.]+)` \|", page, re.MULTILINE))
    found = set()
    for config in CONFIGS.values():
        for role in ("policy", "reward"):
            names = tracing.names(role, config, 1)
            found |= {re.sub(r"layers\.\d+", "layers.N", name) for name in names}
    assert rows == found
