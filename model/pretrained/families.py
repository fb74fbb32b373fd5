"""The open families: which settings of `TransformerConfig` each has, a row a family."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from model.config import TransformerConfig

GEMMA = dict(post_norms=True, norm_offset=True, embedding_scale=True)

# Fields of TransformerConfig and the keys of config.json, one of which a family needs to express
# them. A field that is neither here nor in EXECUTION has one value in a family.
KEYS_OF = {
    "vocab_size": ("vocab_size",),
    "embed_dim": ("hidden_size",),
    "num_layers": ("num_hidden_layers",),
    "num_heads": ("num_attention_heads",),
    "num_kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "mlp_dim": ("moe_intermediate_size", "intermediate_size"),
    "rope_base": ("rope_theta",),
    "norm_eps": ("rms_norm_eps",),
    "tie_embeddings": ("tie_word_embeddings",),
    "rope_scaling": ("rope_scaling",),
    "local_rope_base": ("rope_local_base_freq",),
    "layer_pattern": ("sliding_window",),
    "window": ("sliding_window",),
    "activation": ("hidden_activation", "hidden_act"),
    "query_scale": ("query_pre_attn_scalar",),
    "attention_softcap": ("attn_logit_softcapping",),
    "logit_softcap": ("final_logit_softcapping",),
    "num_experts": ("num_experts",),
    "experts_per_token": ("num_experts_per_tok",),
    "renormalize_experts": ("norm_topk_prob",),
    "max_length": ("max_position_embeddings",),
}
# How a model is computed or initialised, not what it computes: no family needs a key for these. A
# reward model's `pool` is checked where it is exported.
EXECUTION = (
    "init_scale", "unembedding_init_scale", "embedding_std", "depth_scaled_init", "base_width",
    "vocab_multiple", "dtype", "matmul", "scan_unroll", "remat", "replicate_kv_heads", "attention",
    "attention_block", "attention_compute_block", "pool",
)  # fmt: skip


class Family(NamedTuple):
    """One `model_type` of Hugging Face.

    Attributes:
      architecture: its class in transformers.
      keys: the keys of its config.json that are read, each with transformers' default.
      settings: fields of TransformerConfig that it sets, in place of their defaults.
      unread: keys that transformers accepts for it and ignores.
      windows: the local layers: `none`; `all` or none; `listed` by `layer_types`.
      whole_heads: transformers refuses a hidden_size that num_attention_heads does not divide.
    """

    architecture: str
    keys: Mapping
    settings: Mapping = {}
    unread: tuple[str, ...] = ()
    windows: str = "none"
    whole_heads: bool = False


def _keys(base: Mapping, *left_out: str, **changed) -> dict:
    return {k: v for k, v in base.items() if k not in left_out} | changed


_LLAMA = dict(
    vocab_size=32_000, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32,
    num_attention_heads=32, num_key_value_heads=None, head_dim=None, hidden_act="silu",
    max_position_embeddings=2048, rms_norm_eps=1e-6, tie_word_embeddings=False,
    rope_theta=10_000.0, rope_parameters=None, rope_scaling=None,
    original_max_position_embeddings=None, layer_types=None,
)  # fmt: skip
_MISTRAL = _keys(
    _LLAMA, intermediate_size=14_336, num_key_value_heads=8, max_position_embeddings=131_072,
    sliding_window=4096,
)  # fmt: skip
_QWEN2 = _keys(
    _LLAMA, vocab_size=151_936, intermediate_size=22_016, num_key_value_heads=32,
    max_position_embeddings=32_768, use_sliding_window=False, sliding_window=4096,
    max_window_layers=28,
)  # fmt: skip
_GEMMA2 = _keys(
    _LLAMA, "hidden_act", vocab_size=256_000, hidden_size=2304, intermediate_size=9216,
    num_hidden_layers=26, num_attention_heads=8, num_key_value_heads=4, head_dim=256,
    max_position_embeddings=8192, tie_word_embeddings=True, hidden_activation="gelu_pytorch_tanh",
    query_pre_attn_scalar=256, sliding_window=4096, attn_logit_softcapping=50.0,
    final_logit_softcapping=30.0,
)  # fmt: skip
# Its config has attn_logit_softcapping, and its attention does not use it.
_GEMMA3 = _keys(
    _GEMMA2, "attn_logit_softcapping", vocab_size=262_208, max_position_embeddings=131_072,
    rope_theta=1_000_000.0, rope_local_base_freq=10_000.0, sliding_window_pattern=6,
    final_logit_softcapping=None,
)  # fmt: skip
_MIXTRAL = _keys(
    _MISTRAL, sliding_window=None, rope_theta=1_000_000.0, rms_norm_eps=1e-5, num_experts=8,
    num_experts_per_tok=2,
)  # fmt: skip
_QWEN3_MOE = _keys(
    _LLAMA, "intermediate_size", vocab_size=151_936, hidden_size=2048, moe_intermediate_size=768,
    num_hidden_layers=24, num_key_value_heads=4, max_position_embeddings=32_768, num_experts=128,
    num_experts_per_tok=8, norm_topk_prob=False,
)  # fmt: skip

FAMILIES = {
    "llama": Family("LlamaForCausalLM", _LLAMA, whole_heads=True),
    "mistral": Family("MistralForCausalLM", _MISTRAL, windows="all"),
    "qwen2": Family(
        "Qwen2ForCausalLM", _QWEN2, dict(attention_bias=True), ("attention_bias",), "listed"
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM", _keys(_QWEN2, head_dim=128), dict(qk_norm=True), windows="listed"
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM", _GEMMA2, GEMMA, ("hidden_act", "sliding_window_size"), "listed",
        whole_heads=True,
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM", _GEMMA3, GEMMA | dict(qk_norm=True), ("hidden_act",), "listed",
        whole_heads=True,
    ),
    "mixtral": Family("MixtralForCausalLM", _MIXTRAL, windows="all"),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM",
        _QWEN3_MOE,
        dict(qk_norm=True),
        # No window without `use_sliding_window`, which is refused; the MLP is of dense layers.
        ("sliding_window", "max_window_layers", "intermediate_size"),
    ),
}  # fmt: skip


def family_of(config: TransformerConfig) -> str:
    """The `model_type` of a config: the first of `FAMILIES` that can express it.

    Raises:
      ValueError: none can; the message names the settings that the nearest families lack.
    """
    wrong = {kind: _inexpressible(config, family) for kind, family in FAMILIES.items()}
    fewest = min(len(names) for names in wrong.values())
    nearest = {kind: names for kind, names in wrong.items() if len(names) == fewest}
    if not fewest:
        return next(iter(nearest))
    why = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in nearest.items())
    raise ValueError(
        "no family of Hugging Face transformers has these settings of the model. In the way are, "
        f"by family, of the nearest: {why}"
    )


def _inexpressible(c: TransformerConfig, family: Family) -> list[str]:
    """The fields of a config whose value a family's config.json cannot express."""
    wrong = []
    for field in dataclasses.fields(c):
        if field.name in EXECUTION or any(k in family.keys for k in KEYS_OF.get(field.name, ())):
            continue
        if getattr(c, field.name) != family.settings.get(field.name, field.default):
            wrong.append(field.name)
    if "num_experts" in family.keys and not c.num_experts:
        wrong.append("num_experts")
    if family.windows == "all" and len(set(c.layer_kinds)) > 1:
        wrong.append("layer_pattern")
    scaled_locals = c.rope_scaling and c.window and not c.local_rope_base
    if "rope_local_base_freq" in family.keys and scaled_locals:
        wrong.append("local_rope_base")  # its local layers are never scaled
    if "query_pre_attn_scalar" in family.keys and not isinstance(query_scalar(c), int):
        wrong.append("query_scale")
    if family.whole_heads and c.embed_dim % c.num_heads:
        wrong.append("embed_dim")
    return wrong


def query_scalar(c: TransformerConfig) -> int | float:
    """1 / scale² of the queries; an int where rounding alone keeps it from being one."""
    x = c.query_scale**-2 if c.query_scale else c.head_dim
    return round(x) if abs(x - round(x)) < 1e-6 * x else x
