"""The open families: which settings of `TransformerConfig` each is, a row a family."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from model.config import TransformerConfig

GEMMA = dict(
    activation="gelu_tanh", post_norms=True, norm_offset=True, embedding_scale=True
)  # fmt: skip
SOFTCAPS = ("attention_softcap", "logit_softcap")
WINDOWS = ("window", "layer_pattern")
EXPERTS = ("num_experts", "experts_per_token")


class Family(NamedTuple):
    """One `model_type` of Hugging Face.

    Attributes:
      architecture: its class in transformers.
      settings: fields of TransformerConfig that it sets. free: fields that its config.json may set
        to anything. What is in neither has the default.
      defaults: keys of config.json that released checkpoints leave out.
      windows: who is local: `none`; `all` layers; `listed` by `layer_types`.
    """

    architecture: str
    settings: dict
    free: tuple[str, ...] = ()
    defaults: Mapping = {}
    windows: str = "none"


FAMILIES = {
    "llama": Family("LlamaForCausalLM", {}),
    "mistral": Family(
        "MistralForCausalLM", {}, WINDOWS, dict(sliding_window=4096), windows="all"
    ),
    "qwen2": Family("Qwen2ForCausalLM", dict(attention_bias=True), WINDOWS, windows="listed"),
    "qwen3": Family("Qwen3ForCausalLM", dict(qk_norm=True), WINDOWS, windows="listed"),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        GEMMA,
        (*WINDOWS, *SOFTCAPS, "query_scale"),
        dict(
            head_dim=256, query_pre_attn_scalar=256, sliding_window=4096, tie_word_embeddings=True,
            attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
        ),
        windows="listed",
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        GEMMA | dict(qk_norm=True),
        (*WINDOWS, *SOFTCAPS, "query_scale", "local_rope_base"),
        dict(
            vocab_size=262_208, num_attention_heads=8, num_key_value_heads=4, head_dim=256,
            rope_theta=1_000_000.0, rope_local_base_freq=10_000.0, query_pre_attn_scalar=256,
            sliding_window=4096, tie_word_embeddings=True, max_position_embeddings=131_072,
        ),
        windows="listed",
    ),
    "mixtral": Family(
        "MixtralForCausalLM",
        {},
        (*WINDOWS, *EXPERTS),
        dict(rope_theta=1_000_000.0, rms_norm_eps=1e-5),
        windows="all",
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM",
        dict(qk_norm=True),
        (*EXPERTS, "renormalize_experts"),
        dict(num_experts=128, num_experts_per_tok=8, norm_topk_prob=False),
    ),
}  # fmt: skip

# Fields that tell the families apart: a family has them from `settings`, `free` or the default.
VARIANTS = (
    "activation", "attention_bias", "qk_norm", "post_norms", "norm_offset", "embedding_scale",
    "query_scale", "local_rope_base", *SOFTCAPS, *WINDOWS,
    *EXPERTS, "renormalize_experts",
)  # fmt: skip


def family_of(config: TransformerConfig) -> str:
    """The `model_type` that computes what a config says: the first of `FAMILIES` that can.

    Raises:
      ValueError: none does, with what is in the way of each.
    """
    default = {f.name: f.default for f in dataclasses.fields(TransformerConfig)}
    why = []
    for kind, family in FAMILIES.items():
        expected = {n: family.settings.get(n, default[n]) for n in VARIANTS}
        wrong = [n for n in VARIANTS if n not in family.free and getattr(config, n) != expected[n]]
        if bool(config.num_experts) != ("num_experts" in family.free):
            wrong.append("num_experts")
        if family.windows == "all" and len(set(config.layer_kinds)) > 1:
            wrong.append("layer_pattern")
        if not wrong:
            return kind
        why.append(f"{kind}: {', '.join(wrong)}")
    raise ValueError(
        "no family of Hugging Face transformers has these settings of the model. In the way are, "
        "by family: " + "; ".join(why)
    )
