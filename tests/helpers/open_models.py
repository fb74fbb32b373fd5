"""Small open models on disk, written without Seedpod's own writer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import open_tokenizers
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy

from model.config import TransformerConfig
from model.layers.rotary import stretch
from model.pretrained.hf_config import config_to_hf
from model.pretrained.mapping import slices
from ranges import ConfigError
from train.checkpoints import saved_models
from train.interop import gguf_files

CONFIG = TransformerConfig(
    vocab_size=320, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=24,
    rope_base=10_000.0, norm_eps=1e-5, tie_embeddings=False, max_length=64,
)  # fmt: skip


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 942000000\n"


def tensors(
    config: TransformerConfig = CONFIG, dtype: Any = np.float32, seed: int = 0
) -> dict[str, np.ndarray]:
    """{name: array} under Hugging Face's names."""
    rng = np.random.default_rng(seed)
    return {
        s.name: (rng.standard_normal(s.shape) * 0.3 + ("norm" in s.name)).astype(dtype)
        for s in slices(config)
    }


VALUES = tensors()
UP = "model.layers.1.mlp.up_proj.weight"


def refused(function: Callable, *args: Any, **settings: Any) -> str:
    """The message with which a call is refused: a short one."""
    with pytest.raises(ConfigError) as e:
        function(*args, **settings)
    assert str(e.value).count("\n") < 3 and len(str(e.value)) < 700
    return str(e.value)


def edit(path: Path, **changes: Any) -> None:
    """Changes keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write(
    directory: Path,
    values: dict[str, np.ndarray],
    config: TransformerConfig = CONFIG,
    files: int = 1,
    tokenizer_files: dict[str, bytes] | None = None,
) -> Path:
    """A Hugging Face directory, its tensors spread over `files` files."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config_to_hf(config)))
    for name, content in (tokenizer_files or open_tokenizers.files()).items():
        (directory / name).write_bytes(content)
    if files == 1:
        safetensors.numpy.save_file(values, directory / "model.safetensors")
        return directory
    weight_map = {name: f"part-{i % files}.safetensors" for i, name in enumerate(values)}
    for file in set(weight_map.values()):
        part = {n: v for n, v in values.items() if weight_map[n] == file}
        safetensors.numpy.save_file(part, directory / file)
    index = json.dumps({"weight_map": weight_map})
    (directory / "model.safetensors.index.json").write_text(index)
    return directory


def save_role(
    workdir: Path, role: str, params: Any, config: TransformerConfig = CONFIG, step: int = 1
) -> None:
    """Writes a workdir as a stage that trained `role` leaves it, or a further step of it."""
    saved_models.save_models(workdir, {role: config})
    with ocp.CheckpointManager((workdir / "checkpoints").resolve()) as manager:
        items = {role: ocp.args.StandardSave(params), "meta": ocp.args.JsonSave({})}
        manager.save(step, args=ocp.args.Composite(**items))


def stored(directory: Path) -> dict[str, np.ndarray]:
    """{name: array} of all safetensors files of a directory."""
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors |= safetensors.numpy.load_file(path)
    return tensors


def write_gguf(
    path: Path,
    kind: str,
    config: TransformerConfig,
    values: dict[str, np.ndarray],
    extra: dict[str, float] | None = None,
) -> None:
    """The model as llama.cpp converts one: other names, and Llama's rotary pairs side by side."""
    tokenizer = json.loads(open_tokenizers.files()["tokenizer.json"])
    vocab, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    writer = gguf.GGUFWriter(str(path), kind)
    writer.add_block_count(config.num_layers)
    writer.add_embedding_length(config.embed_dim)
    writer.add_feed_forward_length(config.mlp_dim)
    writer.add_context_length(config.max_length)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_base)
    for key, value in (extra or {}).items():
        writer.add_float32(f"{kind}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    tokens = sorted(vocab, key=vocab.get)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i < 3 else 1 for i in range(len(tokens))])
    writer.add_token_merges([" ".join(m) for m in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_chat_template(open_tokenizers.CHATML)
    table = gguf.get_tensor_name_map(gguf_files.ARCHITECTURES[kind], config.num_layers)
    for name, value in values.items():
        heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}.get(name.split(".")[-2])
        if kind == "llama" and heads:
            value = value.reshape(heads, 2, -1, config.embed_dim).swapaxes(1, 2)
            value = value.reshape(-1, config.embed_dim)
        if "down_proj" in name:
            value = value.astype(np.float16)
        full_name = table.get_name(name, (".weight", ".bias"))
        assert full_name, name
        writer.add_tensor(full_name, value)
    if config.rope_scaling:
        plain = config.rope_base ** (-np.arange(4, dtype=np.float32) / 4)
        factors = plain / np.asarray(stretch(plain, config.rope_scaling))
        writer.add_tensor("rope_freqs.weight", factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
