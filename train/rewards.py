"""Where scores come from: a reward model, or a Python function named in the config.

Axes: B episodes, P prompt length, R response length.
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


def score(config, params, tokens, positions, segment_ids, end):
    """The reward model's score of each row, read at column `end`; [B, T], …, [B] -> [B] float32."""
    rows = tokens, positions, segment_ids
    values = reward_model(config).apply({"params": params}, *rows)
    return jnp.take_along_axis(values, end[:, None], axis=-1)[:, 0]


def score_candidates(config, params, batch):
    """Scores [B, C] of the candidates of a preference batch (data/batch.py), each read at its end:
    where `score` reads an answer, at the token that ends it."""
    B, S, T = batch["tokens"].shape
    rows = [batch[n].reshape(B * S, T) for n in ("tokens", "positions", "segment_ids")]
    values = reward_model(config).apply({"params": params}, *rows).reshape(B, S * T)
    return jnp.take_along_axis(values, batch["end"], axis=-1)
