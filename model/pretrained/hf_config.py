"""config.json of the open families: to `TransformerConfig` and back.

The keys: model/pretrained/hf_keys.py; the families, with transformers' defaults:
model/pretrained/families.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from model.config import RopeScaling, TransformerConfig
from model.pretrained.families import FAMILIES, KEYS_OF, Family, family_of, query_scalar
from model.pretrained.hf_keys import (
    ACTIVATION_NAMES,
    LAYER_NAMES,
    NEUTRAL,
    check_unread,
    check_value,
    read,
    short,
)

# Keys of a Gemma 3 outside its text model: those of images, and those that are read here.
_MULTIMODAL = ("text_config", "vision_config", "mm_tokens_per_image", "boi_token_index",
               "eoi_token_index", "image_token_index", "tie_word_embeddings")  # fmt: skip

# The fields of RopeScaling, by kind, and their names in config.json.
ROPE_KEYS = {
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
        "original_length": "original_max_position_embeddings",
    },
}


def config_from_hf(hf: Mapping) -> TransformerConfig:
    """The architecture that a config.json describes.

    Args:
      hf: the parsed config.json, as released checkpoints or transformers 5 write it.

    Raises:
      ValueError: a family, key or value that Seedpod does not compute; it is named.
    """
    if not isinstance(hf, Mapping):
        raise ValueError("config.json is not a JSON object")
    hf = _text_model(hf)
    kind = hf.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(
            f"config.json has model_type={short(kind)}; Seedpod knows {', '.join(FAMILIES)}, gemma3"
        )
    family = FAMILIES[kind]
    keys = read(hf, kind, family)
    fields = {
        field: keys[name]
        for field, names in KEYS_OF.items()
        for name in names
        if name in keys and field not in ("rope_scaling", "layer_pattern", "query_scale")
    }
    heads = fields["num_heads"]
    if family.whole_heads and keys["hidden_size"] % heads:
        raise ValueError(
            f"config.json of a {kind} model has hidden_size={keys['hidden_size']}, which "
            f"num_attention_heads={heads} does not divide"
        )
    fields["num_kv_heads"] = fields["num_kv_heads"] or heads
    if not fields["head_dim"]:
        fields["head_dim"] = size = keys["hidden_size"] // heads
        if size < 1 or size % 2:
            raise ValueError(
                f"config.json has hidden_size={keys['hidden_size']} and num_attention_heads={heads}"
                f", which makes heads of {size}; rotary positions rotate pairs"
            )
    fields["activation"] = ACTIVATION_NAMES[fields["activation"]]
    fields["layer_pattern"], fields["window"] = _windows(keys, kind, family)
    fields["rope_base"], fields["rope_scaling"], local_base = _rope(keys)
    if "query_pre_attn_scalar" in keys:
        # 0, the field's default, says 1/√N.
        scalar = keys["query_pre_attn_scalar"]
        fields["query_scale"] = 0.0 if scalar == fields["head_dim"] else scalar**-0.5
    if "rope_local_base_freq" in keys:
        # 0, the field's default, is the base of the other layers.
        same_base = not fields["rope_scaling"] and local_base == fields["rope_base"]
        fields["local_rope_base"] = 0.0 if same_base or not fields["window"] else local_base
    for field in ("norm_eps", "attention_softcap", "logit_softcap"):
        if field in fields:
            fields[field] = float(fields[field] or 0.0)
    try:
        return TransformerConfig(**fields, **family.settings)
    except ValueError as e:  # in config.json's names
        names = {field: names[-1] for field, names in KEYS_OF.items()}
        if "num_local_experts" in hf:
            names["num_experts"] = "num_local_experts"
        message = re.sub(r"model\.(\w+)", lambda m: names.get(m[1], m[1]), str(e))
        raise ValueError(f"config.json describes no model that Seedpod has: {message}") from e


def _text_model(hf: Mapping) -> Mapping:
    """The text model's part of a config.json; of a Gemma 3 the vision tower is left out."""
    if hf.get("model_type") != "gemma3":
        return hf
    text = hf.get("text_config") or {}
    if not isinstance(text, Mapping):
        raise ValueError(f"config.json has text_config={short(text)}, which is no JSON object")
    if text.get("model_type", "gemma3_text") != "gemma3_text":
        raise ValueError(f"config.json has text_config.model_type={short(text['model_type'])}")
    for key, value in hf.items():
        if key not in _MULTIMODAL:
            check_unread(key, value, "gemma3", NEUTRAL)
    tied = hf.get("tie_word_embeddings", True)
    if text.get("tie_word_embeddings", tied) != tied:
        raise ValueError(
            f"config.json has tie_word_embeddings={short(tied)} and says otherwise of its "
            "text_config"
        )
    return {**text, "model_type": "gemma3_text", "tie_word_embeddings": tied}


