"""config.json of the open families, key by key; beside transformers: test_hf_config_sweep.py."""

import dataclasses
import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from model.config import RopeScaling, TransformerConfig
from model.pretrained import families
from model.pretrained.families import family_of
from model.pretrained.hf_config import config_from_hf, config_to_hf
from model.pretrained.mapping import check_covered
from model.transformer import Transformer

FIXTURES = Path(__file__).parents[1] / "fixtures"
SMALL = dict(
    vocab_size=20, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=32
)
GEMMA = SMALL | families.GEMMA | dict(activation="gelu_tanh")


def hf(name):
    return json.loads(str(np.load(FIXTURES / f"{name}.npz")["config"]))


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("llama2", dict(model_type="mamba"), r"model_type='mamba'; Seedpod knows llama, mistral, "),
        ("llama2", dict(model_type=["llama"]), r"model_type=\['llama'\]"),
        ("llama2", dict(hidden_size=None), r"hidden_size=None, which is not a whole number"),
        ("llama2", dict(hidden_size=32.0), r"hidden_size=32.0"),
        ("llama2", dict(num_hidden_layers=10**9), r"num_hidden_layers=1000000000"),
        ("llama2", dict(rms_norm_eps=float("nan")), r"rms_norm_eps=nan"),
        ("llama2", dict(num_key_value_heads=3), r"num_key_value_heads=3 does not divide num_att"),
        ("llama2", dict(head_dim=7), r"head_dim=7"),
        ("llama2", dict(head_dim=None, hidden_size=36), r"hidden_size=36 .*makes heads of 9"),
        ("llama2", dict(attention_bias=True), r"llama model has attention_bias=True"),
        ("llama2", dict(mlp_bias=True), r"mlp_bias=True"),
        ("llama2", dict(is_causal=None), r"is_causal=None"),
        ("llama2", dict(sliding_window=8), r"sliding_window=8"),
        ("llama2", dict(layer_types=["sliding_attention"] * 3), r"layer_types"),
        ("llama2", dict(quantization_config={"quant_method": "fp8", "x": [0] * 99}),
         r"quantization_config \('fp8'\); .*take the model's bfloat16 repository"),
        ("llama2", dict(logit_scale=2.0), r"does not know for a llama model, logit_scale=2.0"),
        ("llama2", dict(hidden_act="relu"), r"hidden_act='relu'"),
        ("llama2", dict(rope_parameters={"rope_type": "yarn"}), r"rope_type='yarn'; Seedpod comp"),
        ("llama2", dict(rope_parameters={"rope_type": "linear"}), r"rope_parameters.*no 'factor'"),
        ("llama2", dict(rope_parameters={"partial_rotary_factor": 0.5}), r"partial_rotary_factor"),
        ("llama2", dict(rope_scaling={"rope_type": "linear", "factor": 2.0, "attention_factor": 3}),
         r"rope_scaling.attention_factor=3"),
        ("llama2", dict(rope_scaling={"rope_type": "linear", "factor": 0}), r"factor=0"),
        ("llama2", dict(rope_parameters={"full_attention": {}}), r"rope_parameters.full_attention"),
        ("qwen3", dict(use_sliding_window=False), r"no window in use: .*use_sliding_window=False"),
        ("qwen3", dict(head_dim=None), r"head_dim=None"),
        ("qwen3_moe", dict(use_sliding_window=True), r"use_sliding_window=True"),
        ("qwen3_moe", dict(num_experts=8, num_local_experts=4),
         r"num_local_experts=4 and num_experts=8"),
        ("qwen3_moe", dict(num_experts_per_tok=9), r"num_experts_per_tok=9"),
        ("mistral", dict(layer_types=["full_attention"] * 3), r"layer_types"),
        ("gemma2", dict(hidden_activation="gelu"), r"hidden_activation='gelu'"),
        ("gemma2", dict(hidden_size=33), r"hidden_size=33, which num_attention_heads=4"),
        ("gemma2", dict(query_pre_attn_scalar=24.5), r"query_pre_attn_scalar=24.5"),
        ("gemma2", dict(attn_logit_softcapping=0.0), r"attn_logit_softcapping=0.0"),
        ("gemma2", dict(layer_types=["full_attention"]), r"1 layer_types and num_hidden_layers=3"),
        ("gemma3", dict(attn_logit_softcapping=2.0), r"attn_logit_softcapping=2.0"),
        ("gemma3", dict(rope_parameters={"sliding_attention": {"type": "linear", "factor": 2}}),
         r"scales the rotary positions of local layers"),
    ],
)  # fmt: skip
def test_what_is_not_computed_is_refused_by_name(name, change, message):
    with pytest.raises(ValueError, match=message) as error:
        config_from_hf(hf(name) | change)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("content", [[], "llama", None, 3])
def test_a_config_that_is_no_object_is_refused(content):
    with pytest.raises(ValueError, match="not a JSON object"):
        config_from_hf(content)


