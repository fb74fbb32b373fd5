"""Rewards of answers: a reward model, verifiers, a Python function, or a weighted sum of them.

Axes: B episodes or rows, T length, C candidates a row, P prompt length, R response length.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import numbers
import reprlib
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from etils import epath

from data.read import json_files
from data.text.base import Tokenizer
from interpreter import python
from model.config import TransformerConfig
from model.heads import reward_model
from ranges import ConfigError
from train.config.run_names import split_step
from train.rl.time_limit import left_behind, time_limit
from train.rl.verifiers import VERIFIERS


class Episode(NamedTuple):
    """The argument of a reward function: one prompt and one answer.

    Attributes:
      prompt, response: text. prompt_ids, response_ids: int32 arrays without padding; the response
        includes the id that ended it. answer: the prompt's reference answer, or "".
    """

    prompt: str
    response: str
    prompt_ids: np.ndarray
    response_ids: np.ndarray
    answer: str = ""


# The largest absolute value of a reward, such that squares and their sums are finite in float32.
LARGEST = 1e15


class RewardError(ValueError):
    """An answer whose reward is not a finite number, with the function, the prompt and the value in
    the message; or rewards that are equal for all answers.

    Attributes:
      of_this_process: the failure is this process's own, even if the message quotes another's
        (train/runtime/processes.py).
    """

    of_this_process = True


def verifiers(config: Any) -> dict[str, Callable[[Episode], float]]:
    """{name: function} of the verifiers and the reward function with a weight in a run."""
    functions: dict[str, Callable[[Episode], float]] = {}
    for name, row in VERIFIERS.items():
        if getattr(config.rewards, name, 0.0):
            settings = VERIFIERS.arguments(name, config.rewards)
            functions[name] = functools.partial(row.function, **settings)
    if config.rl.reward_function and config.rewards.function:
        functions["function"] = load_function(config.rl.reward_function)
    return functions


def weights(config: Any) -> dict[str, float]:
    """{name: weight} of the rewards whose weighted sum is a run's score, without weights of 0."""
    available = {"model": "reward" in config.init_from, "function": bool(config.rl.reward_function)}
    names = ("model", "function", *VERIFIERS)
    weights = {n: getattr(config.rewards, n, 0.0) for n in names if available.get(n, True)}
    return {name: weight for name, weight in weights.items() if weight}


def validate_answers(config: Any, answers: Sequence[str]) -> None:
    """Validates the references of all prompts for the verifiers that compare answers with them.

    Args:
      answers: the reference of each prompt, "" for none.

    Raises:
      ConfigError: a reference is missing, or a verifier cannot compare with it.
    """
    for name, row in VERIFIERS.items():
        if row.answer is None or not getattr(config.rewards, name, 0.0):
            continue
        if missing := sum(not a.strip() for a in answers):
            raise ConfigError(
                f"rewards.{name} compares with a reference, and {missing} of {len(answers)} "
                "prompts have none; give records a field `answer`, or name the field with it: "
                "--config.data.fields.answer='{FIELD}'"
            )
        if unusable := [a for a in answers if not row.answer(a)]:
            raise ConfigError(
                f"rewards.{name} cannot compare with {len(unusable)} of {len(answers)} references, "
                f"as {short_repr(unusable[0])}; drop these prompts, or choose another verifier, as "
                "--config.rewards.exact=1"
            )


class Normalizer(TypedDict):
    """The fields that are read from normalizer.json (train/rl/score_scale.py)."""

    gain: Annotated[float, msgspec.Meta(gt=0)]
    bias: float
    fingerprint: str


def normalizer(config: Any, origins: Mapping[str, Mapping[str, Any]]) -> tuple[float, float] | None:
    """(gain, bias) saved with the reward model (train/rl/score_scale.py); None if there are none,
    or if the score has other terms than the reward model's.

    Args:
      origins: {role: {`fingerprint`}} of the frozen models.

    Raises:
      ConfigError: they were measured with other weights.
    """
    if weights(config) != {"model": 1.0} or not config.rl.normalize_scores:
        return None
    path = epath.Path(split_step(config.init_from["reward"])[0]) / "normalizer.json"
    if not path.exists():
        return None
    saved = json_files.read(path, Normalizer)
    if saved["fingerprint"] != origins["reward"]["fingerprint"]:
        raise ConfigError(
            f"{path} was measured with other weights than the reward model has now; measure again "
            f"with {python()} -m train.normalize, or remove it"
        )
    return saved["gain"], saved["bias"]


def load_function(name: str, setting: str = "rl.reward_function") -> Callable[..., Any]:
    """Imports `module:function`, by default a function `(Episode) -> float`.

    Args:
      setting: the setting or flag that names it.

    Raises:
      ConfigError: it cannot be imported.
    """
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
        if not callable(function):
            raise TypeError(f"{attribute} is not callable")
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # includes SystemExit, which would end the run as if it were done
        raise ConfigError(
            f"{setting}={name!r} cannot be imported ({type(e).__name__}: {e}); write it "
            "as module:function"
        ) from e
    return function