def _rope(keys: Mapping):
    """(base, scaling, local base) of the older keys or of transformers 5's `rope_parameters`."""
    base = keys["rope_theta"]
    given, scaling = keys["rope_parameters"] or {}, keys["rope_scaling"] or {}
    if "rope_local_base_freq" not in keys:
        if scaling:  # as in transformers, it replaces `rope_parameters`
            return *_rope_settings(scaling, "rope_scaling", base, keys), 0.0
        return *_rope_settings(given, "rope_parameters", base, keys), 0.0
    for name, value in given.items():
        if name not in LAYER_NAMES:
            raise ValueError(
                f"config.json has rope_parameters.{name}={short(value)}, which is of no layers; "
                f"give {' and '.join(LAYER_NAMES)}"
            )
        if value is not None:
            check_value("rope_parameters", value, f"rope_parameters.{name}")
    full = {**(given.get("full_attention") or {}), **scaling}
    if not given and "rope_type" not in full and full.get("type", "default") != "default":
        raise ValueError(
            f"config.json has rope_scaling.type={short(full['type'])}, which transformers does not "
            "look at in this family; call it rope_type if it is meant"
        )
    local = given.get("sliding_attention") or {}
    local_base, local_scaling = _rope_settings(
        local, "rope_parameters.sliding_attention", keys["rope_local_base_freq"], keys
    )
    if local_scaling:
        raise ValueError(
            f"config.json scales the rotary positions of local layers: rope_parameters."
            f"sliding_attention.rope_type={local_scaling.kind!r}; Seedpod does not"
        )
    name = "rope_scaling" if scaling else "rope_parameters.full_attention"
    return *_rope_settings(full, name, base, keys), local_base


def _rope_settings(given: Mapping, label: str, base: float, keys: Mapping):
    """(base, RopeScaling or None) of one JSON object of rotary settings.

    Args:
      label: its name in messages. base: the value if it has none.
    """
    kind = given.get("rope_type", given.get("type", "default"))
    if not isinstance(kind, str) or (kind != "default" and kind not in ROPE_KEYS):
        raise ValueError(
            f"config.json scales rotary positions with {label}.rope_type={short(kind)}; Seedpod "
            f"computes default, {', '.join(ROPE_KEYS)}"
        )
    names = ROPE_KEYS.get(kind, {})
    for key, value in given.items():
        if key in ("rope_type", "type") or (value is None and key not in names.values()):
            continue
        if key == "partial_rotary_factor" and value == 1.0:
            continue
        if key != "rope_theta" and key not in names.values():
            raise ValueError(
                f"config.json has {label}.{key}={short(value)}, which Seedpod does not compute "
                f"with rope_type={kind!r}"
            )
        check_value(key, value, f"{label}.{key}")
    base = float(given.get("rope_theta", base))
    if kind == "default":
        return base, None
    if kind == "llama3":
        # The model's own key, else the scaling's, else the longest context.
        outer = keys["original_max_position_embeddings"]
        given = {"original_max_position_embeddings": keys["max_position_embeddings"], **given}
        if outer not in (None, given["original_max_position_embeddings"]):
            raise ValueError(
                f"config.json has original_max_position_embeddings={outer}, and another in {label}"
            )
    for key in names.values():
        if key not in given:
            raise ValueError(f"config.json has {label} with rope_type={kind!r} and no {key!r}")
    return base, RopeScaling(kind, **{ours: given[theirs] for ours, theirs in names.items()})


