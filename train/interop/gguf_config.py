"""Settings of a GGUF file converted to a config.json, with llama.cpp's defaults.

Every key of the architecture is read, known to have no effect, or refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from model.config import RopeScaling
from model.layers.rotary import stretch

# {key: (key of config.json, default)}; `...` is no default, and None is another key's value.
KEYS = {
    "embedding_length": ("hidden_size", ...),
    "feed_forward_length": ("intermediate_size", ...),
    "block_count": ("num_hidden_layers", ...),
    "attention.head_count": ("num_attention_heads", ...),
    "attention.head_count_kv": ("num_key_value_heads", None),
    "attention.key_length": ("head_dim", None),
    "context_length": ("max_position_embeddings", ...),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", ...),
    "rope.freq_base": ("rope_theta", 10_000.0),
}
# Keys stored as float32, which are read as the shortest decimal of that value.
_DECIMALS = ("attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.scaling.factor",
             "rope.scale_linear")  # fmt: skip
ROPE_KEYS = ("rope.scaling.type", "rope.scaling.factor", "rope.scale_linear")
# {key that changes the computation: values under which it has no effect}
NEUTRAL = {
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.clamp_kqv": (0.0,),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "use_parallel_residual": (False,),
    "rope.scaling.attn_factor": (1.0,),
}
# Keys about files, about sentence embeddings, and about yarn, which is refused by its type.
IGNORED = ("vocab_size", "tensor_data_layout", "pooling_type", "rope.scaling.finetuned",
           "rope.scaling.original_context_length")  # fmt: skip


def config_of(kind: str, fields: Mapping, rope_factors: np.ndarray | None = None) -> dict:
    """The content of a config.json, without the vocabulary's size and whether it is tied.

    Args:
      kind: `general.architecture`. fields: {key without that prefix: value}.
      rope_factors: [N/2], divisors of the rotary frequencies, if the file has them.

    Raises:
      ValueError: naming a key that is missing, or asks for a computation that Seedpod lacks.
    """
    fields = {k: _decimal(v) if k in _DECIMALS else v for k, v in fields.items()}
    config: dict[str, Any] = {"model_type": kind}
    for key, (hf_key, default) in KEYS.items():
        value = fields.get(key, default)
        if value is ...:
            raise ValueError(f"no {kind}.{key}")
        if isinstance(value, list):
            raise ValueError(f"{kind}.{key} has a value for each layer, which Seedpod does not")
        config[hf_key] = value
    heads = config["num_attention_heads"]
    if not isinstance(heads, int) or heads < 1 or not isinstance(config["hidden_size"], int):
        raise ValueError(f"{kind}.attention.head_count is {heads!r}")
    config["num_key_value_heads"] = config["num_key_value_heads"] or heads
    config["head_dim"] = config["head_dim"] or config["hidden_size"] // heads
    _check_rest(kind, fields, config["head_dim"])
    scaling = _linear(kind, fields)
    if rope_factors is not None:
        if scaling:
            raise ValueError(f"rope_freqs.weight, and {kind}.rope.scaling.factor beside it")
        scaling = _llama3(rope_factors, config["rope_theta"])
    return config | ({"rope_scaling": scaling} if scaling else {})


def _decimal(value):
    if isinstance(value, float):
        return float(np.format_float_positional(np.float32(value)))
    return value


def _check_rest(kind: str, fields: Mapping, head_dim: int) -> None:
    """Raises ValueError for a key outside of `KEYS` that changes the computation."""
    neutral = NEUTRAL | {
        "rope.dimension_count": (head_dim,),
        "attention.value_length": (head_dim,),
        "attention.scale": (0.0, float(np.float32(head_dim**-0.5))),
    }
    for key, value in fields.items():
        if key in KEYS or key in ROPE_KEYS or key in IGNORED:
            continue
        if key not in neutral:
            raise ValueError(f"a key that Seedpod does not know, {kind}.{key}={value!r:.60}")
        if isinstance(value, list) or value not in neutral[key]:
            raise ValueError(f"{kind}.{key}={value!r:.60}, which Seedpod does not compute")


def _linear(kind: str, fields: Mapping) -> dict | None:
    """Linear scaling, which divides positions by a factor; llama.cpp assumes it without a type."""
    factor = fields.get("rope.scaling.factor", fields.get("rope.scale_linear", 0.0))
    method = fields.get("rope.scaling.type", "linear")
    if method == "none" or (method == "linear" and factor in (0.0, 1.0)):
        return None
    if method != "linear":
        raise ValueError(f"{kind}.rope.scaling.type={method!r:.60}, which Seedpod does not compute")
    return {"rope_type": "linear", "factor": factor}


def _llama3(factors: np.ndarray, base: float) -> dict:
    """Llama 3.1's scaling, which the file holds as a divisor for each frequency."""
    half = len(factors)
    if not half or not isinstance(base, float) or not base > 0:
        raise ValueError(f"{half} factors of rotary positions, and rope.freq_base={base!r:.60}")
    scaling = RopeScaling("llama3", float(factors.max()))
    plain = base ** (-np.arange(half, dtype=np.float32) / half)
    if not np.allclose(plain / np.asarray(stretch(plain, scaling)), factors, rtol=1e-3):
        raise ValueError("rotary positions that are scaled otherwise than by Llama 3.1 and 3.2")
    return dict(
        rope_type="llama3",
        factor=scaling.factor,
        low_freq_factor=scaling.low_freq_factor,
        high_freq_factor=scaling.high_freq_factor,
        original_max_position_embeddings=scaling.original_length,
    )
