"""Forward passes over answers: log-probabilities, entropies and values at each response token.

Axes: B episodes, P prompt length (left padded), R response length, T = P + R.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from model import context_parallel
from model.config import TransformerConfig
from model.heads import ValueHead, value_model
from model.sharding import platform
from model.transformer import Transformer
from train.step import split_microbatches
from train.vocabulary import token_logprobs

# Trained roles that estimate values: a separate network, or a head on the policy.
CRITICS = ("value", "value_head")
NAMES = ("tokens", "positions", "segment_ids")


def _inputs(batch, response_length: int) -> dict[str, Any]:
    """Arguments of a model whose first `response_length` outputs are those at the position before
    each response token.

    On CPU the last token, which predicts nothing here, is omitted; kernels of other platforms, and
    the mesh axis `sequence`, need whole blocks of tokens.
    """
    omitted = platform() == "cpu" and context_parallel.shards() == 1
    end, last = (-1, response_length) if omitted else (None, response_length + 1)
    return {name: batch[name][:, :end] for name in NAMES} | {"last": last}


def response_logprobs(
    config: TransformerConfig,
    params: Mapping[str, Any],
    batch: Mapping[str, jax.Array],
    response_length: int,
    temperature: float,
    chunk: int,
    head: Mapping[str, Any] | None = None,
) -> tuple:
    """(log-probabilities of the response's tokens, entropies of their distributions), both [B, R]
    float32; with `head`, the parameters of a `ValueHead`, also its values [B, R]."""
    inputs = _inputs(batch, response_length)
    hidden, _ = Transformer(config).apply({"params": params}, **inputs, method=Transformer.hidden)
    before = hidden[:, :response_length]
    ids = batch["tokens"][:, -response_length:]
    logprobs, entropies = token_logprobs(config, params, before, ids, temperature, chunk)
    if head is None:
        return logprobs, entropies
    return logprobs, entropies, ValueHead(config).apply({"params": head}, before)


def response_values(
    config: TransformerConfig,
    params: Mapping[str, Any],
    batch: Mapping[str, jax.Array],
    response_length: int,
) -> jax.Array:
    """The critic's value before each response token, [B, R] float32."""
    inputs = _inputs(batch, response_length)
    values: Any = value_model(config).apply({"params": params}, **inputs)
    return values[:, :response_length]


def policy_and_values(
    models: Mapping[str, TransformerConfig],
    roles: Mapping[str, Any],
    batch: Mapping[str, jax.Array],
    settings: tuple[int, float, int],
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """(log-probabilities, entropies, values or None) of answers under the policy and its critic.

    Args:
      models, roles: {role: architecture}, {role: parameters}. settings: response_length,
        temperature and chunk of `response_logprobs`.
    """
    if "value_head" in roles:
        head = roles["value_head"]
        return response_logprobs(models["policy"], roles["policy"], batch, *settings, head)
    values = None
    if "value" in roles:
        values = response_values(models["value"], roles["value"], batch, settings[0])
    return *response_logprobs(models["policy"], roles["policy"], batch, *settings), values


def by_rows(function: Callable[[Any], Any], batch: Any, rows: int) -> Any:
    """function(batch), in equal parts of at most `rows` rows, to bound the size of logits."""
    total = len(jax.tree.leaves(batch)[0])
    if total <= rows:
        return function(batch)
    count = next(n for n in range(-(-total // rows), total + 1) if total % n == 0)
    out = jax.lax.map(function, split_microbatches(batch, count))
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(total, *x.shape[2:]), out)
