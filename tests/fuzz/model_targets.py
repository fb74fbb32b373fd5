"""Fuzz targets: config.json, safetensors, GGUF files, tokenizers, chat templates."""

from __future__ import annotations

import dataclasses
from random import Random

import numpy as np
import open_models
import open_tokenizers

from data.text import tokenizer as tokenizers
from data.text.chat import render, render_prompt
from data.text.hf_tokenizer import HFTokenizer
from model.config import TransformerConfig
from model.pretrained import hf_config, mapping
from model.sharding import MeshConfig, make_mesh
from tests.fuzz import mutate
from tests.fuzz.data_targets import TURNS, _write
from tests.fuzz.engine import Target
from train.checkpoints import networks
from train.interop import published, weights

FAMILIES = {
    "llama": dict(rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0,
                  high_freq_factor=4.0, original_max_position_embeddings=32)),
    "mistral": dict(sliding_window=8),
    "mixtral": dict(num_local_experts=4, num_experts_per_tok=2),
    "qwen2": dict(use_sliding_window=False, attention_dropout=0.0),
    "qwen3": dict(head_dim=16, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "qwen3_moe": dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24, head_dim=16,
                      norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[]),
    "gemma2": dict(head_dim=16, query_pre_attn_scalar=24, sliding_window=8,
                   attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
    "gemma3_text": dict(head_dim=16, query_pre_attn_scalar=24, sliding_window=8,
                        rope_local_base_freq=100.0, sliding_window_pattern=2),
}  # fmt: skip
COMMON = dict(
    vocab_size=67, hidden_size=32, intermediate_size=40, num_hidden_layers=3, rms_norm_eps=1e-6,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, rope_theta=1000.0,
    tie_word_embeddings=True, hidden_act="silu", architectures=["X"], torch_dtype="bfloat16",
)  # fmt: skip


def _hf_config(rng: Random, good, folder) -> None:
    del good, folder
    kind = rng.choice(list(FAMILIES))
    config = dict(COMMON, model_type=kind, **FAMILIES[kind])
    if kind.startswith("gemma"):
        config["hidden_activation"] = "gelu_pytorch_tanh"
    # Absent keys, for which a family has defaults.
    for key in list(config):
        if rng.random() < 0.05 and key != "model_type":
            del config[key]
    config = mutate.damaged_value(rng, config)
    if isinstance(config, dict) and "model_type" in config:
        model = published._config(config, "config.json")
        next(iter(mapping.slices(model)))
        hf_config.config_to_hf(model)


def _sizes(rng: Random, mesh, folder) -> None:
    """Models of any size, which are refused before anything is allocated."""
    del folder
    settings = dataclasses.asdict(open_models.CONFIG)
    for name in rng.sample(("vocab_size", "embed_dim", "num_layers", "mlp_dim", "head_dim"), 2):
        settings[name] = rng.choice((2, 10, 10_000, 2**20, 2**24, 2**31, 2**63))
    config = TransformerConfig(**settings)
    networks.check_memory(networks.abstract_params("policy", config, mesh), "the model")


def _good_model(folder):
    """A directory of safetensors in two files with an index, and one of a single file."""
    values = open_models.tensors()
    many = open_models.write(folder / "many", values, files=2)
    single = open_models.write(folder / "single", values)
    mesh = make_mesh(MeshConfig())
    return {
        "mesh": mesh,
        "abstract": networks.abstract_params("policy", open_models.CONFIG, mesh),
        "many": {p.name: p.read_bytes() for p in many.iterdir()},
        "single": {p.name: p.read_bytes() for p in single.iterdir()},
    }


def _open(path) -> None:
    source = published.open_source(str(path))
    weights.check_names(source.config, source.reader)
    for name in list(source.reader.names):
        np.asarray(source.reader.read(name))


def _model_folder(rng: Random, good, folder) -> None:
    files = good[rng.choice(("many", "single"))]
    name = rng.choice(list(files))
    damage = mutate.damaged_json if name.endswith(".json") else mutate.damaged_bytes
    others = tuple(v for n, v in files.items() if n.endswith(".safetensors"))
    data = damage(rng, files[name]) if name.endswith(".json") else damage(rng, files[name], others)
    _open(_write(folder / "model", files, name, data))


def _safetensors(rng: Random, good, folder) -> None:
    files = dict(good["single"])
    data = files["model.safetensors"]
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.5:
        header = mutate.damaged_json(rng, data[8 : 8 + size])
        data = len(header).to_bytes(8, "little") + header + data[8 + size :]
    else:
        data = mutate.damaged_bytes(rng, data)
    _open(_write(folder / "model", files, "model.safetensors", data))


