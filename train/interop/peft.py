"""Export of adapters as a directory that the `peft` library applies to the base model.

Axes: L layers, r rank.
"""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict

from model import lora
from model.config import TransformerConfig
from model.lora import LoRA
from model.pretrained.families import family_of
from model.pretrained.mapping import slices
from ranges import ConfigError
from train.interop import weights


def tensors_of(
    config: TransformerConfig, adapters: Any, rank: int
) -> dict[str, list[weights.Tensor]]:
    """{module: its two tensors}: lora_A.weight [r, inputs] and lora_B.weight [outputs, r].

    Args:
      adapters: tree of A [L, *inputs, r] and B [L, r, *outputs] beside their weights.

    Raises:
      ConfigError: an adapter of experts, which transformers holds as one tensor and not as
        modules, or of a weight that is in no module.
    """
    flat, modules = flatten_dict(adapters), {}
    known = {(*s.path[:-1], s.path[-1] + end) for s in slices(config) for end in (lora.A, lora.B)}
    for path in sorted(flat.keys() - known):
        raise ConfigError(
            f"{'/'.join(path)} adapts a weight in no module of a {family_of(config)} model; export "
            "the merged model (leave out --adapter)"
        )
    for part in slices(config):
        *above, name = part.path
        a = flat.get((*above, name + lora.A))
        if a is None:
            continue
        if len(part.index) > 1:
            raise ConfigError(
                "adapters of experts have no place in a PEFT directory; export the merged model "
                "(leave out --adapter), or train with --config.lora.targets=query,key,value,out"
            )
        b = flat[*above, name + lora.B]
        module = part.name.removesuffix(".weight")

        def read_a(a=a, index=part.index):
            return np.asarray(jax.device_get(a[index]), np.float32).reshape(-1, rank).T

        def read_b(b=b, index=part.index):
            return np.asarray(jax.device_get(b[index]), np.float32).reshape(rank, -1).T

        prefix, (outputs, inputs) = f"base_model.model.{module}", part.shape
        modules[module] = [
            weights.Tensor(f"{prefix}.lora_A.weight", (rank, inputs), read_a),
            weights.Tensor(f"{prefix}.lora_B.weight", (outputs, rank), read_b),
        ]
    return modules


def write(
    directory: epath.PathLike,
    config: TransformerConfig,
    adapters: Any,
    settings: LoRA,
    base: str,
) -> None:
    """Writes adapter_config.json and adapter_model.safetensors.

    Args:
      base: the model that is adapted, for `base_model_name_or_path`.
    """
    directory = epath.Path(directory)
    modules = tensors_of(config, adapters, settings.rank)
    adapter_config = dict(
        peft_type="LORA",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        bias="none",
        fan_in_fan_out=False,
        inference_mode=True,
        target_modules=sorted(modules),
    )
    (directory / "adapter_config.json").write_text(json.dumps(adapter_config, indent=2) + "\n")
    tensors = [tensor for pair in modules.values() for tensor in pair]
    weights.write_safetensors(directory, tensors, "float32", "adapter_model", limit=2**62)
