"""Every key of each family's config.json, changed one at a time: transformers' logits, or a refusal
that names the key.

Needs torch and transformers, which Seedpod itself does not: skipped without them.
"""

import dataclasses
import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import open_weights as ow
import pytest

from model.pretrained.hf_config import config_from_hf, config_to_hf
from model.pretrained.hf_keys import IGNORED
from model.pretrained.mapping import slices
from model.transformer import Transformer

torch = pytest.importorskip("torch", reason="torch is not installed (pip install torch)")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
safetensors = pytest.importorskip("safetensors.numpy")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# Longer than the window and the original context.
TOKENS = np.random.default_rng(0).integers(1, 60, (1, 40)).astype(np.int32)
LLAMA3 = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=16,
)  # fmt: skip
LINEAR = dict(rope_type="linear", factor=4.0)
ROPES = [
    LLAMA3, LINEAR, LLAMA3 | dict(rope_theta=700.0), LINEAR | dict(rope_theta=700.0),
    dict(type="linear", factor=2.0), dict(type="default"), dict(rope_type="default", factor=2.0),
    dict(rope_theta=300.0), dict(rope_type="dynamic", factor=2.0), dict(rope_type=None),
    dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16),
    dict(rope_type="longrope", factor=4.0), dict(rope_type="linear"), {}, [],
    {k: v for k, v in LLAMA3.items() if k != "original_max_position_embeddings"},
    {k: v for k, v in LLAMA3.items() if k != "low_freq_factor"},
    LINEAR | dict(partial_rotary_factor=0.5), LINEAR | dict(partial_rotary_factor=1.0),
    LINEAR | dict(attention_factor=2.0), dict(full_attention=LINEAR),
    dict(full_attention=LINEAR, sliding_attention=dict(rope_type="default")),
    dict(full_attention=dict(rope_theta=300.0), sliding_attention=dict(rope_theta=50.0)),
    dict(full_attention=None, sliding_attention=LINEAR), dict(sliding_attention=None),
]  # fmt: skip
ACTIVATIONS = (*transformers.activations.ACT2FN, "none such")
WINDOWS = [None, 1, 5, 8, 39, 100, 0, -1]
# Keys that the class does not have: older names, other families' keys, and keys of no family.
EXTRA = dict(
    rope_theta=[300.0, 300, 0, -1.0], rope_scaling=ROPES, rope_parameters=ROPES,
    rope_local_base_freq=[50.0, 0], partial_rotary_factor=[0.5, 1.0],
    original_max_position_embeddings=[8, 16, 64], rope_interleaved=[True, False],
    torch_dtype=["bfloat16", "float32"], dtype=["float16"], head_dim=[8, 16, 32, 7, 0],
    sliding_window=WINDOWS, use_sliding_window=[True, False], max_window_layers=[0, 1, 2, 9],
    sliding_window_pattern=[1, 2, 3, 0], _sliding_window_pattern=[2],
    layer_types=[["full_attention"] * 3, ["sliding_attention"] * 3,
                 ["full_attention", "sliding_attention", "full_attention"], ["full_attention"],
                 ["linear_attention"] * 3],
    hidden_act=ACTIVATIONS, hidden_activation=ACTIVATIONS, is_causal=[True, False],
    attention_bias=[True, False], mlp_bias=[True, False], use_bidirectional_attention=[True, False],
    query_pre_attn_scalar=[8, 9], attn_logit_softcapping=[2.0, 0.0],
    final_logit_softcapping=[2.0, 0.0], num_experts=[2, 8], num_local_experts=[2, 8],
    num_experts_per_tok=[1, 9], norm_topk_prob=[True, False], decoder_sparse_step=[1, 2],
    mlp_only_layers=[[], [1]], router_jitter_noise=[0.0, 0.1], moe_intermediate_size=[12],
    attn_implementation=["sdpa", "eager"], cache_implementation=["hybrid"],
    quantization_config=[{"quant_method": "fp8"}], per_layer_config=[{"0": {"head_dim": 4}}],
    auto_map=[{"AutoModel": "x.Y"}], use_cache=[True, False], logit_scale=[2.0],
    embedding_multiplier=[2.0], unheard_of=[1, None], tie_word_embeddings=[True, False],
)  # fmt: skip
TINY = dict(
    vocab_size=61, hidden_size=32, intermediate_size=40, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, head_dim=16,
    bos_token_id=1, eos_token_id=2, pad_token_id=None,
)  # fmt: skip
FAMILIES = {
    "llama": {},
    "mistral": dict(sliding_window=8),
    "mixtral": dict(num_local_experts=4, num_experts_per_tok=2),
    "qwen2": dict(use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "qwen3": dict(use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "qwen3_moe": dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24),
    "gemma2": dict(sliding_window=8, query_pre_attn_scalar=24, attn_logit_softcapping=2.0),
    "gemma3_text": dict(sliding_window=8, query_pre_attn_scalar=24),
}


def of_family(kind):
    """{name: config.json}, as transformers 5 saves it and as 4 did."""
    config = transformers.CONFIG_MAPPING[kind](**TINY | FAMILIES[kind])
    new = json.loads(config.to_json_string(use_diff=False))
    old = {k: v for k, v in new.items() if k not in ("rope_parameters", "layer_types", "dtype")}
    old |= dict(torch_dtype="bfloat16", rope_theta=500.0)
    if kind == "gemma3_text":
        old |= dict(rope_local_base_freq=100.0, sliding_window_pattern=2)
    return {"new": new, "old": old}


PARTS = 3  # of a family's changes, to be shorter than a test may take
# Keys without which, or with others, transformers does not run.
KEPT = ("return_dict", "id2label", "label2id", "architectures", "dtype")
# Keys that transformers 5 reads differently from how 4 wrote them.
RENAMED = ("rope", "window", "layer_types", "dtype", "head_dim", "original_max")


def values_of(value):
    """Other values that a key might have, of its own type and of other types."""
    values = [None, "a string", True, False, 0, -1, 2.0, [], {}]
    if isinstance(value, int | float) and not isinstance(value, bool):
        values += [value + 1, value / 2, float(value)]
    return values


def changes(kind):
    """(config.json, the key that was changed, what to call it)."""
    fields = {f.name for f in dataclasses.fields(transformers.CONFIG_MAPPING[kind])}
    others = {bool: True, int: 1, float: 0.5}
    for name, base in of_family(kind).items():
        keys = {*base, *fields, *EXTRA} - {"model_type"}
        ignored = {k for k in keys if k in IGNORED or k.endswith("_token_id")}
        other = {k: others[type(base[k])] for k in ignored & {*base} if type(base[k]) in others}
        other |= {k: not base[k] for k in other if isinstance(base[k], bool)}
        kept = {k: base[k] for k in KEPT if k in base}
        yield base | other | kept, "", f"{name}, what changes nothing"
        yield {k: v for k, v in base.items() if k not in ignored} | kept, "", f"{name}, without it"
        for key in sorted(keys - ignored):
            if name == "old" and not any(part in key for part in RENAMED):
                continue
            for value in [*values_of(base.get(key)), *EXTRA.get(key, ())]:
                if key not in base or json.dumps(base[key]) != json.dumps(value):
                    yield base | {key: value}, key, f"{name}, {key}={value}"
            if key in base:
                yield {k: v for k, v in base.items() if k != key}, key, f"{name}, no {key}"


@functools.cache
def ours(config):
    """({tensor name: array}, logits) of a config."""
    tensors = {s.name: ow.draw(s.name, s.shape, config.norm_offset) for s in slices(config)}
    init = Transformer(config).init
    boxed = jax.eval_shape(lambda: init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32)))
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), nn.unbox(boxed)["params"])
    for s in slices(config):
        leaf = params
        for key in s.path:
            leaf = leaf[key]
        leaf[s.index] = s.to_ours(tensors[s.name])
    with jax.default_matmul_precision("highest"):
        logits = jax.jit(Transformer(config).apply)({"params": params}, jnp.asarray(TOKENS))
    return tensors, np.asarray(logits)[..., : config.vocab_size]


