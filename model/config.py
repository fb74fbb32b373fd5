"""The architecture of a network: `TransformerConfig`, checked on construction."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated

import jax.numpy as jnp

import ranges
from ranges import NonNegative, Positive, Range, Size, SizeOr0

ATTENTION_BACKENDS = ("auto", "xla", "chunked", "splash", "cudnn")
REMAT_POLICIES = ("none", "minimal", "matmuls", "qkv", "projections", "full", "offload")
ACTIVATIONS = ("silu", "gelu_tanh")
LAYER_KINDS = ("global", "local")
MATMULS = ("dtype", "int8", "int8_tensor", "fp8", "fp8_tensor")
PARAMETRIZATIONS = ("standard", "mup")
_CHOICES = {
    "activation": ACTIVATIONS,
    "parametrization": PARAMETRIZATIONS,
    "remat": REMAT_POLICIES,
    "attention": ATTENTION_BACKENDS,
    "dtype": ("float32", "bfloat16"),
    "matmul": MATMULS,
}


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Scaling of the rotary wavelengths for a longer context (model/layers/rotary.py).

    Attributes:
      kind: `linear`, all by `factor`; `llama3`, the long ones by `factor`.
      low_freq_factor, high_freq_factor, original_length: of `llama3`: wavelengths above
        original_length / low_freq_factor are stretched, those below
        original_length / high_freq_factor are not, between them it is interpolated.
    """

    kind: str
    factor: Positive
    low_freq_factor: Positive = 1.0
    high_freq_factor: Positive = 4.0
    original_length: Size = 8192

    def __post_init__(self):
        ranges.check(self, "model.rope_scaling.")
        if self.kind not in ("linear", "llama3"):
            raise ValueError(f"model.rope_scaling.kind={self.kind!r:.80}; choose linear or llama3")
        if self.kind == "llama3" and self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"model.rope_scaling.low_freq_factor={self.low_freq_factor} is not below "
                f"high_freq_factor={self.high_freq_factor}"
            )


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """A decoder-only transformer; the open families are settings of it (families.py).

    `dtype` to `pool` do not change the parameters.

    Attributes:
      vocab_size: number of ids the tokenizer has; logits above it are masked.
      embed_dim: D, width of the residual stream.
      num_layers: number of blocks.
      num_heads: H, query heads.
      num_kv_heads: K, key and value heads (grouped-query attention); divides H.
      head_dim: N, size of a head; even, as rotary positions rotate pairs.
      mlp_dim: F, width of the gated MLP, or of each expert.
      rope_base: base of the rotary wavelengths (Su et al. 2021, arXiv:2104.09864).
      norm_eps: epsilon of RMSNorm.
      tie_embeddings: the vocabulary head is the embedding table, transposed.
      rope_scaling: RopeScaling, or None.
      local_rope_base: base of local layers, which are not scaled then; 0: that of the other layers.
      layer_pattern: kinds of layer, `local` or `global`, repeated over the depth (the last repeat
        may be partial); empty: all are global.
      window: number of tokens that a query of a local layer sees, itself included.
      activation: of the MLP's gate: `silu` or `gelu_tanh`.
      attention_bias: query, key and value have biases.
      qk_norm: RMSNorm over the head size of queries and keys, before rotary positions.
      post_norms: RMSNorm after attention and MLP too, before they are added.
      norm_offset: norms multiply by 1 + scale; scales start at 0.
      embedding_scale: embeddings are multiplied by √D; by √base_width with `mup`.
      query_scale: queries are multiplied by it; 0: by 1/√N.
      attention_softcap, logit_softcap: c·tanh(x / c) bounds attention's and the vocabulary's
        logits (Gemma 2, arXiv:2408.00118); 0 disables it.
      num_experts, experts_per_token: E experts a layer (model/layers/moe.py), of which a token uses
        k; 0: one MLP for all tokens. renormalize_experts: the k weights sum to 1.
      vocab_multiple: the table's rows are rounded up to this, so that it can be sharded.
      dtype: dtype of activations and matmuls. Parameters are float32.
      matmul: numbers of the products with the layers' matrices in training, forwards and backwards
        (model/layers/low_precision.py): those of `dtype`; `int8` or `fp8` with a scale for each row
        and output; or with one for each tensor, `int8_tensor` or `fp8_tensor`.
      scan_unroll: layers (repeats of the pattern, if there is one) in one scan step; 0 unrolls all
        (fastest on CPU).
      remat: what the backward pass recomputes: nothing (`none`), all but the results of matmuls
        and attention (`minimal`), all but those of matmuls (`matmuls`: attention is computed
        twice), all but queries, keys, values and attention's results (`qkv`), all but queries,
        keys and values (`projections`: attention is computed twice), each layer
        from its input (`full`), or as `qkv` with the saved arrays and the inputs in the host's
        memory (`offload`). The memory that each takes: docs/memory.md.
      replicate_kv_heads: where the mesh axis `tensor` does not divide key and value heads, each of
        its devices holds all of them, and computes those of its query heads.
      attention: backend (model/kernels/dispatch.py): `xla`, `chunked`, `splash`, `cudnn`, or
        `auto`, the platform's best. attention_block: queries and keys in a block of splash and
        chunked; attention_compute_block: keys that splash takes at once.
      init_scale: factor of the standard deviation 1/√fan_in from which matrices start;
        unembedding_init_scale: a further factor, of the unembedding. embedding_std: standard
        deviation of the embedding. depth_scaled_init: matrices whose product is added to the
        residual stream start 1/√(2·num_layers) as large (GPT-2, Radford et al. 2019).
      parametrization: `standard`, or `mup`, under which the best learning rate does not depend on
        the width (μP, Yang et al. 2022, arXiv:2203.03466): it scales initial weights, attention,
        logits and learning rates (model/weights.py) by D over `base_width`, the width at which both
        are the same. num_heads, num_kv_heads and mlp_dim are to grow with D.
      max_length: longest sequence allowed; data and rollouts are checked against it.
      pool: how a reward model reduces its scalars at each position to one score: `last`, `mean`.
    """

    vocab_size: Size
    embed_dim: Size
    num_layers: Annotated[int, Range(1, 10_000)]
    num_heads: Size
    num_kv_heads: Size
    head_dim: Size
    mlp_dim: Size
    rope_base: Annotated[float, Range(1, 1e12, "(]")] = 10_000.0
    norm_eps: Annotated[float, Range(1e-30, 1)] = 1e-6
    tie_embeddings: bool = True
    rope_scaling: RopeScaling | None = None
    local_rope_base: Annotated[float, Range(1, 1e12, "(]", also=0)] = 0.0
    layer_pattern: tuple[str, ...] = ()
    window: SizeOr0 = 0
    activation: str = "silu"
    attention_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    norm_offset: bool = False
    embedding_scale: bool = False
    query_scale: NonNegative = 0.0
    attention_softcap: NonNegative = 0.0
    logit_softcap: NonNegative = 0.0
    num_experts: SizeOr0 = 0
    experts_per_token: SizeOr0 = 0
    renormalize_experts: bool = True
    vocab_multiple: Size = 128
    dtype: str = "float32"
    matmul: str = "dtype"
    scan_unroll: Annotated[int, Range(0, 10_000)] = 1
    remat: str = "none"
    replicate_kv_heads: bool = False
    attention: str = "auto"
    attention_block: Annotated[int, Range(128, 2**24)] = 1024
    attention_compute_block: Annotated[int, Range(128, 2**24)] = 512
    init_scale: Positive = 1.0
    unembedding_init_scale: Positive = 1.0
    embedding_std: Positive = 0.02
    depth_scaled_init: bool = False
    parametrization: str = "standard"
    base_width: Size = 256
    max_length: Size = 2048
    pool: str = "last"

    def __post_init__(self):
        # From JSON, a config arrives as dicts and lists.
        if isinstance(self.rope_scaling, Mapping):
            object.__setattr__(self, "rope_scaling", RopeScaling(**self.rope_scaling))
        object.__setattr__(self, "layer_pattern", tuple(self.layer_pattern))
        ranges.check(self, "model.")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"model.num_kv_heads={self.num_kv_heads} does not divide "
                f"model.num_heads={self.num_heads}; every key head serves the same number of "
                "query heads"
            )
        if self.head_dim % 2:
            raise ValueError(f"model.head_dim={self.head_dim} is odd; rotary positions need pairs")
        for kind in self.layer_pattern:
            if kind not in LAYER_KINDS:
                raise ValueError(f"model.layer_pattern has {kind!r:.80}; choose global or local")
        if len(self.layer_pattern) > self.num_layers:
            raise ValueError(
                f"model.layer_pattern names {len(self.layer_pattern)} layers, and there are "
                f"model.num_layers={self.num_layers}"
            )
        if ("local" in self.layer_pattern) != (self.window > 0):
            raise ValueError(
                f"model.window={self.window} and model.layer_pattern={self.layer_pattern}: a "
                "window is of the local layers; give both or neither"
            )
        if not min(self.num_experts, 1) <= self.experts_per_token <= self.num_experts:
            raise ValueError(
                f"model.experts_per_token={self.experts_per_token} is not in 1.."
                f"model.num_experts={self.num_experts}"
            )
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"model.{name}={value!r:.80}; choose {', '.join(choices)}")
        if self.num_experts and self.matmul != "dtype":
            raise ValueError(
                f"model.matmul={self.matmul} and model.num_experts={self.num_experts}: the grouped "
                "products of experts, most of such a model's work, are not quantized; set "
                "--config.model.matmul=dtype"
            )
        for name in ("attention_block", "attention_compute_block"):
            if (size := getattr(self, name)) % 128:
                raise ValueError(f"model.{name}={size}; blocks are multiples of 128 tokens")
        width = type(self).base_width
        if self.parametrization == "standard" and self.base_width != width:
            raise ValueError(
                f"model.base_width={self.base_width} is of μP alone; add "
                "--config.model.parametrization=mup, or leave it out"
            )
        if self.parametrization == "mup" and self.query_scale:
            raise ValueError(
                f"model.query_scale={self.query_scale:.4g} and model.parametrization=mup, which "
                "scales queries itself; set --config.model.query_scale=0"
            )
        if self.pool not in ("last", "mean"):
            raise ValueError(f"pool={self.pool!r:.80}; choose last or mean")
        if not 0 <= self.scan_unroll <= self.num_layers:
            raise ValueError(f"model.scan_unroll={self.scan_unroll} is not in 0..{self.num_layers}")

    @property
    def padded_vocab_size(self) -> int:
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    @property
    def activation_dtype(self) -> jnp.dtype:
        return jnp.dtype(self.dtype)

    @property
    def width_ratio(self) -> float:
        """μP's width multiplier, D / base_width; 1 in the standard parametrization."""
        return self.embed_dim / self.base_width if self.parametrization == "mup" else 1.0

    @property
    def attention_scale(self) -> float:
        """Factor of the queries; 0: 1/√N. Of μP it is √64/N: ∝ 1/N, as the standard one at 64."""
        return 8 / self.head_dim if self.parametrization == "mup" else self.query_scale

    @property
    def layer_kinds(self) -> tuple[str, ...]:
        """The pattern that layers repeat, at least one kind."""
        return self.layer_pattern or ("global",)

    def attention_flops_per_token(self, length: int) -> float:
        """FLOPs of one forward pass of causal attention a token of a row, without its weights."""
        kinds = self.layer_kinds
        local = sum(kinds[i % len(kinds)] == "local" for i in range(self.num_layers))
        keys = length / 2  # that a query sees, on average
        if self.window and self.window < length:
            local_keys = self.window - self.window**2 / (2 * length)
            keys = (keys * (self.num_layers - local) + local_keys * local) / self.num_layers
        return self.num_layers * 2 * self.num_heads * self.head_dim * keys
