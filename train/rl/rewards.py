"""Where scores come from: a reward model, verifiers, a Python function, or a weighted sum of them.

Axes: B episodes or rows, T length, C candidates a row, P prompt length, R response length.
"""

from __future__ import annotations

import functools
import importlib
import math
import numbers
import reprlib
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, NamedTuple, TypedDict

import jax.numpy as jnp
import msgspec
import numpy as np
from etils import epath

from data.read import json_files
from data.text.base import Tokenizer
from model.heads import reward_model
from ranges import ConfigError
from train.rl.verifiers import VERIFIERS


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


# Of a reward: float32 holds the squares of such numbers, and their sums.
LARGEST = 1e15


class RewardError(ValueError):
    """An answer whose reward is no finite number, the message naming the function, the prompt and
    the value; or rewards that tell no answer from another.

    Attributes:
      of_this_process: whatever it quotes, no other process is to blame
      (train/runtime/processes.py).
    """

    of_this_process = True


def verifiers(config) -> dict[str, Callable[[Episode], float]]:
    """{name: function} of the functions that score text in a run."""
    functions: dict[str, Callable[[Episode], float]] = {}
    for name, row in VERIFIERS.items():
        if getattr(config.rewards, name, 0.0):
            settings = VERIFIERS.arguments(name, config.rewards)
            functions[name] = functools.partial(row.function, **settings)
    if config.rl.reward_function and config.rewards.function:
        functions["function"] = load_function(config.rl.reward_function)
    return functions


def weights(config) -> dict[str, float]:
    """{name: weight} of the rewards that a run's score is the weighted sum of."""
    given = {"model": "reward" in config.init_from, "function": bool(config.rl.reward_function)}
    names = ("model", "function", *VERIFIERS)
    weights = {n: getattr(config.rewards, n, 0.0) for n in names if given.get(n, True)}
    return {name: weight for name, weight in weights.items() if weight}


def check_answers(config, answers) -> None:
    """Verifiers that compare need something to compare with.

    Args:
      answers: of all prompts, "" where there is none.

    Raises:
      ConfigError: one is missing, or is none that a verifier can compare with.
    """
    for name, row in VERIFIERS.items():
        if row.answer is None or not getattr(config.rewards, name, 0.0):
            continue
        if missing := sum(not a.strip() for a in answers):
            raise ConfigError(
                f"rewards.{name} compares with a reference, and {missing} of {len(answers)} "
                "prompts have none; give records a field `answer`, or say which holds it: "
                "--config.data.fields.answer='{FIELD}'"
            )
        if useless := [a for a in answers if not row.answer(a)]:
            raise ConfigError(
                f"rewards.{name} cannot compare with {len(useless)} of {len(answers)} references, "
                f"as {shown(useless[0])}; leave these prompts out, or choose another verifier, as "
                "--config.rewards.exact=1"
            )


class Normalizer(TypedDict):
    """What normalizer.json says (train/rl/score_scale.py)."""

    gain: Annotated[float, msgspec.Meta(gt=0)]
    bias: float
    fingerprint: str


def normalizer(config, origins) -> tuple[float, float] | None:
    """(gain, bias) kept with the reward model (train/rl/score_scale.py); None if there are none, or
    a score is more than the reward model's.

    Args:
      origins: {role: {`fingerprint`}} of the frozen models.

    Raises:
      ConfigError: they were measured of other weights.
    """
    if weights(config) != {"model": 1.0} or not config.rl.normalize_scores:
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
        function = getattr(importlib.import_module(module), attribute)
        if not callable(function):
            raise TypeError(f"{attribute} is not callable")
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # SystemExit too, which would end the run as done
        raise ConfigError(
            f"rl.reward_function={name!r} cannot be imported ({type(e).__name__}: {e}); write it "
            "as module:function"
        ) from e
    return function


def number(value) -> float:
    """A reward as a float: a number, a bool, or an array or tensor of no dimensions.

    Raises:
      RewardError: it is none, or not finite, or beyond `LARGEST`.
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
    raise RewardError(f"gave {shown(value)} ({type(value).__name__})")


def shown(value, most: int = 80) -> str:
    """A value in a message: one line, shortened, whatever it is."""
    try:
        text = repr(value[:most] if isinstance(value, str) else reprlib.repr(value))
    except Exception:  # anybody's __repr__; an int of thousands of digits
        return f"<{type(value).__name__}>"
    if not isinstance(value, str):
        text = text[1:-1]
        return text if len(text) <= most else text[:most] + "…"
    return text if len(value) <= most else text + "…"


class Failure(NamedTuple):
    """What was wrong with a reward: a few words, and the exception if one was raised."""

    text: str
    error: BaseException | None = None


def call(function, episode: Episode) -> float | Failure:
    """A function's reward of an episode."""
    try:
        value = function(episode)
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # SystemExit too, which would end the run as done
        try:
            text = str(e)
        except Exception:
            text = ""
        return Failure(f"raised {type(e).__name__}" + (f" ({shown(text)})" if text else ""), e)
    try:
        return number(value)
    except KeyboardInterrupt:
        raise
    except RewardError as e:
        return Failure(str(e))
    except BaseException as e:  # of anybody's `item` and `__float__`
        return Failure(f"gave {shown(value)} ({type(e).__name__})", e)


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
