"""Open weights: the pure mapping of names and shapes between Hugging Face checkpoints and ours.

Nothing here reads or writes a file (train/interop/convert.py does). The families:
model/pretrained/families.py; their
config.json: model/pretrained/hf_config.py.

Axes: D embed, H query heads, K key/value heads, N head size, F mlp, V vocabulary, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from model.config import TransformerConfig
from model.pretrained.families import family_of

# What the projections of an expert are called.
EXPERT_NAMES = {
    "mixtral": {"expert_gate": "w1", "expert_up": "w3", "expert_down": "w2"},
    "qwen3_moe": {f"expert_{n}": f"{n}_proj" for n in ("gate", "up", "down")},
}


class Slice(NamedTuple):
    """One tensor of a Hugging Face checkpoint, as a part of one of our parameters.

    Attributes:
      path: of the parameter in the tree. index: of its leading axes: `params[path][index]` is the
        part; () is all of it.
      name, shape: of the tensor in the checkpoint.
      to_ours, to_hf: numpy functions from the tensor to the part and back; they keep the dtype.
    """

    path: tuple[str, ...]
    index: tuple[int, ...]
    name: str
    shape: tuple[int, ...]
    to_ours: Callable[[np.ndarray], np.ndarray]
    to_hf: Callable[[np.ndarray], np.ndarray]


def _same(shape):
    """Vectors, and biases that only lose the split into heads."""
    return (int(np.prod(shape)),), lambda x: x.reshape(shape), lambda x: x.reshape(-1)


def _matrix(inputs, outputs):
    """Ours [*inputs, *outputs]; theirs [outputs, inputs], each flat."""
    i, o = int(np.prod(inputs)), int(np.prod(outputs))
    return (o, i), lambda x: x.T.reshape(*inputs, *outputs), lambda x: x.reshape(i, o).T


def _table(c: TransformerConfig, transposed: bool):
    """A vocabulary's rows: ours are padded with zeros to a multiple, and `logits` masks them."""
    padding = c.padded_vocab_size - c.vocab_size

    def to_ours(x):
        x = np.pad(x, ((0, padding), (0, 0))) if padding else x
        return x.T if transposed else x

    def to_hf(x):
        return (x.T if transposed else x)[: c.vocab_size]

    return (c.vocab_size, c.embed_dim), to_ours, to_hf


def slices(config: TransformerConfig) -> tuple[Slice, ...]:
    """Every tensor of a Hugging Face checkpoint of this architecture.

    Together they fill every parameter of `Transformer(config)` once.

    Raises:
      ValueError: no family of transformers computes this.
    """
    kind, c = family_of(config), config
    D, H, K, N, F = c.embed_dim, c.num_heads, c.num_kv_heads, c.head_dim, c.mlp_dim
    layer = {
        "query": ("self_attn.q_proj.weight", _matrix((D,), (H, N))),
        "key": ("self_attn.k_proj.weight", _matrix((D,), (K, N))),
        "value": ("self_attn.v_proj.weight", _matrix((D,), (K, N))),
        "out": ("self_attn.o_proj.weight", _matrix((H, N), (D,))),
        "gate": ("mlp.gate_proj.weight", _matrix((D,), (F,))),
        "up": ("mlp.up_proj.weight", _matrix((D,), (F,))),
        "down": ("mlp.down_proj.weight", _matrix((F,), (D,))),
        "attention_norm": ("input_layernorm.weight", _same((D,))),
        "mlp_norm": ("post_attention_layernorm.weight", _same((D,))),
    }
    if c.attention_bias:
        layer |= {
            "query_bias": ("self_attn.q_proj.bias", _same((H, N))),
            "key_bias": ("self_attn.k_proj.bias", _same((K, N))),
            "value_bias": ("self_attn.v_proj.bias", _same((K, N))),
        }
    if c.qk_norm:
        layer |= {
            "query_norm": ("self_attn.q_norm.weight", _same((N,))),
            "key_norm": ("self_attn.k_norm.weight", _same((N,))),
        }
    if c.post_norms:
        layer |= {
            "post_attention_norm": ("post_attention_layernorm.weight", _same((D,))),
            "mlp_norm": ("pre_feedforward_layernorm.weight", _same((D,))),
            "post_mlp_norm": ("post_feedforward_layernorm.weight", _same((D,))),
        }
    experts = {}
    if c.num_experts:
        for name in ("gate", "up", "down"):
            experts[f"expert_{name}"] = layer.pop(name)
        block = "block_sparse_moe" if kind == "mixtral" else "mlp"
        layer["router"] = (f"{block}.gate.weight", _matrix((D,), (c.num_experts,)))
    found = [
        Slice(("embedding",), (), "model.embed_tokens.weight", *_table(c, False)),
        Slice(("final_norm",), (), "model.norm.weight", *_same((D,))),
    ]
    if not c.tie_embeddings:
        found.append(Slice(("unembedding",), (), "lm_head.weight", *_table(c, True)))
    for i in range(c.num_layers):
        for name, (theirs, how) in layer.items():
            found.append(Slice(("layers", name), (i,), f"model.layers.{i}.{theirs}", *how))
        for name, (_, how) in experts.items():
            for e in range(c.num_experts):
                theirs = f"model.layers.{i}.{block}.experts.{e}.{EXPERT_NAMES[kind][name]}.weight"
                found.append(Slice(("layers", name), (i, e), theirs, *how))
    return tuple(found)


def check_covered(config: TransformerConfig, shapes: Mapping, scalar: bool = False) -> None:
    """Checks that the tensors of `slices` take every element of the parameters there are.

    Args:
      shapes: {path: shape} of the parameters.
      scalar: they are of a model with a scalar head (model/heads.py): `backbone`, whose
        `unembedding` it does not use, and `head`.

    Raises:
      ValueError: a parameter that no tensor takes or takes in part, or that is not there.
    """
    c, parts = config, {("head",): []} if scalar else {}
    for part in slices(c):
        if not scalar:
            parts.setdefault(part.path, []).append(part)
        elif part.path != ("unembedding",):
            parts.setdefault(("backbone", *part.path), []).append(part)
    if scalar:
        shapes = {path: s for path, s in shapes.items() if path != ("backbone", "unembedding")}
    for path in sorted(parts.keys() ^ shapes.keys()):
        name = "/".join(path)
        if path in shapes:
            raise ValueError(
                f"the model has a weight {name}, for which a {family_of(c)} model has no tensor; "
                "leaving it out would be another model"
            )
        raise ValueError(f"the model has no weight {name}, which a {family_of(c)} model needs")
    padding = (c.padded_vocab_size - c.vocab_size) * c.embed_dim
    for path, found in parts.items():
        shape = shapes[path]
        depth = len(found[0].index) if found else 0
        size = math.prod(found[0].shape) if found else c.embed_dim
        if path[-1] in ("embedding", "unembedding"):
            size += padding
        stacked = {part.index for part in found} or {()}
        if stacked != set(np.ndindex(*shape[:depth])) or math.prod(shape[depth:]) != size:
            raise ValueError(
                f"the model's weight {'/'.join(path)} is {list(shape)}, and not all of it has a "
                f"place in a {family_of(c)} model of its settings"
            )
