"""Where scores come from: a reward model, verifiers, a Python function, or a weighted sum of them.

Axes: B episodes or rows, T length, C candidates a row, P prompt length, R response length.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, NamedTuple, TypedDict

import jax.numpy as jnp
import msgspec
import numpy as np
from etils import epath

from data import json_files
from data.tokenizer import Tokenizer
from model.heads import reward_model
from train.config import ConfigError


class Episode(NamedTuple):
    """What a reward function is given, one an episode.

    Attributes:
      prompt, response: text. prompt_ids, response_ids: int32 arrays without padding, the response
        through and including the id that ended it. answer: the prompt's reference, or "".
    """

    prompt: str
    response: str
    prompt_ids: np.ndarray
    response_ids: np.ndarray
    answer: str = ""


_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def final_number(text: str):
    """The last number of what follows the last "####", or of all without that; None if none."""
    found = _NUMBER.findall(text.rpartition("####")[2])
    return Decimal(found[-1].replace(",", "")) if found else None


def gsm8k(episode: Episode) -> float:
    """1 if answer and reference end in the same number (GSM8K, Cobbe et al. 2021)."""
    said = final_number(episode.response)
    return float(said is not None and said == final_number(episode.answer))


def exact(episode: Episode) -> float:
    return float(episode.response.split() == episode.answer.split())


def verifiers(config) -> dict[str, Callable[[Episode], float]]:
    """The functions that score text, by name, of a run's settings (`RewardsConfig`)."""
    settings, pattern = config.rewards, re.compile(config.rewards.pattern, re.DOTALL)

    def length(episode):
        target = settings.target_length
        return 1 - min(1.0, abs(len(episode.response_ids) - target) / target)

    found = {
        "gsm8k": gsm8k,
        "exact": exact,
        "regex": lambda episode: float(bool(pattern.search(episode.response))),
        "length": length,
    }
    if config.ppo.reward_function:
        found["function"] = load_function(config.ppo.reward_function)
    return {name: function for name, function in found.items() if getattr(settings, name)}


def weights(config) -> dict[str, float]:
    """{name: weight} of the rewards that a run's score is the weighted sum of."""
    given = {"model": "reward" in config.init_from, "function": bool(config.ppo.reward_function)}
    names = ("model", "function", "gsm8k", "exact", "regex", "length")
    found = {n: getattr(config.rewards, n) for n in names if given.get(n, True)}
    return {name: weight for name, weight in found.items() if weight}


def check_answers(config, answers) -> None:
    """Verifiers that compare need something to compare with.

    Args:
      answers: of all prompts, "" where there is none.

    Raises:
      ConfigError: one is missing.
    """
    needing = [n for n in ("gsm8k", "exact") if getattr(config.rewards, n)]
    missing = sum(not a for a in answers)
    if needing and missing:
        raise ConfigError(
            f"rewards.{needing[0]} compares with a reference, and {missing} of {len(answers)} "
            "prompts have none; give records a field `answer`, or say which holds it: "
            "--config.data.fields.answer='{FIELD}'"
        )


class Normalizer(TypedDict):
    """What normalizer.json says (train/normalize.py)."""

    gain: Annotated[float, msgspec.Meta(gt=0)]
    bias: float
    fingerprint: str


def normalizer(config, origins) -> tuple[float, float] | None:
    """(gain, bias) kept with the reward model (train/normalize.py); None if there are none, or a
    score is more than the reward model's.

    Args:
      origins: {role: {`fingerprint`}} of the frozen models.

    Raises:
      ConfigError: they were measured of other weights.
    """
    if weights(config) != {"model": 1.0} or not config.ppo.normalize_scores:
        return None
    path = epath.Path(config.init_from["reward"]) / "normalizer.json"
    if not path.exists():
        return None
    facts = json_files.read(path, Normalizer)
    if facts["fingerprint"] != origins["reward"]["fingerprint"]:
        raise ConfigError(
            f"{path} was measured of other weights than the reward model has now; measure again "
            "with python -m train.normalize, or remove it"
        )
    return facts["gain"], facts["bias"]


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


def episodes(tokenizer: Tokenizer, tokens, prompt_mask, response_mask, answers) -> list[Episode]:
    """This process's episodes, of numpy arrays [B, P + R], [B, P], [B, R] and B references."""
    P, found = prompt_mask.shape[1], []
    rows = zip(tokens, prompt_mask, response_mask, answers, strict=True)
    for row, prompt, response, answer in rows:
        prompt_ids, response_ids = row[:P][prompt], row[P:][response]
        text = tokenizer.decode(prompt_ids), tokenizer.decode(response_ids)
        found.append(Episode(*text, prompt_ids, response_ids, answer))
    return found


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
