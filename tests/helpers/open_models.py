"""Small open models on disk, written without Seedpod's own writer."""

import json

import numpy as np
import open_tokenizers
import orbax.checkpoint as ocp
import safetensors.numpy

from model.config import TransformerConfig
from model.hf_config import config_to_hf
from model.pretrained import slices
from train import checkpoint

CONFIG = TransformerConfig(
    vocab_size=320, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=24,
    rope_base=10_000.0, norm_eps=1e-5, tie_embeddings=False, max_length=64,
)  # fmt: skip


def tensors(config=CONFIG, dtype=np.float32, seed=0):
    """{name: array} under Hugging Face's names."""
    rng = np.random.default_rng(seed)
    return {
        s.name: (rng.standard_normal(s.shape) * 0.3 + ("norm" in s.name)).astype(dtype)
        for s in slices(config)
    }


def write(directory, values, config=CONFIG, files=1, tokenizer_files=None):
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


def save_role(workdir, role, params, config=CONFIG):
    """A workdir as a stage that trained `role` leaves it."""
    checkpoint.save_models(workdir, {role: config})
    with ocp.CheckpointManager((workdir / "checkpoints").resolve()) as manager:
        manager.save(1, args=ocp.args.Composite(**{role: ocp.args.StandardSave(params)}))
