"""The table of weights: a row a weight.

Initialisation, sharding, LoRA, Muon, weight decay, quantization, rematerialisation and the names in
Hugging Face checkpoints are read from it. A new weight is a row here, and the line that uses it.

Axes: D embed, H query heads, K key/value heads, N head size, F mlp, E experts, V padded vocabulary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from model.config import TransformerConfig

# Standard deviation of a unit normal truncated at ±2.
_CUT_STD = 0.87962566103423978


class Weight(NamedTuple):
    """One row of the table.

    Attributes:
      name: its last name in the tree of parameters.
      shape: its axes as letters of the legend above, of one layer.
      axes: their logical names (model/sharding.py).
      part: `layers` (stacked over layers in the tree), `model`, or `head` (model/heads.py).
      init: `fan_in`, `embedding`, `norm`, `zeros`, or `given` by the caller of `create`.
      inputs: number of leading axes (after an expert's) that a product sums over; 0: not a matrix.
      residual: its product is added to the residual stream.
      decays: weight decay applies. adaptable: LoRA may adapt it, and freezing quantize it.
      muon: the optimizer `muon` takes it. float32: it is read in float32, whatever the
        activations' dtype.
      saved: the remat policy from which its output is saved: `qkv`, `minimal` or never (``);
        `output`: the checkpoint name of that output.
      hf: {family: its name in a Hugging Face checkpoint, of a layer in that layer}; the key "" is
        of all other families. Empty: it has none.
      exists: whether an architecture has it.
    """

    name: str
    shape: str
    axes: str
    part: str = "layers"
    init: str = "fan_in"
    inputs: int = 0
    residual: bool = False
    decays: bool = True
    adaptable: bool = False
    muon: bool = False
    float32: bool = False
    saved: str = ""
    output: str = ""
    hf: Mapping[str, str] = MappingProxyType({})
    exists: Callable[[TransformerConfig], bool] = lambda c: True

    @property
    def stacked(self) -> int:
        """The number of leading axes that are stacked in the tree: layers, experts."""
        return (self.part == "layers") + (self.axes.split()[0] == "expert")


def _hf_names(hf: str | Mapping[str, str]) -> Mapping[str, str]:
    if isinstance(hf, str):
        return {"": hf} if hf else {}
    return hf


def matrix(name: str, shape: str, axes: str, hf: str | Mapping[str, str] = "", **changes) -> Weight:
    """A matrix of the layers, by which a product is taken in the activations' dtype."""
    row: dict[str, Any] = dict(inputs=1, adaptable=True, muon=True, hf=_hf_names(hf))
    return Weight(name, shape, axes, **row | changes)


def vector(
    name: str, shape: str, axes: str, init: str, hf: str | Mapping[str, str] = "", **changes
) -> Weight:
    """A norm's scale or a bias."""
    row: dict[str, Any] = dict(init=init, decays=False, float32=init == "norm", hf=_hf_names(hf))
    return Weight(name, shape, axes, **row | changes)


def _dense(c: TransformerConfig) -> bool:
    return not c.num_experts


def _mixture(c: TransformerConfig) -> bool:
    return c.num_experts > 0


def _biased(c: TransformerConfig) -> bool:
    return c.attention_bias


def _post_norms(c: TransformerConfig) -> bool:
    return c.post_norms


_GEMMAS = ("gemma2", "gemma3_text")
_EXPERT = "mlp.experts.{expert}."
_MIXTRAL = "block_sparse_moe.experts.{expert}."

# The order and the number of the rows of a part determine the random numbers they start from.
# fmt: off
TABLE: tuple[Weight, ...] = (
    Weight("embedding", "V D", "vocab embed", "model", init="embedding",
           hf={"": "model.embed_tokens.weight"}),
    vector("final_norm", "D", "norm", "norm", "model.norm.weight", part="model"),
    Weight("unembedding", "D V", "embed vocab", "model", inputs=1, hf={"": "lm_head.weight"},
           exists=lambda c: not c.tie_embeddings),
    Weight("head", "D 1", "norm scalar", "head", init="given", inputs=1, float32=True),

    matrix("query", "D H N", "embed heads head_dim", "self_attn.q_proj.weight", saved="qkv"),
    matrix("key", "D K N", "embed kv_heads head_dim", "self_attn.k_proj.weight", saved="qkv"),
    matrix("value", "D K N", "embed kv_heads head_dim", "self_attn.v_proj.weight", saved="qkv"),
    matrix("out", "H N D", "heads head_dim embed", "self_attn.o_proj.weight", inputs=2,
            residual=True, saved="minimal", output="attention_out"),
    matrix("gate", "D F", "embed mlp", "mlp.gate_proj.weight", saved="minimal", exists=_dense),
    matrix("up", "D F", "embed mlp", "mlp.up_proj.weight", saved="minimal", exists=_dense),
    matrix("down", "F D", "mlp embed", "mlp.down_proj.weight", residual=True, exists=_dense),
    vector("attention_norm", "D", "norm", "norm", "input_layernorm.weight"),
    vector("mlp_norm", "D", "norm", "norm",
            hf={"": "post_attention_layernorm.weight"}
               | dict.fromkeys(_GEMMAS, "pre_feedforward_layernorm.weight")),
    vector("query_bias", "H N", "heads head_dim", "zeros", "self_attn.q_proj.bias",
            exists=_biased),
    vector("key_bias", "K N", "kv_heads head_dim", "zeros", "self_attn.k_proj.bias",
            exists=_biased),
    vector("value_bias", "K N", "kv_heads head_dim", "zeros", "self_attn.v_proj.bias",
            exists=_biased),
    vector("query_norm", "N", "norm", "norm", "self_attn.q_norm.weight",
            exists=lambda c: c.qk_norm),
    vector("key_norm", "N", "norm", "norm", "self_attn.k_norm.weight",
            exists=lambda c: c.qk_norm),
    vector("post_attention_norm", "D", "norm", "norm", "post_attention_layernorm.weight",
            exists=_post_norms),
    # The router is read in float32: rounding near ties picks another expert.
    Weight("router", "D E", "embed router", inputs=1, float32=True, exists=_mixture,
           hf={"": "mlp.gate.weight", "mixtral": "block_sparse_moe.gate.weight"}),
    matrix("expert_gate", "E D F", "expert embed mlp", saved="minimal", output="gate",
            hf={"": _EXPERT + "gate_proj.weight", "mixtral": _MIXTRAL + "w1.weight"},
            exists=_mixture),
    matrix("expert_up", "E D F", "expert embed mlp", saved="minimal", output="up",
            hf={"": _EXPERT + "up_proj.weight", "mixtral": _MIXTRAL + "w3.weight"},
            exists=_mixture),
    matrix("expert_down", "E F D", "expert mlp embed", residual=True,
            hf={"": _EXPERT + "down_proj.weight", "mixtral": _MIXTRAL + "w2.weight"},
            exists=_mixture),
    vector("post_mlp_norm", "D", "norm", "norm", "post_feedforward_layernorm.weight",
            exists=_post_norms),
)
# fmt: on


def row(name: str) -> Weight | None:
    """The row of a parameter's last name, or None: an adapter, or a weight of a plugin."""
    return next((w for w in TABLE if w.name == name), None)


def rows(config: TransformerConfig, part: str) -> list[Weight]:
    """The rows of a part that an architecture has."""
    return [w for w in TABLE if w.part == part and w.exists(config)]


def is_adaptable(name: str) -> bool:
    """Whether LoRA may adapt a parameter, and freezing quantize it."""
    weight = row(name)
    return weight is not None and weight.adaptable


def adaptable(name: str) -> Weight:
    """The row of a weight that LoRA may adapt.

    Raises:
      KeyError: it may not adapt this one.
    """
    weight = row(name)
    if weight is None or not weight.adaptable:
        raise KeyError(name)
    return weight


def is_layer_matrix(name: str) -> bool:
    """Whether a parameter is a matrix of the layers."""
    weight = row(name)
    return weight is not None and weight.part == "layers" and weight.inputs > 0


def group(name: str) -> str:
    """The kind of a parameter: `embedding`, `hidden` (a matrix of the layers, or its adapter),
    `output` (a head) or `vector`; "" if it is in no table."""
    weight = row(re.sub("_lora_[ab]$", "", name))
    if weight is None:
        return ""
    if weight.inputs:
        return "hidden" if weight.part == "layers" else "output"
    return "embedding" if weight.init == "embedding" else "vector"


def read_in_activation_dtype(name: str) -> bool:
    """Whether a parameter is a table or a matrix that is read in the activations' dtype."""
    weight = row(name)
    if weight is None or weight.float32:
        return False
    return weight.inputs > 0 or weight.init == "embedding"


def saved_outputs(policy: str) -> set[str]:
    """Checkpoint names of the products that a policy of rematerialization saves."""
    few, all_ = ("qkv",), ("qkv", "minimal")
    policies = {"projections": few, "qkv": few, "matmuls": all_, "minimal": all_}
    return {w.output or w.name for w in TABLE if w.saved in policies[policy]}


def sizes(config: TransformerConfig) -> dict[str, int]:
    """The length of each axis of the legend."""
    c = config
    return {
        "D": c.embed_dim, "H": c.num_heads, "K": c.num_kv_heads, "N": c.head_dim, "F": c.mlp_dim,
        "E": c.num_experts, "V": c.padded_vocab_size, "1": 1,
    }  # fmt: skip


def shape(weight: Weight, config: TransformerConfig) -> tuple[int, ...]:
    """The shape of a weight, without the axis of layers."""
    lengths = sizes(config)
    return tuple(lengths[letter] for letter in weight.shape.split())


def logical_axes(weight: Weight, config: TransformerConfig) -> tuple[str, ...]:
    """Logical names of a weight's axes, without that of layers."""
    names = weight.axes.split()
    if config.replicate_kv_heads:
        names = ["replicated_kv_heads" if name == "kv_heads" else name for name in names]
    return tuple(names)


def inner_axes(weight: Weight, config: TransformerConfig) -> tuple[tuple[str, ...], ...]:
    """Logical names of (the inputs, the outputs) of a matrix."""
    first = weight.stacked - (weight.part == "layers")
    axes = logical_axes(weight, config)[first:]
    return axes[: weight.inputs], axes[weight.inputs :]


def flops_per_token(config: TransformerConfig, length: int) -> float:
    """Forward and backward FLOPs a token: 6 a matmul weight, plus causal attention."""
    count = config.padded_vocab_size * config.embed_dim
    for weight in rows(config, "layers"):
        if weight.inputs:
            size = math.prod(shape(weight, config))
            if weight.stacked == 2:  # a token uses a few of the experts
                size = size // config.num_experts * config.experts_per_token
            count += config.num_layers * size
    return 6.0 * count + 6.0 * config.attention_flops_per_token(length)


def kernel_init(std: float) -> nn.initializers.Initializer:
    """A normal distribution truncated at ±2 standard deviations, scaled to have this standard
    deviation after truncation."""
    return nn.initializers.truncated_normal(stddev=std / _CUT_STD)


def _mup_init(weight: Weight, config: TransformerConfig) -> float:
    """μP's factor of a weight's initial standard deviation, as a power of the width ratio.

    Yang et al. 2022 (arXiv:2203.03466), tables 3 and 8: the variance of hidden matrices is 1/fan_in
    as usual; that of the unembedding is constant, for the logits are divided by the ratio; that of
    other outputs, which have no such multiplier, is 1/fan_in².
    """
    power = {"unembedding": 0.5, "router": -0.5, "head": -0.5}.get(weight.name, 0.0)
    return config.width_ratio**power


def mup_rate(name: str, ratio: float, orthogonal: bool = False) -> float:
    """μP's factor of the learning rate of a parameter, by its last name.

    Those of Adam (the tables of `_mup_init`): 1/ratio for a matrix that sums over the width, 1 for
    embeddings, vectors and the unembedding, whose logits are divided by the ratio. An adapter is
    the two matrices that it consists of: A sums over the width, B over its rank.

    Args:
      ratio: `TransformerConfig.width_ratio`.
      orthogonal: of an optimizer whose updates of hidden matrices are orthogonal, with entries as
        large as Adam's. Their spectral norm is √fan_in where that of Adam's is fan_in.
    """
    weight = row(re.sub("_lora_[ab]$", "", name))
    if not weight or not weight.inputs or weight.name == "unembedding" or name.endswith("_lora_b"):
        return 1.0
    return ratio**-0.5 if orthogonal and name == weight.name and weight.muon else 1 / ratio


def init_std(weight: Weight, config: TransformerConfig) -> float:
    """The standard deviation from which a matrix with `init="fan_in"` starts."""
    first = weight.stacked - (weight.part == "layers")
    fan_in = math.prod(shape(weight, config)[first : first + weight.inputs])
    scale = {"unembedding": config.unembedding_init_scale}.get(weight.name, 1.0)
    std = config.init_scale * scale * fan_in**-0.5 * _mup_init(weight, config)
    if weight.residual and config.depth_scaled_init:
        std *= (2 * config.num_layers) ** -0.5
    return std


def initializer(weight: Weight, config: TransformerConfig, std: float | None = None) -> Callable:
    """The partitioned initializer of a weight, for `nn.Module.param`.

    Args:
      std: standard deviation of a weight whose `init` is `given`.
    """
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    if weight.init == "fan_in":
        init = kernel_init(init_std(weight, config))
    else:
        init = {
            "embedding": nn.initializers.normal(config.embedding_std),
            "norm": zeros if config.norm_offset else ones,  # a norm starts without effect
            "zeros": zeros,
            "given": nn.initializers.normal((std or 0.0) * _mup_init(weight, config)),
        }[weight.init]
    return nn.with_logical_partitioning(init, logical_axes(weight, config))


def create(
    module: nn.Module, weight: Weight, config: TransformerConfig, std: float | None = None
) -> Array:
    """Declares a weight as a float32 parameter of a Linen module, and returns its value."""
    init = initializer(weight, config, std)
    return module.param(weight.name, init, shape(weight, config), jnp.float32)
