"""FLOPs of a train step and of a rollout, padding included, from which MFU is computed.

A matmul weight takes 2 a token forward, 2 for the gradient of its input and 2 for its own. Frozen
weights have no gradient of their own, and below the lowest trained weight there is none of inputs.
Recomputation by remat and `loss.chunk` is not counted. A step of PPO and GRPO reads prompt and
response, and has logits of the response alone; that on CPU the final layer omits the prompt is not
deducted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict

from model.config import TransformerConfig
from model.weights import flops_per_token, is_layer_matrix
from train.assembly.partition import Partition
from train.config.run import RunConfig
from train.objectives import registry


class PerToken(NamedTuple):
    """FLOPs a token, of the layers (attention included) and of the vocabulary head."""

    layers: float
    vocabulary: float


def row_length(config: RunConfig) -> int:
    """Tokens in a row of a run's batches, the length of attention."""
    if registry.find(config).rollouts:
        return config.rl.prompt_length + config.rl.response_length
    return config.data.length


def forward(model: TransformerConfig, length: int) -> PerToken:
    """FLOPs of a forward pass of an architecture over rows of `length` tokens."""
    vocabulary = 2.0 * model.padded_vocab_size * model.embed_dim
    return PerToken(flops_per_token(model, length) / 3 - vocabulary, vocabulary)


def trained(model: TransformerConfig, weights: Any, part: Partition, length: int) -> PerToken:
    """FLOPs of a forward and a backward pass.

    Args:
      weights: the tree of a role's parameters, arrays or their shapes. part: how it is divided.
    """
    flat = flatten_dict(weights)
    learning = [path for path in flat if path not in part.frozen]
    through = bool(part.adapted) or any({"layers", "embedding"} & {*path} for path in learning)
    to_hidden = through or any(path[-1] == "final_norm" for path in learning)

    def passes(path, gradient: bool) -> float:
        return 2.0 + 2.0 * gradient + 2.0 * (path not in part.frozen)

    def share(path) -> float:
        """Share of the tokens that read a weight."""
        return model.experts_per_token / model.num_experts if "expert" in path[-1] else 1.0

    attention = flops_per_token(model, length) - flops_per_token(model, 0)
    layers, vocabulary = attention * (1.0 if through else 1 / 3), 0.0
    table = "embedding" if model.tie_embeddings else "unembedding"
    for path, x in flat.items():
        if is_layer_matrix(path[-1]):
            layers += passes(path, through) * x.size * share(path)
        elif path == (table,):  # of a network of its own; scores and values have no vocabulary
            vocabulary += passes(path, to_hidden) * x.size
    adapters = flatten_dict(part.adapters(weights)) if part.adapted else {}
    layers += sum(6.0 * x.size * share(path) for path, x in adapters.items())
    return PerToken(layers, vocabulary)


def of_step(
    config: RunConfig,
    models: Mapping[str, TransformerConfig],
    weights: Mapping[str, Any],
    parts: Mapping[str, Partition],
    tokens: int,
) -> float:
    """FLOPs of one optimizer step over a batch of `tokens` tokens.

    Args:
      models, weights, parts: {trained role: architecture, shapes of all its parameters, parts}.
    """
    length, total = row_length(config), 0.0
    answers, row = tokens, registry.find(config)
    if row.rollouts:
        answers = tokens * config.rl.response_length / length
    for role in weights:
        cost = trained(models[role], weights[role], parts[role], length)
        total += cost.layers * tokens if role != "value_head" else 0.0
        total += cost.vocabulary * answers
    for role, passes in row.forwards.items():
        total += passes * sum(forward(models[role], length)) * tokens
    if row.rollouts and config.rl.pretrain_coef:
        text = config.pretrain_data
        cost = trained(models["policy"], weights["policy"], parts["policy"], text.length)
        total += sum(cost) * text.batch_size * text.length
    return total


def of_rollout(
    config: RunConfig, models: Mapping[str, TransformerConfig], draws: float = 1
) -> float:
    """FLOPs of one rollout that samples and scores `draws` times, and of the log-probabilities and
    values that its updates need."""
    rl, n, length = config.rl, config.rl.rollout_batch, row_length(config)
    prompts = n // registry.find(config).group_size(config)
    answers, tokens = n * rl.response_length, n * length
    policy = forward(models["policy"], length)
    drawn = policy.layers * (prompts * rl.prompt_length + answers) + policy.vocabulary * answers
    if "reward" in models:
        drawn += forward(models["reward"], length).layers * tokens
    total = draws * drawn
    for role in ("policy", "reference"):
        cost = forward(models[role], length)
        total += cost.layers * tokens + cost.vocabulary * answers
    if "value" in models:
        total += forward(models["value"], length).layers * tokens
    return total