def _index(rng: Random, good, folder) -> None:
    name = "model.safetensors.index.json"
    data = mutate.damaged_json(rng, good["many"][name])
    _open(_write(folder / "model", good["many"], name, data))


def _good_gguf(folder):
    path = folder / "good.gguf"
    open_models.write_gguf(path, "llama", open_models.CONFIG, open_models.tensors())
    return path.read_bytes()


def _gguf(rng: Random, good, folder) -> None:
    path = folder / "model.gguf"
    path.write_bytes(mutate.damaged_bytes(rng, good))
    source = published.open_source(str(path))
    weights.check_names(source.config, source.reader)
    for name in list(source.reader.names):
        source.reader.read(name)


def _good_tokenizers(folder):
    ours = tokenizers.train("sentencepiece", ["the quick brown fox jumps " * 50], 300)
    ours.save(folder / "ours")
    return {
        "hf": open_tokenizers.files(bos=True)
        | {"generation_config.json": b'{"eos_token_id": [2]}', "special_tokens_map.json": b"{}"},
        "ours": {p.name: p.read_bytes() for p in (folder / "ours").iterdir()},
    }


def _tokenizer_files(rng: Random, good, folder) -> None:
    files = good[rng.choice(("hf", "hf", "hf", "ours"))]
    name = rng.choice(list(files))
    damage = mutate.damaged_json if name.endswith(".json") else mutate.damaged_bytes
    path = _write(folder / "tokenizer_files", files, name, damage(rng, files[name]))
    tokenizer = tokenizers.load(path)
    tokenizer.decode(tokenizer.encode(mutate.text(rng).replace("\0", "")))
    render_prompt(tokenizer, TURNS[:2])


TEMPLATES = [
    getattr(open_tokenizers, n) for n in ("CHATML", "HEADERS", "INST", "THINK", "REASON", "MARKED")
]
STATEMENTS = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(10**12) %}{% endfor %}", "{% set x = 'a' * 10**9 %}", "{{ 'a' * 10**10 }}",
    "{% set ns = namespace(x='ab') %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}"
    "{% endfor %}{{ ns.x }}",
    "{{ messages | tojson }}", "{{ 'x'.__class__.__mro__ }}", "{{ 1 / 0 }}",
    "{{ undefined.thing }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ '%999999999d' % 1 }}",
    "{{ 'x'.center(10**10) }}",
    "{{ 'x' | center(10**9) }}", "{{ [0] * 10**10 }}", "{{ range(10**10) | list }}",
    "{{ 9**9**9 }}",
    "{{ raise_exception('no') }}", "{{ raise_exception(1) }}", "{{ strftime_now(1) }}",
    "{{ strftime_now('%Y') }}",
    "{{ messages[99].content }}", "{{ messages[0] + 1 }}", "{% include 'x' %}", "{% break %}",
    "{{ 'a,' * 3 | indent(10**9) }}", "{{ ''.join(['a' * 1000] * 100000) }}",
    "{% generation %}x{% endgeneration %}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ 'a'.replace('a', 'a' * 10**7).replace('a', 'b' * 100) }}",
    "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}", "{{ lipsum(n=10**6) }}",
    "{{ dict(a=1).items }}",
)  # fmt: skip


def _chat_template(rng: Random, good, folder) -> None:
    del good, folder
    template = rng.choice(TEMPLATES)
    kind = rng.randrange(3)
    if kind == 0:
        data = mutate.damaged_bytes(rng, template.encode(), tuple(t.encode() for t in TEMPLATES))
        template = data.decode(errors="replace")
    elif kind == 1:
        at = rng.randrange(len(template) + 1)
        at = rng.choice((0, at, len(template)))
        template = template[:at] + rng.choice(STATEMENTS) + template[at:]
    tokenizer = HFTokenizer(open_tokenizers.files(template), "the model")
    messages = [dict(m) for m in TURNS[rng.randrange(2) :]]
    for message in messages:
        if rng.random() < 0.2:
            message["content"] = mutate.text(rng)
    if rng.random() < 0.5:
        render(tokenizer, messages)
    else:
        render_prompt(tokenizer, messages[: rng.choice((2, len(messages) - 1))])


TARGETS = [
    Target("hf_config", lambda folder: None, _hf_config, 3),
    Target("sizes", lambda folder: make_mesh(MeshConfig()), _sizes, 1),
    Target("model_folder", _good_model, _model_folder, 2),
    Target("safetensors", _good_model, _safetensors, 2),
    Target("safetensors_index", _good_model, _index, 1),
    Target("gguf", _good_gguf, _gguf, 3),
    Target("tokenizer_files", _good_tokenizers, _tokenizer_files, 2),
    Target("chat_template", lambda folder: None, _chat_template, 2),
]
