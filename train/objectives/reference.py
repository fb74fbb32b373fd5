"""Log-probabilities of a frozen reference, computed once.

They are constant, so they are computed when a run is set up, cached in its workdir and added to the
rows of the data, and the reference is freed before training begins.

Axes: B rows, C candidates, N rows of a split.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from data.atomic import write_atomically
from data.loader import heldout_batches
from model import sharding
from train.objectives.base import Context
from train.objectives.preferences import answer_logprobs
from train.runtime import outputs
from train.terminal.console import console
from train.terminal.progress import phase

_FILE = "reference_logprobs.npz"


def logprobs(
    ctx: Context,
    frozen: Mapping[str, Any],
    origins: Mapping[str, Any],
    workdir: epath.PathLike,
    rows: Mapping,
    average: bool,
) -> dict:
    """The reference's log-probability of each candidate, read from the workdir if the file there is
    of the same reference and the same rows.

    Args:
      frozen, origins: as in `Objective.precompute`; both have the role `reference`.
      rows: {name: preference rows (data/batch.py)}. average: as in `answer_logprobs`.

    Returns:
      {name: [N, C] float32}.
    """
    key = hashlib.sha256(f"{origins['reference']['fingerprint']} {average}".encode())
    for split in rows.values():
        for name in sorted(split):
            key.update(split[name].tobytes())
    path = epath.Path(workdir) / _FILE
    cached = _cached(path, rows)
    if cached["key"] != key.hexdigest():
        score = _scorer(ctx, average)
        cached = {"key": key.hexdigest()} | {
            name: _over_rows(ctx, score, frozen["reference"], split) for name, split in rows.items()
        }
        if jax.process_index() == 0:
            file = io.BytesIO()
            np.savez(file, **cached)
            try:
                write_atomically(path, file.getvalue())
            except OSError as error:
                outputs.failed(path.name, error, "it is computed again at the next start")
    return {name: cached[name] for name in rows}


def without(frozen: Mapping[str, Any]) -> dict:
    """The frozen models without the reference."""
    return {role: params for role, params in frozen.items() if role != "reference"}


def precomputed(batch: Mapping[str, Any]) -> dict:
    """{`ref_logprobs`: its shape in a batch}."""
    rank = batch["rank"]
    return {"ref_logprobs": jax.ShapeDtypeStruct(rank.shape, np.float32, sharding=rank.sharding)}


def _cached(path, names) -> dict:
    """The arrays `names` and the `key` in the file; the key is empty if the file cannot be read."""
    if not path.exists():
        return {"key": ""}
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in ("key", *names)}
    except Exception as e:  # NumPy and zipfile raise many kinds
        console.print(f"{path} is damaged ({outputs.reason(e)}); computing it again")
        return {"key": ""}


def _scorer(ctx, average: bool):
    """A compiled function (reference, batch) -> [B, C] float32, replicated on every host."""
    model, config = ctx.models["reference"], ctx.config
    return jax.jit(
        lambda params, batch: answer_logprobs(model, params, batch, config.loss.chunk, average),
        out_shardings=sharding.replicated(ctx.mesh),
    )


def _over_rows(ctx, score, reference, rows):
    """`score` of all rows of a split, [N, C] float32, computed in microbatches."""
    size = ctx.config.data.batch_size // ctx.config.accumulate
    local, count = sharding.local_rows(ctx.mesh, size), len(rows["tokens"])
    parts = []
    with phase("log-probabilities of the reference", count) as progress:
        for batch in heldout_batches(rows, size, local):
            parts.append(jax.device_get(score(reference, sharding.put_batch(batch, ctx.mesh))))
            progress.count(min(len(parts) * size, count))
    return np.concatenate(parts)[:count]
