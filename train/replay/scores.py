"""Scores of answers by a reward model, stored as they are computed.

Axes: B answers, T length of a row.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from data.atomic import write_atomically
from data.read import json_files
from model import sharding
from ranges import ConfigError
from train.chat.model import Scorer
from train.interop import opening
from train.interop.opening import Opened
from train.rl import rewards
from train.runtime import outputs, strict_json
from train.tasks.evaluation import results
from train.tasks.evaluation.items import fingerprint
from train.tasks.scoring.generation import batch_width
from train.terminal.progress import Progress

ROLE = "reward"
WRITE_EVERY = 2.0  # seconds
ROWS = 16  # answers that each of the mesh's batch shards scores at once


class Asked(NamedTuple):
    """An answer to score.

    Attributes:
      messages: before it. ended: whether it ended by itself.
    """

    messages: tuple[Mapping[str, Any], ...]
    answer: str
    ended: bool


class _Row(NamedTuple):
    """A conversation as ids. `start`, `end`: the answer's first and last of them."""

    number: int
    ids: np.ndarray
    start: int
    end: int


class Scored(NamedTuple):
    """Scores [n] float64; NaN of answers that do not fit the model.

    Attributes:
      unfit: why not, of the first of these; "" without any.
    """

    scores: np.ndarray
    unfit: str


def score(name: str, folder: epath.Path, asked: Sequence[Asked], mesh: jax.sharding.Mesh) -> Scored:
    """The scores of answers by the reward model of a run.

    The model reads text with its own tokenizer, whichever the answers were written with. Batches
    depend on `asked` alone, so that scoring that was interrupted gives the same scores.

    Args:
      name: a run, or RUN@STEP. folder: of the file of scores.

    Raises:
      ConfigError: there is no such model, or no answer fits it.
      FloatingPointError: a score is not finite.
    """
    opened = opening.open_model(name, ROLE, mesh)
    rows, unfit = _rows(opened, asked)
    if not rows:
        raise ConfigError(f"{name} can score none of the answers: {unfit}")
    model = results.model_of(opened, None)
    key = fingerprint([model.weights, model.architecture, [[*map(list, asked)]]])
    path = folder / f"scores-{key}.json"
    saved = json_files.read(path, dict[str, float]) if path.exists() else {}
    scores = {int(number): value for number, value in saved.items()}
    compute = jax.jit(
        partial(rewards.score, opened.config), out_shardings=sharding.replicated(mesh)
    )
    written = time.monotonic()
    with Progress(f"scores of {name}", len(rows), len(scores)) as progress:
        for batch in _batches(rows, sharding.batch_shards(mesh) * ROWS):
            if all(row.number in scores for row in batch):
                continue
            for number, value in _scored(compute, opened, mesh, batch):
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"{name} scores the answer {asked[number].answer!r:.60} with {value}; its "
                        "weights, or what it computes, are not finite"
                    )
                scores[number] = value
            if time.monotonic() - written > WRITE_EVERY or len(scores) == len(rows):
                _write(path, scores)
                written = time.monotonic()
            progress.update(len(scores))
    return Scored(np.array([scores.get(i, math.nan) for i in range(len(asked))]), unfit)


def _write(path: epath.Path, scores: Mapping[int, float]) -> None:
    outputs.make_folder(path.parent, "out")
    write_atomically(path, strict_json.dumps({str(i): x for i, x in scores.items()}))


def _rows(opened: Opened, asked: Sequence[Asked]) -> tuple[list[_Row], str]:
    """(the conversations that fit as ids, why the first of the others does not)."""
    scorer = Scorer(opened.name, opened.config, opened.params, opened.tokenizer)
    rows, unfit = [], ""
    for number, (messages, answer, ended) in enumerate(asked):
        conversation = [*map(dict, messages), {"role": "assistant", "content": answer}]
        try:
            ids, columns = scorer.row(conversation, ended)
        except ValueError as error:
            unfit = unfit or " ".join(str(error).split())
            continue
        rows.append(_Row(number, np.asarray(ids), int(columns[0]), int(columns[-1])))
    return rows, unfit


def _batches(rows: Sequence[_Row], size: int) -> list[list[_Row]]:
    """Batches of conversations of alike length."""
    ordered = sorted(rows, key=lambda row: (-len(row.ids), row.number))
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def _scored(
    compute: Any, opened: Opened, mesh: jax.sharding.Mesh, batch: Sequence[_Row]
) -> list[tuple[int, float]]:
    """(number, score) of a batch."""
    B = sharding.batch_shards(mesh) * ROWS
    T = batch_width(len(batch[0].ids), opened.config.max_length)
    tokens, segments = np.zeros((B, T), np.int32), np.zeros((B, T), np.int32)
    start, end = np.zeros(B, np.int32), np.zeros(B, np.int32)
    segments[:, 0] = 1  # rows that are only padding
    for i, row in enumerate(batch):
        tokens[i, : len(row.ids)], segments[i, : len(row.ids)] = row.ids, 1
        start[i], end[i] = row.start, row.end
    positions = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    local = sharding.local_rows(mesh, B)
    with jax.set_mesh(mesh):
        arrays = [
            sharding.put_batch(x[local], mesh) for x in (tokens, positions, segments, start, end)
        ]
        scores = jax.device_get(compute(opened.params, *arrays))
    return [(row.number, float(x)) for row, x in zip(batch, scores, strict=False)]
