"""Open weights: the pure mapping of names and shapes between Hugging Face checkpoints and ours.

Nothing here reads or writes a file (train/convert.py does). The families: model/families.py.

Axes: D embed, H query heads, K key/value heads, N head size, F mlp, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from model.config import RopeScaling, TransformerConfig
from model.families import FAMILIES, family_of

# What the projections of an expert are called.
EXPERT_NAMES = {
    "mixtral": {"expert_gate": "w1", "expert_up": "w3", "expert_down": "w2"},
    "qwen3_moe": {f"expert_{n}": f"{n}_proj" for n in ("gate", "up", "down")},
}

# Keys of config.json that change what is computed, with the values under which it is computed here.
REQUIRED = {
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "rope_interleaved": (False,),
    "partial_rotary_factor": (1.0,),
    "use_bidirectional_attention": (False,),
    "quantization_config": (),
    "mlp_only_layers": ([],),
    "decoder_sparse_step": (1,),
    "router_jitter_noise": (0.0,),
}
# The fields of RopeScaling, by kind, and what config.json calls them.
ROPE_KEYS = {
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
        "original_length": "original_max_position_embeddings",
    },
}
ACTIVATION_NAMES = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


# config.json -> TransformerConfig


def config_from_hf(hf: Mapping) -> TransformerConfig:
    """The architecture that a config.json describes.

    Args:
      hf: the parsed config.json, as released checkpoints or transformers 5 write it.

    Raises:
      ValueError: a family, key or value that Seedpod does not compute; it is named.
    """
    if hf.get("model_type") == "gemma3":  # its text model; the vision tower is left out
        top = {k: hf[k] for k in ("tie_word_embeddings", "quantization_config") if k in hf}
        hf = {"model_type": "gemma3_text", **top, **hf["text_config"]}
    kind = hf.get("model_type")
    if kind not in FAMILIES:
        raise ValueError(
            f"config.json has model_type={kind!r}; Seedpod knows {', '.join(FAMILIES)}"
        )
    family = FAMILIES[kind]
    hf = family.defaults | {k: v for k, v in hf.items() if v is not None or k == "sliding_window"}

    def need(key):
        if key not in hf:
            raise ValueError(f"config.json of a {kind} model has no {key!r}")
        return hf[key]

    for key, allowed in REQUIRED.items():
        if key in hf and hf[key] not in allowed:
            raise ValueError(f"config.json has {key}={hf[key]!r}, which Seedpod does not compute")
    usual = family.settings.get("activation", "silu")
    gate = hf.get("hidden_activation", hf.get("hidden_act"))
    if gate == "gelu" and kind.startswith("gemma"):  # how the first Gemmas wrote the tanh form
        gate = "gelu_pytorch_tanh"
    if gate is not None and ACTIVATION_NAMES.get(gate) != usual:
        raise ValueError(f"config.json of a {kind} model has hidden_act={gate!r}")

    heads, layers = need("num_attention_heads"), need("num_hidden_layers")
    head_dim = hf.get("head_dim") or need("hidden_size") // heads
    pattern, window = _windows(hf, kind, layers)
    base, scaling, local_base = _rope(hf)
    free = dict(
        window=window,
        layer_pattern=pattern,
        attention_softcap=hf.get("attn_logit_softcapping", 0.0),
        logit_softcap=hf.get("final_logit_softcapping", 0.0),
        local_rope_base=local_base,
    )
    if "query_scale" in family.free:
        # 0, the field's default, says 1/√N.
        scalar = hf["query_pre_attn_scalar"]
        free["query_scale"] = 0.0 if scalar == head_dim else scalar**-0.5
    if "num_experts" in family.free:
        # Mixtral's own name for it; transformers 5 takes both for both.
        free["num_experts"] = hf.get("num_local_experts") or need("num_experts")
        free["experts_per_token"] = need("num_experts_per_tok")
        free["renormalize_experts"] = hf.get("norm_topk_prob", True)
    width = "moe_intermediate_size" if kind == "qwen3_moe" else "intermediate_size"
    return TransformerConfig(
        vocab_size=need("vocab_size"),
        embed_dim=need("hidden_size"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=hf.get("num_key_value_heads", heads),
        head_dim=head_dim,
        mlp_dim=need(width),
        rope_base=base,
        rope_scaling=scaling,
        norm_eps=hf.get("rms_norm_eps", 1e-6),
        tie_embeddings=hf.get("tie_word_embeddings", False),
        max_length=need("max_position_embeddings"),
        **family.settings,
        **{k: v for k, v in free.items() if k in family.free},
    )


def _rope(hf):
    """(base, scaling, local base) of the older keys or of transformers 5's `rope_parameters`."""
    parameters = hf.get("rope_parameters", {})
    local = parameters.get("sliding_attention", {})
    if local.get("rope_type", "default") != "default":
        raise ValueError(f"config.json scales the rotary positions of local layers: {local}")
    if "full_attention" in parameters:
        parameters = parameters["full_attention"]
    parameters = parameters or hf.get("rope_scaling", {})
    base = float(parameters.get("rope_theta", hf.get("rope_theta", 10_000.0)))
    local_base = float(local.get("rope_theta", hf.get("rope_local_base_freq", 0.0)))
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError("config.json has a partial_rotary_factor, which Seedpod does not compute")
    if kind == "default":
        return base, None, local_base
    if kind not in ROPE_KEYS:
        raise ValueError(
            f"config.json scales rotary positions with rope_type={kind!r}; Seedpod computes "
            f"default, {', '.join(ROPE_KEYS)}"
        )
    for key in ROPE_KEYS[kind].values():
        if key not in parameters:
            raise ValueError(f"config.json scales rotary positions by {kind} without {key!r}")
    found = {ours: parameters[theirs] for ours, theirs in ROPE_KEYS[kind].items()}
    return base, RopeScaling(kind, **found), local_base