def absent(name, *keys):
    return {k: v for k, v in hf(name).items() if k not in keys}


def test_keys_that_are_absent_have_the_default_of_transformers():
    assert config_from_hf(absent("qwen3", "head_dim")).head_dim == 128
    assert config_from_hf(absent("llama2", "head_dim")).head_dim == 8
    assert config_from_hf(absent("llama2", "num_key_value_heads")).num_kv_heads == 4
    assert config_from_hf(absent("mistral", "sliding_window")).window == 4096
    assert config_from_hf(absent("mixtral", "sliding_window")).window == 0
    assert config_from_hf(absent("qwen3_moe", "norm_topk_prob")).renormalize_experts is False
    gemma = config_from_hf(absent("gemma2", "attn_logit_softcapping", "tie_word_embeddings"))
    assert (gemma.attention_softcap, gemma.tie_embeddings) == (50.0, True)
    qwen = absent("qwen2.5", "layer_types", "sliding_window", "max_window_layers")
    qwen |= dict(use_sliding_window=True, num_hidden_layers=30)
    config = config_from_hf(qwen)
    assert (config.window, config.layer_kinds.count("local")) == (4096, 2)
    assert config_from_hf(qwen | dict(sliding_window=None)).layer_pattern == ()


def test_what_changes_nothing_is_taken():
    plain = config_from_hf(hf("qwen2.5"))
    same = dict(
        attention_bias=True, torch_dtype="float16", unsloth_fixed=True, image_token_id=3,
        mlp_bias=False, is_causal=True, unheard_of=None, attention_dropout=0.1, hidden_act="swish",
    )  # fmt: skip
    assert config_from_hf(hf("qwen2.5") | same) == plain
    plain = config_from_hf(hf("qwen3_moe"))
    same = dict(use_qk_norm=True, qkv_bias=False, sliding_window=4096, max_window_layers=1)
    assert config_from_hf(hf("qwen3_moe") | same) == plain
    for change in (dict(use_qk_norm=True), dict(qkv_bias=True), dict(sliding_window_size=8)):
        with pytest.raises(ValueError, match=next(iter(change))):
            config_from_hf(hf("llama2") | change)


def test_rope_scaling_comes_before_rope_parameters():
    given = dict(
        rope_theta=300.0,
        rope_parameters=dict(rope_type="default", rope_theta=700.0),
        rope_scaling=dict(type="linear", factor=2.0),
    )
    config = config_from_hf(hf("llama2") | given)
    assert (config.rope_base, config.rope_scaling) == (300.0, RopeScaling("linear", 2.0))
    given["rope_scaling"] = dict(rope_type="linear", factor=2.0)
    given["rope_parameters"] = dict(full_attention=dict(rope_theta=700.0))
    config = config_from_hf(hf("gemma3") | given | dict(rope_local_base_freq=50.0))
    assert (config.rope_base, config.local_rope_base) == (700.0, 50.0)
    assert config.rope_scaling == RopeScaling("linear", 2.0)
    # Without other settings it has a `rope_type` already, and transformers ignores `type`.
    given |= dict(rope_parameters=None, rope_scaling=dict(type="linear", factor=2.0))
    with pytest.raises(ValueError, match=r"rope_scaling.type='linear'.*rope_type"):
        config_from_hf(hf("gemma3") | given | dict(rope_local_base_freq=50.0))


@pytest.mark.parametrize(
    "name, change",
    [
        ("gemma2", dict(attn_logit_softcapping=None, final_logit_softcapping=None)),
        ("gemma2", dict(layer_types=["full_attention"] * 3)),
        ("gemma2", dict(hidden_activation="silu")),
        ("gemma3", dict(rope_parameters=None, rope_theta=50.0, rope_local_base_freq=50.0)),
        ("gemma3", dict(layer_types=["full_attention"] * 4)),
        ("gemma3", dict(final_logit_softcapping=3.0)),
        ("llama2", dict(hidden_act="gelu_pytorch_tanh")),
        ("llama2", dict(tie_word_embeddings=True)),
        ("mistral", dict(sliding_window=None)),
    ],
)
def test_the_round_trip_gives_the_config_back(name, change):
    config = config_from_hf(hf(name) | change)
    assert config_from_hf(config_to_hf(config)) == config


