"""Open weights: the pure mapping of names and shapes between Hugging Face checkpoints and ours.

Nothing here reads or writes a file (train/interop/convert.py does). The families:
model/pretrained/families.py; their config.json: model/pretrained/hf_config.py; the names:
model/weights.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from model import weights
from model.config import TransformerConfig
from model.pretrained.families import family_of
from model.weights import Weight


@dataclasses.dataclass(frozen=True)
class Slice:
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
    """The mapping of vectors and biases, which differ only in the split into heads."""
    return (int(np.prod(shape)),), lambda x: x.reshape(shape), lambda x: x.reshape(-1)


def _matrix(inputs, outputs):
    """The mapping of a matrix: ours [*inputs, *outputs]; theirs [outputs, inputs], each flat."""
    i, o = int(np.prod(inputs)), int(np.prod(outputs))
    return (o, i), lambda x: x.T.reshape(*inputs, *outputs), lambda x: x.reshape(i, o).T


def _table(c: TransformerConfig, transposed: bool):
    """The mapping of a vocabulary table: ours has more rows, zeros that `logits` masks."""
    padding = c.padded_vocab_size - c.vocab_size

    def to_ours(x):
        x = np.pad(x, ((0, padding), (0, 0))) if padding else x
        return x.T if transposed else x

    def to_hf(x):
        return (x.T if transposed else x)[: c.vocab_size]

    return (c.vocab_size, c.embed_dim), to_ours, to_hf


def slices(config: TransformerConfig) -> tuple[Slice, ...]:
    """Every tensor of a Hugging Face checkpoint of this architecture.

    Together they fill every parameter of `Transformer(config)` that has a name there once.

    Raises:
      ValueError: no family of transformers computes this.
    """
    kind, parts = family_of(config), []
    for weight in (row for row in weights.rows(config, "model") if row.hf):
        parts.append(Slice((weight.name,), (), _hf_name(weight, kind), *_how(weight, config)))
    for layer in range(config.num_layers):
        for weight in (row for row in weights.rows(config, "layers") if row.hf):
            name, how = f"model.layers.{layer}.{_hf_name(weight, kind)}", _how(weight, config)
            path = "layers", weight.name
            if weight.stacked == 1:
                parts.append(Slice(path, (layer,), name, *how))
                continue
            for expert in range(config.num_experts):
                index = layer, expert
                parts.append(Slice(path, index, name.format(expert=expert), *how))
    return tuple(parts)


def _hf_name(weight: Weight, kind: str) -> str:
    return weight.hf.get(kind, weight.hf[""])


def _how(weight: Weight, c: TransformerConfig):
    """(shape, to_ours, to_hf) of a `Slice` of a weight."""
    axes = weights.logical_axes(weight, c)
    if "vocab" in axes:
        return _table(c, transposed=axes[-1] == "vocab")
    shape = weights.shape(weight, c)[weight.stacked - 1 if weight.part == "layers" else 0 :]
    if weight.inputs:
        return _matrix(shape[: weight.inputs], shape[weight.inputs :])
    return _same(shape)


def check_covered(config: TransformerConfig, shapes: Mapping, scalar: bool = False) -> None:
    """Checks that the tensors of `slices` take every element of the parameters there are.

    Args:
      shapes: {path: shape} of the parameters.
      scalar: they are of a model with a scalar head (model/heads.py): `backbone`, whose
        `unembedding` it does not use, and `head`.

    Raises:
      ValueError: a parameter that no tensor takes or takes in part, or that is not there.
    """
    c = config
    parts: dict[tuple[str, ...], list[Slice]] = {("head",): []} if scalar else {}
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
    for path, path_parts in parts.items():
        shape = shapes[path]
        depth = len(path_parts[0].index) if path_parts else 0
        size = math.prod(path_parts[0].shape) if path_parts else c.embed_dim
        if path[-1] in ("embedding", "unembedding"):
            size += padding
        stacked = {part.index for part in path_parts} or {()}
        if stacked != set(np.ndindex(*shape[:depth])) or math.prod(shape[depth:]) != size:
            raise ValueError(
                f"the model's weight {'/'.join(path)} is {list(shape)}, and not all of it has a "
                f"place in a {family_of(c)} model of its settings"
            )
