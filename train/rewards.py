"""Where scores come from: a reward model, or a Python function named in the config.

Axes: B episodes or rows, T length, C candidates a row, P prompt length, R response length.
"""

from __future__ import annotations

import importlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from data.tokenizer import Tokenizer
from model.heads import reward_model
from train.config import ConfigError


class Episode(NamedTuple):
    """What a reward function is given, one an episode.

    Attributes:
      prompt, response: text. prompt_ids, response_ids: int32 arrays without padding, the response
        through and including the id that ended it.
    """

    prompt: str
    response: str
    prompt_ids: np.ndarray
    response_ids: np.ndarray


def load_function(name: str):
    """`module:function` -> the function, `(Episode) -> float`.

    Raises:
      ConfigError: it cannot be imported.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as e:
        raise ConfigError(
            f"ppo.reward_function={name!r} cannot be imported ({e}); write it as module:function"
        ) from e


def apply_function(function, tokenizer: Tokenizer, tokens, prompt_mask, response_mask):
    """Scores of a function over this process's episodes: numpy arrays in, float32 [B] out."""
    scores = []
    P = prompt_mask.shape[1]
    for row, prompt, response in zip(tokens, prompt_mask, response_mask, strict=True):
        prompt_ids, response_ids = row[:P][prompt], row[P:][response]
        text = tokenizer.decode(prompt_ids), tokenizer.decode(response_ids)
        scores.append(function(Episode(*text, prompt_ids, response_ids)))
    return np.asarray(scores, np.float32)


def score(config, params, tokens, positions, segment_ids, start, end):
    """The reward model's score of each row's answer, columns `start` to `end`; [B, T], …, [B] ->
    [B] float32."""
    values = reward_model(config).apply({"params": params}, tokens, positions, segment_ids)
    return read_scores(values, start[:, None], end[:, None], config.pool)[:, 0]


def score_candidates(config, params, batch):
    """Scores [B, C] of the candidates of a preference batch (data/batch.py), read as `score` reads
    them."""
    B, S, T = batch["tokens"].shape
    names = ("tokens", "positions", "segment_ids", "branch_ids")
    rows = [batch[n].reshape(B * S, T) for n in names if n in batch]
    values = reward_model(config).apply({"params": params}, *rows).reshape(B, S * T)
    return read_scores(values, batch["start"], batch["end"], config.pool)


def read_scores(values, start, end, pool: str):
    """One number an answer, of the numbers at each position.

    Args:
      values: [B, T] float32.
      start, end: [B, C] int32, the columns of each answer's first token and of its last: the <eos>
        that ends it, or where it was cut short.
      pool: `last` reads at `end` (Stiennon et al. 2020, arXiv:2009.01325); `mean` is the mean over
        the answer.

    Returns:
      [B, C] float32.
    """
    if pool == "last":
        return jnp.take_along_axis(values, end, axis=-1)
    column = jnp.arange(values.shape[1])
    inside = (column >= start[..., None]) & (column <= end[..., None])  # [B, C, T]
    total = jnp.sum(jnp.where(inside, values[:, None, :], 0.0), axis=-1)
    return total / (end - start + 1)