def as_number(value: Any) -> float:
    """A reward as a float: from a number, a bool, or an array or tensor without dimensions.

    Raises:
      RewardError: it is none of these, not finite, or larger than `LARGEST`.
    """
    plain = value
    if np.ma.is_masked(value) or getattr(value, "shape", ()) != ():
        plain = None
    elif hasattr(value, "item"):
        plain = value.item()
    if isinstance(plain, numbers.Real | Decimal):
        try:
            plain = float(plain)
        except (OverflowError, ValueError):  # 10**400; a signalling Decimal
            plain = math.nan
        if abs(plain) <= LARGEST:
            return plain
    raise RewardError(f"gave {short_repr(value)} ({type(value).__name__})")


def short_repr(value: Any, max_length: int = 80) -> str:
    """A short representation of any value for a message, in one line."""
    try:
        text = repr(value[:max_length] if isinstance(value, str) else reprlib.repr(value))
    except Exception:  # from a user's __repr__, or for an int of thousands of digits
        return f"<{type(value).__name__}>"
    if not isinstance(value, str):
        text = text[1:-1]
        return text if len(text) <= max_length else text[:max_length] + "…"
    return text if len(value) <= max_length else text + "…"


class Failure(NamedTuple):
    """A failed reward: a description, and the exception if one was raised."""

    text: str
    error: BaseException | None = None


class TimeUp(BaseException):
    """The end of a call that took too long; no `except Exception` of the function catches it."""


def call(
    function: Callable[[Episode], Any], episode: Episode, timeout: float = 0.0
) -> float | Failure:
    """A function's reward for an episode, or why it has none.

    Args:
      timeout: seconds that the call may take; 0 for no limit.
    """
    time_up = TimeUp()
    limit = time_limit(timeout, time_up) if timeout else contextlib.nullcontext()
    try:
        with limit:
            value = function(episode)
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # includes SystemExit, which would end the run as if it were done
        if e is time_up:
            left_behind.set()
            return Failure(f"did not return within rewards.timeout={timeout:g} s", e)
        try:
            text = str(e)
        except Exception:
            text = ""
        return Failure(f"raised {type(e).__name__}" + (f" ({short_repr(text)})" if text else ""), e)
    try:
        return as_number(value)
    except KeyboardInterrupt:
        raise
    except RewardError as e:
        return Failure(str(e))
    except BaseException as e:  # from a user's `item` or `__float__`
        return Failure(f"gave {short_repr(value)} ({type(e).__name__})", e)


def episodes(
    tokenizer: Tokenizer,
    tokens: np.ndarray,
    prompt_mask: np.ndarray,
    response_mask: np.ndarray,
    answers: Sequence[str],
) -> list[Episode]:
    """This process's episodes, from arrays [B, P + R], [B, P], [B, R] and B reference answers."""
    P, episodes = prompt_mask.shape[1], []
    rows = zip(tokens, prompt_mask, response_mask, answers, strict=True)
    for row, prompt, response, answer in rows:
        prompt_ids, response_ids = row[:P][prompt], row[P:][response]
        text = tokenizer.decode(prompt_ids), tokenizer.decode(response_ids)
        episodes.append(Episode(*text, prompt_ids, response_ids, answer))
    return episodes


def score(
    config: TransformerConfig,
    params: Mapping[str, Any],
    tokens: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array,
    start: jax.Array,
    end: jax.Array,
) -> jax.Array:
    """The reward model's score of each row's answer, [B] float32.

    Args:
      tokens, positions, segment_ids: [B, T]. start, end: [B], the answer's first and last column.
    """
    values: Any = reward_model(config).apply({"params": params}, tokens, positions, segment_ids)
    return read_scores(values, start[:, None], end[:, None], config.pool)[:, 0]


def score_candidates(
    config: TransformerConfig, params: Mapping[str, Any], batch: Mapping[str, jax.Array]
) -> jax.Array:
    """The reward model's scores [B, C] of the candidates of a preference batch (data/batch.py)."""
    B, S, T = batch["tokens"].shape
    names = ("tokens", "positions", "segment_ids", "branch_ids")
    rows = [batch[n].reshape(B * S, T) for n in names if n in batch]
    values: Any = reward_model(config).apply({"params": params}, *rows)
    values = values.reshape(B, S * T)
    return read_scores(values, batch["start"], batch["end"], config.pool)


def read_scores(values: jax.Array, start: jax.Array, end: jax.Array, pool: str) -> jax.Array:
    """One number for each answer, pooled from the numbers at each position.

    Args:
      values: [B, T] float32.
      start, end: [B, C] int32, the columns of each answer's first token and of its last: the <eos>
        that ends it, or the last one before it was truncated.
      pool: `last` takes the value at `end` (Stiennon et al. 2020, arXiv:2009.01325); `mean` is
        the mean over the answer.

    Returns:
      [B, C] float32.
    """
    if pool == "last":
        return jnp.take_along_axis(values, end, axis=-1)
    column = jnp.arange(values.shape[1])
    inside = (column >= start[..., None]) & (column <= end[..., None])  # [B, C, T]
    total = jnp.sum(jnp.where(inside, values[:, None, :], 0.0), axis=-1)
    return total / (end - start + 1)
