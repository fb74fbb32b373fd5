"""One layer of the transformer, and the scan over all of them.

Axes: B batch, T length, D embed, H query heads, K key/value heads, N head size, F mlp, L layers.
"""

from __future__ import annotations

import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from model import lora, moe, quantized
from model.attention import (
    attention,
    cached_attention,
    causal_attention,
    extend,
    kv_repeats,
    prompt_attention,
)
from model.config import TransformerConfig
from model.kernels import RESIDUALS
from model.linear import Turned, linear, materialized, turned
from model.rotary import rope, rotary_settings
from model.sharding import constrain, platform

# Parameters that are read in the activations' dtype, and those of model/transformer.py.
WEIGHTS = ("query", "key", "value", "out", "gate", "up", "down", "expert_gate", "expert_up")
WEIGHTS += ("expert_down", "embedding", "unembedding")
GATES = {"silu": jax.nn.silu, "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True)}


def gated(activation: str, gate, up, columns: bool):
    """activation(gate) · up, both [B, T, F].

    bfloat16 on CPU is computed in float32, and rounded once: XLA takes longer to round there than
    to compute.

    Args:
      columns: the next product is `linear.turned`. It is computed as the two before left it.
    """
    if gate.dtype == jnp.float32 or platform() != "cpu":
        return GATES[activation](gate) * up
    shape, dtype = gate.shape, gate.dtype
    if columns:
        gate, up = (x.reshape(-1, shape[-1]).T for x in (gate, up))
    out = GATES[activation](gate.astype(jnp.float32)) * up.astype(jnp.float32)
    out = out.astype(dtype)
    return out.T.reshape(shape) if columns else out


# Standard deviation of a unit normal cut off at ±2.
_CUT_STD = 0.87962566103423978


def kernel_init(fan_in: int):
    """A normal distribution cut off at ±2 of its deviations, with a standard deviation of
    1/√fan_in once it is cut."""
    return nn.initializers.truncated_normal(stddev=fan_in**-0.5 / _CUT_STD)


def norm_init(config: TransformerConfig):
    """Initializer of a norm's scale: what leaves its input as it is."""
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    return nn.with_logical_partitioning(zeros if config.norm_offset else ones, ("norm",))


def rms_norm(x, scale, config: TransformerConfig):
    """x / rms(x) * scale, in float32 (Zhang & Sennrich 2019, arXiv:1910.07467)."""
    x32 = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + config.norm_eps)
    if config.norm_offset:
        scale = 1.0 + scale
    return (x32 * inverse * scale).astype(x.dtype)


def apart(config: TransformerConfig, x):
    """Keeps a norm out of the matmuls before and after it, in models of Gemma's form: within
    each of them it is no faster, and takes XLA for TPU twice as long to compile."""
    return jax.lax.optimization_barrier(x) if config.post_norms else x


