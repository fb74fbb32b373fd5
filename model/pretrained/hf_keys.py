"""The keys of config.json: each is read, known to change nothing, or refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from model.pretrained.families import FAMILIES, Family

# Keys that do not change what is computed from the weights: those of training, generation and
# files, and of how transformers runs a model.
IGNORED = frozenset((
    "architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "auto_map",
    "tokenizer_class", "name_or_path", "_name_or_path", "_commit_hash", "license", "language",
    "tags", "base_model", "model_name", "use_cache", "attn_implementation",
    "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal",
    "experts_implementation", "_experts_implementation", "_experts_implementation_internal",
    "_flash_attn_2_enabled", "use_flash_attn", "use_flash_attention", "_sliding_window_pattern",
    "cache_implementation", "cache_config", "initializer_range", "attention_dropout",
    "hidden_dropout", "embd_pdrop", "resid_pdrop", "classifier_dropout", "pretraining_tp",
    "router_aux_loss_coef", "output_router_logits", "gradient_checkpointing", "id2label",
    "label2id", "num_labels", "problem_type", "task_specific_params", "finetuning_task",
    "output_hidden_states", "output_attentions", "return_dict", "use_return_dict",
    "chunk_size_feed_forward", "is_decoder", "torchscript", "use_bfloat16", "tf_legacy_loss",
    "prefix", "bos_token", "eos_token", "pad_token", "unk_token", "is_llama_config",
    "transformers.js_config", "model_max_length", "max_sequence_length", "max_seq_length",
    "max_seq_len", "seq_length", "dual_chunk_attention_config", "sparse_attention_config",
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "do_sample",
    "early_stopping", "num_beams", "num_beam_groups", "temperature", "top_k", "top_p", "min_p",
    "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id",
    "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
    "begin_suppress_tokens", "epsilon_cutoff", "eta_cutoff", "encoder_repetition_penalty",
    "diversity_penalty", "penalty_alpha",
))  # fmt: skip
_IGNORED = re.compile(r"(_token_id|^unsloth_.*)$")
# Keys of quantized weights.
_QUANTIZED = ("quantization_config", "quantization", "compression_config")
# Keys that change what is computed, with the values that Seedpod supports.
NEUTRAL = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "rope_interleaved": (False, None),
    "partial_rotary_factor": (1.0, None),
    "use_bidirectional_attention": (False, None),
    "is_causal": (True,),
    "use_sliding_window": (False, None),
    "mlp_only_layers": ([], None),
    "decoder_sparse_step": (1,),
    "router_jitter_noise": (0.0, None),
    "num_nextn_predict_layers": (0, None),
    "shared_expert_intermediate_size": (0, None),
    "use_mrope": (False, None),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "tie_encoder_decoder": (False, None),
    "pruned_heads": ({}, None),
}
_SIZES = frozenset((
    "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size",
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "max_position_embeddings", "sliding_window", "sliding_window_pattern", "num_experts",
    "num_experts_per_tok", "original_max_position_embeddings", "query_pre_attn_scalar",
))  # fmt: skip
_FLAGS = ("tie_word_embeddings", "use_sliding_window", "norm_topk_prob")
_NUMBERS = ("rope_theta", "rope_local_base_freq", "attn_logit_softcapping",
            "final_logit_softcapping", "factor", "low_freq_factor", "high_freq_factor")  # fmt: skip
_MOST = 1e38  # about float32's largest
# Keys that null switches off, or whose null is the number of query heads; others are null only
# where that is the default.
_NULLABLE = ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping",
             "num_key_value_heads")  # fmt: skip

# Values of config.json and ours. Of several names for one value, the first is written.
ACTIVATION_NAMES = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh", "swish": "silu"}
LAYER_NAMES = {"sliding_attention": "local", "full_attention": "global"}


def read(hf: Mapping, kind: str, family: Family) -> dict:
    """The keys of a family, each as given or its default; all others are checked."""
    keys = dict(family.keys)
    neutral = NEUTRAL | {  # other names of settings of the family
        "use_qk_norm": (family.settings.get("qk_norm", False), None),
        "qkv_bias": (family.settings.get("attention_bias", False), None),
    }
    for key, value in hf.items():
        name = "num_experts" if key == "num_local_experts" else key  # two names of one key
        if name not in keys:
            if key not in family.unread:
                check_unread(key, value, kind, neutral)
            continue
        if value is not None or not (keys[name] is None or name in _NULLABLE):
            check_value(name, value, key)
        if name != key and hf.get(name, value) != value:
            raise ValueError(f"config.json has {key}={value} and {name}={short(hf[name])}")
        keys[name] = value
    return keys


def check_unread(key: str, value: Any, kind: str, neutral: Mapping) -> None:
    """Raises ValueError for a key that is not read, unless it changes nothing."""
    if key in IGNORED or _IGNORED.search(key) or value in neutral.get(key, (None,)):
        return
    if key in _QUANTIZED:
        method = value.get("quant_method") if isinstance(value, Mapping) else value
        raise ValueError(
            f"config.json has a {key} ({short(method)}); Seedpod reads weights "
            "that are not quantized: take the model's bfloat16 repository"
        )
    if key in neutral or any(key in f.keys for f in FAMILIES.values()):
        raise ValueError(
            f"config.json of a {kind} model has {key}={short(value)}, which Seedpod does not "
            "compute"
        )
    raise ValueError(
        f"config.json has a key that Seedpod does not know for a {kind} model, "
        f"{key:.80}={short(value)}; take it out if it changes nothing"
    )


def check_value(name: str, value: Any, key: str) -> None:
    """Raises ValueError for a value that is not of a key's type or range.

    Args:
      key: its name in the message.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = number and isinstance(value, int)
    if name in _SIZES:
        most = 10_000 if name in ("num_hidden_layers", "num_experts") else 2**31
        ok, what = whole and 1 <= value < most, f"a whole number in 1..{most - 1}"
    elif name in _NUMBERS:
        ok, what = number and 0 < value < _MOST, "a number above 0"
    elif name == "rms_norm_eps":
        ok, what = number and 0 <= value < _MOST, "a number from 0"
    elif name == "max_window_layers":
        ok, what = whole and value >= 0, "a whole number from 0"
    elif name in _FLAGS:
        ok, what = isinstance(value, bool), "true or false"
    elif name in ("hidden_act", "hidden_activation"):
        ok = isinstance(value, str) and value in ACTIVATION_NAMES
        what = "one that Seedpod computes: " + ", ".join(ACTIVATION_NAMES)
    elif name == "layer_types":
        ok = isinstance(value, list) and all(isinstance(n, str) and n in LAYER_NAMES for n in value)
        what = f"a list of {' and '.join(LAYER_NAMES)}"
    else:
        ok, what = isinstance(value, Mapping), "a JSON object"
    if not ok:
        raise ValueError(f"config.json has {key}={short(value)}, which is not {what}")


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