class Refused(Exception):
    """Raised for a config that transformers refuses."""


def theirs(hf, tensors, directory):
    """Logits of transformers from a config.json and tensors."""
    (directory / "config.json").write_text(json.dumps(hf))
    tensors = {k: np.ascontiguousarray(x) for k, x in tensors.items()}
    safetensors.save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        with torch.no_grad():
            out = model.eval()(torch.from_numpy(TOKENS).long(), use_cache=False)
    except Exception as e:  # a config may cause any error in transformers
        raise Refused(repr(e)) from e
    wrong = {k: v for k, v in info.items() if v}
    assert not wrong, wrong
    return (out[0] if isinstance(out, tuple) else out.logits).numpy()


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("kind", FAMILIES)
def test_each_key_changed(kind, part, tmp_path):
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    compared, wrong, exported = 0, [], set()

    def compare(config, hf, what):
        tensors, logits = ours(config)
        try:
            expected = theirs(hf, tensors, tmp_path)
        except Refused as e:
            return str(e)
        except AssertionError as e:
            wrong.append(f"{what}: {e}"[:300])
            return ""
        error = np.abs(logits - expected).max()
        if not error < 2e-4 + 1e-6 * np.abs(expected).max():  # large logits are rounded coarsely
            wrong.append(f"{what}: {error} off")
        return ""

    for hf, key, what in list(changes(kind))[part::PARTS]:
        try:
            config = config_from_hf(hf)
        except ValueError as e:
            if not key or key not in str(e):
                wrong.append(f"{what}: refused as {e}")
            continue
        refused = compare(config, hf, what)
        compared += not refused
        if refused and not key:
            wrong.append(f"{what}: transformers does not take it: {refused}")
        if config in exported:
            continue
        exported.add(config)
        back = config_to_hf(config)
        if config_from_hf(back) != config:
            wrong.append(f"{what}: another config after the round trip")
        # torch's kernel of experts takes rows of a multiple of 16 bytes alone.
        odd = config.num_experts and (config.embed_dim % 4 or config.mlp_dim % 4)
        enough = max(TOKENS.max() + 1, 3) <= config.vocab_size
        if not odd and enough and (e := compare(config, back, "back " + what)):
            wrong.append(f"{what}: transformers does not take its export: {e}")
    print(kind, part, compared, len(exported))
    assert not wrong, "\n".join(wrong)
    assert compared > 10