class Block(nn.Module):
    """One layer of a kind. The carry: (x, the cache or None, the layer's index).

    Of a prompt, the `last` layer returns its last token alone: what follows reads no other.
    """

    config: TransformerConfig
    kind: str = "global"
    last: bool = False

    @nn.compact
    def __call__(self, carry, positions, segment_ids, slot, branch_ids=None):
        x, cache, layer = carry
        length = "act_length" if cache is None else "act_slot"  # a cached step is not split
        hidden = ("act_batch", length, "act_embed")
        c, dtype = self.config, self.config.activation_dtype
        D, H, K, N, F = c.embed_dim, c.num_heads, c.num_kv_heads, c.head_dim, c.mlp_dim
        B, T, _ = x.shape

        def weight(name, shape, axes, fan_in):
            if self.has_variable("params", name):
                held = self.get_variable("params", name)
                if quantized.is_quantized(held) or isinstance(held, Turned):
                    return held
            init = nn.with_logical_partitioning(kernel_init(fan_in), axes)
            return self.param(name, init, shape, jnp.float32).astype(dtype)

        def project(name, x, w):
            """x [B, T, D] @ w [D, …], and what an adapter beside the weight adds: [B, T, F]."""
            if not isinstance(w, Turned):
                w = w.reshape(x.shape[-1], math.prod(w.shape) // x.shape[-1])
            out = quantized.linear(x, w) if quantized.is_quantized(w) else linear(x, w)
            for a, b in self.adapter(name):
                rank = a.shape[-1]
                out = out + linear(linear(x, a.reshape(-1, rank)), b.reshape(rank, -1))
            return out

        def bias(name, heads, axis):
            init = nn.with_logical_partitioning(nn.initializers.zeros, (axis, "head_dim"))
            return self.param(name, init, (heads, N), jnp.float32).astype(dtype)

        def norm(name, x):
            scale = self.param(name, norm_init(c), (x.shape[-1],), jnp.float32)
            return rms_norm(x, scale, c)

        kv_heads = "replicated_kv_heads" if c.replicate_kv_heads else "kv_heads"
        wq = weight("query", (D, H, N), ("embed", "heads", "head_dim"), D)
        wk = weight("key", (D, K, N), ("embed", kv_heads, "head_dim"), D)
        wv = weight("value", (D, K, N), ("embed", kv_heads, "head_dim"), D)
        wo = weight("out", (H, N, D), ("heads", "head_dim", "embed"), H * N)
        if not c.num_experts:
            w_gate = weight("gate", (D, F), ("embed", "mlp"), D)
            w_up = weight("up", (D, F), ("embed", "mlp"), D)
            w_down = weight("down", (F, D), ("mlp", "embed"), F)

        x = checkpoint_name(x, "layer_input")
        h = apart(c, norm("attention_norm", x))
        queries = h, positions
        if ends := self.last and cache is not None and slot is None:
            x, segment_ids, *queries = (a[:, -1:] for a in (x, segment_ids, h, positions))
        q = project("query", queries[0], wq).reshape(B, -1, H, N)
        k = project("key", h, wk).reshape(B, T, K, N)
        v = project("value", h, wv).reshape(B, T, K, N)
        if c.attention_bias:
            q = q + bias("query_bias", H, "heads")
            k = k + bias("key_bias", K, kv_heads)
            v = v + bias("value_bias", K, kv_heads)
        q = constrain(q, "act_batch", length, "act_heads", "act_head_dim")
        k = constrain(k, "act_batch", length, f"act_{kv_heads}", "act_head_dim")
        v = constrain(v, "act_batch", length, f"act_{kv_heads}", "act_head_dim")
        if c.qk_norm:
            q, k = norm("query_norm", q), norm("key_norm", k)
        turn = rotary_settings(c, self.kind)
        q, k = rope(q, queries[1], *turn), rope(k, positions, *turn)
        if (repeats := kv_repeats(c)) > 1:
            k, v = (
                constrain(jnp.repeat(x, repeats, axis=2),
                          "act_batch", length, "act_kv_heads", "act_head_dim")
                for x in (k, v)
            )  # fmt: skip
        q, k, v = map(checkpoint_name, (q, k, v), ("query", "key", "value"))
        settings = dict(
            window=c.window if self.kind == "local" else 0,
            softcap=c.attention_softcap,
            scale=c.query_scale,
        )
        if self.is_initializing():  # a row of a few tokens, which a mesh need not divide
            out = causal_attention(q, k, v, segment_ids)
        elif cache is None:
            out = attention(q, k, v, segment_ids, c, branch_ids, **settings)  # names its RESIDUALS
        else:
            cache = extend(cache, k, v, layer, 0 if slot is None else slot, c)
            if slot is None and not ends:
                out = prompt_attention(q, k, v, segment_ids, c, **settings)
            else:
                at = T - 1 if ends else slot
                out = cached_attention(q, cache, layer, at, segment_ids, c, **settings)
        out = project("out", out.reshape(B, -1, H * N), wo)
        out = checkpoint_name(out, "attention_out")
        x = x + (norm("post_attention_norm", apart(c, out)) if c.post_norms else out)
        x = constrain(x, *hidden)

        h = apart(c, norm("mlp_norm", x))
        stats = None
        if c.num_experts:
            out, stats = self.experts(h, segment_ids, weight, length)
        else:
            gate = checkpoint_name(project("gate", h, w_gate), "gate")  # [B, T, F]
            up = checkpoint_name(project("up", h, w_up), "up")
            # An adapter would have columns as its left side: XLA has no such bfloat16 product.
            columns = turned(h, w_down) and not self.adapter("down")
            h = gated(c.activation, gate, up, columns)
            h = constrain(h, "act_batch", length, "act_mlp")
            out = project("down", h, w_down)
        x = x + (norm("post_mlp_norm", apart(c, out)) if c.post_norms else out)
        return (constrain(x, *hidden), cache, layer + 1), stats

    def adapter(self, name):
        """[(A, B)] of a weight in the activations' dtype, or [] where it has no adapter."""
        if not self.has_variable("params", name + lora.A):
            return []
        pair = (self.get_variable("params", name + end) for end in (lora.A, lora.B))
        return [tuple(x.astype(self.config.activation_dtype) for x in pair)]

    def experts(self, h, segment_ids, weight, length):
        """A mixture of experts in place of the MLP: (its output, the router's statistics)."""
        c = self.config
        D, F, E = c.embed_dim, c.mlp_dim, c.num_experts
        # The router is float32 whatever the dtype is: rounding near ties picks another expert.
        init = nn.with_logical_partitioning(kernel_init(D), ("embed", "router"))
        router = self.param("router", init, (D, E), jnp.float32)
        gate = weight("expert_gate", (E, D, F), ("expert", "embed", "mlp"), D)
        up = weight("expert_up", (E, D, F), ("expert", "embed", "mlp"), D)
        down = weight("expert_down", (E, F, D), ("expert", "mlp", "embed"), F)
        logits = linear(h.astype(jnp.float32), router)
        ids, weights, stats = moe.route(c, logits, segment_ids > 0)
        split = length == "act_length" and not self.is_initializing()
        # Each with its adapter, if it has one.
        gate, up, down = (
            (quantized.dequantize(w, h.dtype), *itertools.chain(*self.adapter(name)))
            for name, w in {"expert_gate": gate, "expert_up": up, "expert_down": down}.items()
        )
        out = moe.experts(h, ids, weights, gate, up, down, GATES[c.activation], split)
        return out, stats


# What the backward pass finds saved of a layer besides its input (config.remat).
_ATTENTION = ("query", "key", "value", RESIDUALS)
REMAT = {
    "none": None,
    # By name: a policy that looks for matmuls does not see those in `linear`.
    "minimal": jax.checkpoint_policies.save_only_these_names(
        *_ATTENTION, "attention_out", "gate", "up"
    ),
    "qkv": jax.checkpoint_policies.save_only_these_names(*_ATTENTION),
    "full": jax.checkpoint_policies.nothing_saveable,
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["layer_input", *_ATTENTION],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


def init_layers(config: TransformerConfig) -> nn.Module:
    """A module that makes the parameters of all layers, stacked: `name` [L, …].

    Kinds of layer differ in what they compute, not in their parameters.
    """
    return nn.scan(
        Block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=config.num_layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )(config)


def split_layers(params):
    """Stacked parameters as one tree a layer, {"0": …}: where layers are unrolled, a loop around
    them then slices no weights at every turn."""
    count = len(jax.tree.leaves(params)[0])
    return {str(i): jax.tree.map(lambda x, i=i: x[i], params) for i in range(count)}


def turn_layers(config: TransformerConfig, layers):
    """The projections of `split_layers`, in the activations' dtype, `Turned`; but for those of
    experts and of int8."""
    kv_heads = "act_replicated_kv_heads" if config.replicate_kv_heads else "act_kv_heads"
    outputs = {"query": "act_heads", "key": kv_heads, "value": kv_heads}
    outputs |= {"gate": "act_mlp", "up": "act_mlp"}
    inputs = {"out": "act_heads", "down": "act_mlp"}

    def turn(name, w):
        if name not in outputs | inputs or quantized.is_quantized(w):
            return w
        D = math.prod(w.shape[: lora.PROJECTIONS[name][1]])
        rows = materialized(w.reshape(D, -1).astype(config.activation_dtype).T)
        # Divided over heads and mlp as before: over the rows, the gather would leave it whole.
        places = outputs.get(name, "act_embed"), inputs.get(name, "act_embed")
        return Turned(constrain(rows, *places))

    return {i: {name: turn(name, w) for name, w in own.items()} for i, own in layers.items()}


def run_layers(config: TransformerConfig, params, carry, *args):
    """All layers: a scan over the repeats of the layer pattern, then what is left of it.

    Args:
      params: tree of [L, …], or of `split_layers`. carry, args: of `Block`.

    Returns:
      (the carry, RouterStats with a leading [L] or None).
    """
    kinds = config.layer_kinds
    P = len(kinds)
    repeats = config.num_layers // P

    def layer(kind, carry, params, in_scan, last=False):
        def run(params, carry):
            return Block(config, kind, last, parent=None).apply({"params": params}, carry, *args)

        if config.remat != "none":
            run = jax.checkpoint(run, policy=REMAT[config.remat], prevent_cse=not in_scan)
        return run(params, carry)

    if "0" in params:
        x, cache, _ = carry
        for i in range(config.num_layers):
            own, last = params[str(i)], i == config.num_layers - 1
            (x, cache, _), _ = layer(kinds[i % P], (x, cache, i), own, in_scan=False, last=last)
        return (x, cache, config.num_layers), None

    def some(kinds, carry, params):
        """Layers of these kinds, of params [len(kinds), …]. Neighbours of one kind are a scan of
        their own: what is compiled is a layer for each run, not for each place of the pattern."""
        every, start = [], 0
        for kind, same in itertools.groupby(kinds):
            count = len(list(same))
            place = slice(start, start + count)
            own = jax.tree.map(lambda x, place=place: x[place], params)
            unroll = 1 if config.scan_unroll else count
            run = functools.partial(layer, kind, in_scan=True)
            carry, stats = jax.lax.scan(run, carry, own, unroll=unroll)
            every.append(stats)
            start += count
        return carry, jax.tree.map(lambda *x: jnp.concatenate(x), *every)

    def period(carry, params):
        if P == 1:
            return layer(kinds[0], carry, params, in_scan=True)
        return some(kinds, carry, params)

    scanned, left = params, config.num_layers - repeats * P
    if P > 1:
        scanned = jax.tree.map(lambda x: x[: repeats * P].reshape(repeats, P, *x.shape[1:]), params)
    unroll = min(config.scan_unroll or repeats, repeats)
    carry, stats = jax.lax.scan(period, carry, scanned, unroll=unroll)
    if P > 1:
        stats = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stats)
    if left:
        own = jax.tree.map(lambda x: x[repeats * P :], params)
        carry, last = some(kinds[:left], carry, own)
        stats = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), stats, last)
    return carry, stats