def _windows(hf, kind, layers):
    """(layer_pattern, window) of a config.json."""
    window = hf.get("sliding_window") or 0
    how = FAMILIES[kind].windows
    if how == "listed" and kind.startswith("qwen") and not hf.get("use_sliding_window", False):
        window = 0
    if how == "none" and hf.get("use_sliding_window", False):
        raise ValueError(
            f"config.json of a {kind} model has use_sliding_window=True, which Seedpod does not "
            "compute"
        )
    if how == "none" or not window:
        return (), 0
    if how == "all":
        return ("local",), window
    names = hf.get("layer_types")
    if names:
        known = {"sliding_attention": "local", "full_attention": "global"}
        for name in names:
            if name not in known:
                raise ValueError(f"config.json has {name!r} in layer_types")
        kinds = [known[name] for name in names]
    elif kind.startswith("qwen"):
        start = hf.get("max_window_layers", layers)
        kinds = ["local" if i >= start else "global" for i in range(layers)]
    else:  # every so many layers one is global
        every = 2 if kind == "gemma2" else hf.get("sliding_window_pattern", 6)
        kinds = ["local" if (i + 1) % every else "global" for i in range(layers)]
    if "local" not in kinds:
        return (), 0
    period = next(
        p for p in range(1, layers + 1) if all(kinds[i] == kinds[i % p] for i in range(layers))
    )
    return tuple(kinds[:period]), window


# TransformerConfig -> config.json


def config_to_hf(config: TransformerConfig) -> dict:
    """A config.json's content, that transformers reads; `config_from_hf` gives the config back.

    Raises:
      ValueError: no family of transformers computes this.
    """
    kind = family_of(config)
    family, c = FAMILIES[kind], config
    gate = {v: k for k, v in ACTIVATION_NAMES.items()}[c.activation]
    hf = dict(
        architectures=[family.architecture],
        model_type=kind,
        vocab_size=c.vocab_size,
        hidden_size=c.embed_dim,
        intermediate_size=c.mlp_dim,
        num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads,
        num_key_value_heads=c.num_kv_heads,
        head_dim=c.head_dim,
        hidden_act=gate,
        max_position_embeddings=c.max_length,
        rms_norm_eps=c.norm_eps,
        rope_theta=c.rope_base,
        tie_word_embeddings=c.tie_embeddings,
    )
    if scaling := c.rope_scaling:
        keys = {theirs: getattr(scaling, ours) for ours, theirs in ROPE_KEYS[scaling.kind].items()}
        hf["rope_scaling"] = {"rope_type": scaling.kind, **keys}
    if family.windows != "none":
        hf["sliding_window"] = c.window or None
    if family.windows == "listed":
        names = {"local": "sliding_attention", "global": "full_attention"}
        kinds = c.layer_kinds
        hf["layer_types"] = [names[kinds[i % len(kinds)]] for i in range(c.num_layers)]
    if family.windows == "listed" and kind.startswith("qwen"):
        hf["use_sliding_window"] = bool(c.window)
        # What releases before `layer_types` read.
        local = (i for i, name in enumerate(hf["layer_types"]) if name == "sliding_attention")
        hf["max_window_layers"] = next(local, c.num_layers)
    if kind.startswith("gemma"):
        hf["hidden_activation"] = gate
        hf["query_pre_attn_scalar"] = _number(c.query_scale**-2 if c.query_scale else c.head_dim)
        hf["attn_logit_softcapping"] = c.attention_softcap or None
        hf["final_logit_softcapping"] = c.logit_softcap or None
    if "local_rope_base" in family.free:
        hf["rope_local_base_freq"] = c.local_rope_base or c.rope_base
    if c.num_experts:
        hf["num_experts_per_tok"] = c.experts_per_token
        hf["num_local_experts" if kind == "mixtral" else "num_experts"] = c.num_experts
    if kind == "qwen3_moe":
        hf["moe_intermediate_size"] = c.mlp_dim
        hf["norm_topk_prob"] = c.renormalize_experts
    return hf