def test_released_config_files_are_read():
    """The keys as the releases have them, before transformers 5 renamed some."""
    llama = config_from_hf(
        dict(
            model_type="llama", vocab_size=128256, hidden_size=4096, intermediate_size=14336,
            num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, hidden_act="silu",
            max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=500000.0,
            rope_scaling=dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                              original_max_position_embeddings=8192, rope_type="llama3"),
            tie_word_embeddings=False, attention_bias=False, pretraining_tp=1,
        )
    )  # fmt: skip
    assert (llama.head_dim, llama.rope_base) == (128, 500_000.0)
    assert llama.rope_scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
    # Layers from `max_window_layers` on, unless the window is not in use.
    qwen = dict(
        model_type="qwen2", vocab_size=151936, hidden_size=896, intermediate_size=4864,
        num_hidden_layers=4, num_attention_heads=14, num_key_value_heads=2, sliding_window=512,
        max_position_embeddings=32768, max_window_layers=2, use_sliding_window=False,
    )  # fmt: skip
    assert config_from_hf(qwen).layer_pattern == ()
    qwen = config_from_hf(qwen | dict(use_sliding_window=True))
    assert (qwen.layer_pattern, qwen.window) == (("global",) * 2 + ("local",) * 2, 512)
    # The 4B's: a text model inside a multimodal one, which omits default values.
    gemma = dict(
        model_type="gemma3", vision_config=dict(hidden_size=1152), mm_tokens_per_image=256,
        text_config=dict(
            model_type="gemma3_text", hidden_size=2560, intermediate_size=10240,
            num_hidden_layers=34, sliding_window=1024,
            rope_scaling=dict(factor=8.0, rope_type="linear"),
        ),
    )  # fmt: skip
    config = config_from_hf(gemma)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (8, 4, 256)
    assert config.layer_pattern == ("local",) * 5 + ("global",)
    assert (config.rope_base, config.local_rope_base, config.tie_embeddings) == (1e6, 1e4, True)
    assert config.rope_scaling == RopeScaling("linear", 8.0)
    for change, message in (
        (dict(text_config=3), "text_config=3"),
        (dict(some_gate=True), "some_gate=True"),
        (dict(text_config=gemma["text_config"] | dict(tie_word_embeddings=False)), "tie_word_emb"),
        (dict(text_config=dict(model_type="llama")), "text_config.model_type='llama'"),
    ):
        with pytest.raises(ValueError, match=message):
            config_from_hf(gemma | change)


# Out


@pytest.mark.parametrize(
    "settings, message",
    [
        (SMALL | dict(qk_norm=True, post_norms=True), "qwen3: post_norms"),
        (SMALL | dict(attention_softcap=5.0), "attention_softcap"),
        (SMALL | dict(query_scale=0.1), "query_scale"),
        (SMALL | dict(qk_norm=True, num_experts=2, experts_per_token=1, window=4,
                      layer_pattern=("local",)), "mixtral: qk_norm"),
        (SMALL | dict(window=4, layer_pattern=("local", "global"), num_experts=2,
                      experts_per_token=1), "mixtral: layer_pattern"),
        (GEMMA | dict(qk_norm=True, attention_softcap=5.0), "gemma3_text: attention_softcap"),
        (GEMMA | dict(query_scale=0.3), "gemma2: query_scale"),
        (GEMMA | dict(num_heads=6), "gemma2: embed_dim"),
        (GEMMA | dict(qk_norm=True, window=4, layer_pattern=("local",),
                      rope_scaling=RopeScaling("linear", 2.0)), "gemma3_text: local_rope_base"),
    ],
)  # fmt: skip
def test_settings_of_no_family_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        config_to_hf(TransformerConfig(**settings))


def test_a_field_that_no_family_knows_is_in_the_way():
    """A setting that is added to the network is not exported before a family says it has it."""
    grown = dataclasses.make_dataclass(
        "Grown", [("value_norm", bool, True)], bases=(TransformerConfig,), frozen=True
    )
    with pytest.raises(ValueError, match="llama: value_norm"):
        config_to_hf(dataclasses.replace(grown(**SMALL), value_norm=False))
    assert family_of(grown(**SMALL)) == "llama"


def test_every_parameter_has_a_tensor_or_is_named():
    config = config_from_hf(hf("mixtral"))
    init = Transformer(config).init
    boxed = jax.eval_shape(lambda: init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32)))
    shapes = {p: x.shape for p, x in flatten_dict(nn.unbox(boxed)["params"]).items()}
    check_covered(config, shapes)
    scalar = {("backbone", *p): s for p, s in shapes.items()} | {("head",): (config.embed_dim, 1)}
    check_covered(config, scalar, scalar=True)
    router = ("layers", "router")
    for change, message in (
        ({("layers", "gate_bias"): (3, 40)}, "weight layers/gate_bias, for which a mixtral"),
        ({router: (4, *shapes[router][1:])}, r"layers/router is \[4, 32, 4\]"),
        ({("embedding",): (256, 32)}, r"embedding is \[256, 32\]"),
    ):
        with pytest.raises(ValueError, match=message):
            check_covered(config, shapes | change)
    with pytest.raises(ValueError, match="no weight layers/router"):
        check_covered(config, {p: s for p, s in shapes.items() if p != router})
    with pytest.raises(ValueError, match="weight other_head, for which"):
        check_covered(config, scalar | {("other_head",): (32, 1)}, scalar=True)
    with pytest.raises(ValueError, match=r"head is \[32, 2\]"):
        check_covered(config, scalar | {("head",): (config.embed_dim, 2)}, scalar=True)