def _windows(keys: Mapping, kind: str, family: Family):
    """(layer_pattern, window)."""
    layers, window = keys["num_hidden_layers"], keys.get("sliding_window")
    if not keys.get("use_sliding_window", True):
        window = None
    local: Collection[int]  # the numbers of the local layers
    if family.windows == "none":
        local = []
    elif family.windows == "all":
        local = range(layers) if window else []
    elif "max_window_layers" in keys:
        local = range(keys["max_window_layers"], layers) if window else []
    else:  # every so many layers one is global
        every = keys.get("sliding_window_pattern", 2)
        local = {i for i in range(layers) if (i + 1) % every}
    kinds = ["local" if i in local else "global" for i in range(layers)]
    if (names := keys["layer_types"]) is not None:
        if len(names) != layers:
            raise ValueError(
                f"config.json has {len(names)} layer_types and num_hidden_layers={layers}"
            )
        listed = [LAYER_NAMES[name] for name in names]
        if family.windows != "listed" and listed != kinds:
            raise ValueError(
                f"config.json has layer_types with {' and '.join(sorted(set(names)))}, which are "
                f"not the layers of a {kind} model with sliding_window={window}"
            )
        kinds = listed
    if "local" not in kinds:
        return (), 0
    if not window:
        raise ValueError(
            "config.json has layers of sliding_attention in its layer_types, and no window in use: "
            f"sliding_window={short(keys.get('sliding_window'))}, "
            f"use_sliding_window={short(keys.get('use_sliding_window'))}"
        )
    period = next(
        p for p in range(1, layers + 1) if all(kinds[i] == kinds[i % p] for i in range(layers))
    )
    return tuple(kinds[:period]), window


def config_to_hf(config: TransformerConfig) -> dict:
    """A config.json's content, that transformers reads; `config_from_hf` gives the config back.

    Raises:
      ValueError: no family of transformers computes this.
    """
    kind = family_of(config)
    family, c = FAMILIES[kind], config
    gate = next(theirs for theirs, ours in ACTIVATION_NAMES.items() if ours == c.activation)
    hf: dict[str, Any] = dict(
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
        rms_norm_eps=float(c.norm_eps),
        rope_theta=float(c.rope_base),
        tie_word_embeddings=c.tie_embeddings,
    )
    if scaling := c.rope_scaling:
        keys = {theirs: getattr(scaling, ours) for ours, theirs in ROPE_KEYS[scaling.kind].items()}
        hf["rope_scaling"] = {"rope_type": scaling.kind, **keys}
    if family.windows != "none":
        hf["sliding_window"] = c.window or None
    if family.windows == "listed":
        names = {ours: theirs for theirs, ours in LAYER_NAMES.items()}
        kinds = c.layer_kinds
        hf["layer_types"] = [names[kinds[i % len(kinds)]] for i in range(c.num_layers)]
    if "use_sliding_window" in family.keys:
        hf["use_sliding_window"] = bool(c.window)
        # What releases before `layer_types` read.
        local = (i for i, name in enumerate(hf["layer_types"]) if name == "sliding_attention")
        hf["max_window_layers"] = next(local, c.num_layers)
    if "hidden_activation" in family.keys:
        hf["hidden_activation"] = gate
        hf["query_pre_attn_scalar"] = query_scalar(c)
        hf["final_logit_softcapping"] = float(c.logit_softcap) or None
        # transformers builds its mask of local layers even where there are none.
        hf["sliding_window"] = c.window or family.keys["sliding_window"]
    if "attn_logit_softcapping" in family.keys:
        hf["attn_logit_softcapping"] = float(c.attention_softcap) or None
    if "rope_local_base_freq" in family.keys:
        hf["rope_local_base_freq"] = c.local_rope_base or c.rope_base
    if c.num_experts:
        hf["num_experts_per_tok"] = c.experts_per_token
        hf["num_local_experts" if kind == "mixtral" else "num_experts"] = c.num_experts
    if "moe_intermediate_size" in family.keys:
        hf["moe_intermediate_size"] = c.mlp_dim
    if "norm_topk_prob" in family.keys:
        hf["norm_topk_prob"] = c.renormalize_experts
    return hf