def _number(x: float):
    """x, as an int where rounding alone keeps it from being one."""
    return round(x) if abs(x - round(x)) < 1e-6 * x else x


# Tensors


class Slice(NamedTuple):
    """One tensor of a Hugging Face checkpoint, as a part of one of our parameters.

    Attributes:
      path: of the parameter in the tree. index: of its leading axes: `params[path][index]` is the
        part; () is all of it.
      name, shape: of the tensor in the checkpoint.
      to_ours, to_hf: numpy functions from the tensor to the part and back; they keep the dtype.
    """

    path: tuple[str, ...]
    index: tuple[int, ...]
    name: str
    shape: tuple[int, ...]
    to_ours: Callable[[np.ndarray], np.ndarray]
    to_hf: Callable[[np.ndarray], np.ndarray]


def _same(shape):
    """Vectors, and biases that only lose the split into heads."""
    return (int(np.prod(shape)),), lambda x: x.reshape(shape), lambda x: x.reshape(-1)


def _matrix(inputs, outputs):
    """Ours [*inputs, *outputs]; theirs [outputs, inputs], each flat."""
    i, o = int(np.prod(inputs)), int(np.prod(outputs))
    return (o, i), lambda x: x.T.reshape(*inputs, *outputs), lambda x: x.reshape(i, o).T


def _table(c: TransformerConfig, transposed: bool):
    """A vocabulary's rows: ours are padded with zeros to a multiple, and `logits` masks them."""
    padding = c.padded_vocab_size - c.vocab_size

    def to_ours(x):
        x = np.pad(x, ((0, padding), (0, 0))) if padding else x
        return x.T if transposed else x

    def to_hf(x):
        return (x.T if transposed else x)[: c.vocab_size]

    return (c.vocab_size, c.embed_dim), to_ours, to_hf


def slices(config: TransformerConfig) -> tuple[Slice, ...]:
    """Every tensor of a Hugging Face checkpoint of this architecture.

    Together they fill every parameter of `Transformer(config)` once.

    Raises:
      ValueError: no family of transformers computes this.
    """
    kind, c = family_of(config), config
    D, H, K, N, F = c.embed_dim, c.num_heads, c.num_kv_heads, c.head_dim, c.mlp_dim
    layer = {
        "query": ("self_attn.q_proj.weight", _matrix((D,), (H, N))),
        "key": ("self_attn.k_proj.weight", _matrix((D,), (K, N))),
        "value": ("self_attn.v_proj.weight", _matrix((D,), (K, N))),
        "out": ("self_attn.o_proj.weight", _matrix((H, N), (D,))),
        "gate": ("mlp.gate_proj.weight", _matrix((D,), (F,))),
        "up": ("mlp.up_proj.weight", _matrix((D,), (F,))),
        "down": ("mlp.down_proj.weight", _matrix((F,), (D,))),
        "attention_norm": ("input_layernorm.weight", _same((D,))),
        "mlp_norm": ("post_attention_layernorm.weight", _same((D,))),
    }
    if c.attention_bias:
        layer |= {
            "query_bias": ("self_attn.q_proj.bias", _same((H, N))),
            "key_bias": ("self_attn.k_proj.bias", _same((K, N))),
            "value_bias": ("self_attn.v_proj.bias", _same((K, N))),
        }
    if c.qk_norm:
        layer |= {
            "query_norm": ("self_attn.q_norm.weight", _same((N,))),
            "key_norm": ("self_attn.k_norm.weight", _same((N,))),
        }
    if c.post_norms:
        layer |= {
            "post_attention_norm": ("post_attention_layernorm.weight", _same((D,))),
            "mlp_norm": ("pre_feedforward_layernorm.weight", _same((D,))),
            "post_mlp_norm": ("post_feedforward_layernorm.weight", _same((D,))),
        }
    experts = {}
    if c.num_experts:
        for name in ("gate", "up", "down"):
            experts[f"expert_{name}"] = layer.pop(name)
        block = "block_sparse_moe" if kind == "mixtral" else "mlp"
        layer["router"] = (f"{block}.gate.weight", _matrix((D,), (c.num_experts,)))
    found = [
        Slice(("embedding",), (), "model.embed_tokens.weight", *_table(c, False)),
        Slice(("final_norm",), (), "model.norm.weight", *_same((D,))),
    ]
    if not c.tie_embeddings:
        found.append(Slice(("unembedding",), (), "lm_head.weight", *_table(c, True)))
    for i in range(c.num_layers):
        for name, (theirs, how) in layer.items():
            found.append(Slice(("layers", name), (i,), f"model.layers.{i}.{theirs}", *how))
        for name, (_, how) in experts.items():
            for e in range(c.num_experts):
                theirs = f"model.layers.{i}.{block}.experts.{e}.{EXPERT_NAMES[kind][name]}.weight"
                found.append(Slice(("layers", name), (i, e), theirs, *how))
    return tuple(found)
