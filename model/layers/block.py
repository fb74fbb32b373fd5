"""One layer of the transformer. Axes: B batch, T length, D embed."""

from __future__ import annotations

from collections.abc import Mapping

from jax.ad_checkpoint import checkpoint_name

from model.config import TransformerConfig
from model.kernels import tpu
from model.layers import moe
from model.layers.attention import Carry, Rows, self_attention
from model.layers.mlp import mlp
from model.layers.norm import fence_norm, rms_norm
from model.sharding import constrain
from model.taps import tap


def block(
    config: TransformerConfig, kind: str, params: Mapping, carry: Carry, rows: Rows,
    last: int = 0,
) -> tuple[Carry, moe.RouterStats | None]:  # fmt: skip
    """Attention and MLP, each between norms and added to the residual stream.

    Args:
      kind: `global` or `local`. params: {name: weight} of this layer.
      carry: (x [B, T, D], the cache or None, the layer's index).
      rows: the places of the tokens of x in their rows.
      last: the number of last positions that it computes, as the final layer; 0: all.

    Returns:
      (carry, RouterStats or None).
    """
    x, cache, layer = carry
    c, length = config, "act_length" if cache is None else "act_slot"  # a cached step is not split

    def norm(name, x):
        return rms_norm(x, params[name], c)

    def add(x, out, part):
        out = norm(f"post_{part}_norm", fence_norm(c, out)) if c.post_norms else out
        x = x + tap(f"{part}.out", out)
        return tpu.row_major(constrain(x, "act_batch", length, "act_embed"))

    x = checkpoint_name(x, "layer_input")
    h = tap("attention.input", fence_norm(c, norm("attention_norm", x)))
    out, cache = self_attention(c, kind, params, h, cache, layer, rows, last)
    if c.post_norms:  # the norm's backward pass reads it
        out = checkpoint_name(out, "attention_out")
    segment_ids = rows.segment_ids
    if last:
        x, segment_ids = x[:, -last:], segment_ids[:, -last:]
    x = tap("residual_middle", add(x, out, "attention"))
    if not c.post_norms:  # the backward pass then reads the sum alone
        x = checkpoint_name(x, "attention_out")

    h = tap("mlp.input", fence_norm(c, norm("mlp_norm", x)))
    if c.num_experts:
        out, stats = moe.mixture(c, params, h, segment_ids, cached=cache is not None)
    else:
        out, stats = mlp(c, params, h, length), None
    return (tap("residual", add(x, out, "mlp")), cache, layer + 1), stats
