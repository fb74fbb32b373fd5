"""What DPO reads of a policy and of its reference: log-probabilities of whole answers.

Those of the reference never change: they are computed once, when a run is set up, kept in its
workdir, and go into the rows of the data; the reference leaves memory before training begins.

Axes: B rows, S sub-rows of T tokens, C candidates, N rows of a split.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from data.loader import heldout_batches
from model import sharding
from model.transformer import Transformer
from ranges import ConfigError
from train.rl import rewards
from train.runtime import outputs
from train.runtime.metrics import ProgressLine, console
from train.vocabulary import token_logprobs

_FILE = "reference_logprobs.npz"


def answer_logprobs(config, params, batch, chunk: int, average: bool):
    """log π(answer | prompt) of each candidate of a preference batch (data/batch.py), [B, C]
    float32: the sum over the answer's tokens, through the <eos> that ends it, or their mean.

    `chunk`: as in train/vocabulary.py. The candidates may not share their prompts' tokens: an
    answer's first token is predicted from the column left of it.
    """
    B, S, T = batch["tokens"].shape
    rows = [batch[n].reshape(B * S, T) for n in ("tokens", "positions", "segment_ids")]
    hidden, _ = Transformer(config).apply({"params": params}, *rows, method=Transformer.hidden)
    logprobs, _ = token_logprobs(config, params, hidden[:, :-1], rows[0][:, 1:], 1.0, chunk)
    logprobs = jnp.pad(logprobs, ((0, 0), (1, 0))).reshape(B, S * T)
    mean = rewards.read_scores(logprobs, batch["start"], batch["end"], "mean")
    return mean if average else mean * (batch["end"] - batch["start"] + 1)


def implicit_rewards(ctx, params, batch):
    """β·log(π(answer)/π_ref(answer)) of each candidate, [B, C] (arXiv:2305.18290, section 4)."""
    dpo, chunk = ctx.config.dpo, ctx.config.loss.chunk
    logprobs = answer_logprobs(ctx.models["policy"], params, batch, chunk, dpo.average)
    return dpo.beta * (logprobs - batch["ref_logprobs"])


def prepare(ctx, frozen, origins, workdir):
    """Puts the reference's log-probabilities, `ref_logprobs` [N, C], into the rows of both splits,
    from the workdir's file if it holds those of this reference and these rows.

    Returns:
      (the context with those rows, frozen models without the reference).

    Raises:
      ConfigError: no prompt has two answers to compare.
    """
    config, data = ctx.config, ctx.data
    real, group = data.train["rank"] >= 0, data.train["group"]
    if not np.any(real.sum(1) > np.where(real, group, -1).max(1) + 1):
        raise ConfigError(
            "stage dpo compares answers to one prompt, and these are good or not by themselves; "
            "they train a reward model: --config.stage=reward"
        )
    key = hashlib.sha256(f"{origins['reference']['fingerprint']} {config.dpo.average}".encode())
    for rows in (data.train, data.heldout):
        for name in sorted(rows):
            key.update(rows[name].tobytes())
    path = epath.Path(workdir) / _FILE
    found = _kept(path)
    if found["key"] != key.hexdigest():
        score = _scorer(ctx)
        found = {"key": key.hexdigest()} | {
            name: _over_rows(ctx, score, frozen["reference"], rows)
            for name, rows in (("train", data.train), ("heldout", data.heldout))
        }
        if jax.process_index() == 0:
            file = io.BytesIO()
            np.savez(file, **found)
            temporary = path.with_name(_FILE + ".tmp")
            temporary.write_bytes(file.getvalue())
            temporary.replace(path)
    data = dataclasses.replace(
        data,
        train=data.train | {"ref_logprobs": found["train"]},
        heldout=data.heldout | {"ref_logprobs": found["heldout"]},
    )
    rest = {role: params for role, params in frozen.items() if role != "reference"}
    return dataclasses.replace(ctx, data=data), rest


def _kept(path) -> dict:
    """What an earlier start left in the file; no key where it is of no use."""
    if not path.exists():
        return {"key": ""}
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
            return {name: found[name] for name in ("key", "train", "heldout")}
    except Exception as e:  # NumPy and zipfile raise many kinds
        console.print(f"{path} is damaged ({outputs.reason(e)}): measured anew", markup=False)
        return {"key": ""}


def _scorer(ctx):
    """A compiled (reference, batch) -> [B, C] float32, whole on every host."""
    model, config = ctx.models["reference"], ctx.config
    return jax.jit(
        lambda params, batch: answer_logprobs(
            model, params, batch, config.loss.chunk, config.dpo.average
        ),
        out_shardings=sharding.replicated(ctx.mesh),
    )


def _over_rows(ctx, score, reference, rows):
    """`score` of all rows of a split, [N, C] float32, a microbatch at a time."""
    size = ctx.config.data.batch_size // ctx.config.accumulate
    local, count = sharding.local_rows(ctx.mesh, size), len(rows["tokens"])
    line = ProgressLine("reference", -(-count // size), writes=jax.process_index() == 0)
    parts = []
    for batch in heldout_batches(rows, size, local):
        parts.append(jax.device_get(score(reference, sharding.put_batch(batch, ctx.mesh))))
        line.update(len(parts), "log-probabilities")
    line.close()
    return np.concatenate(parts)[:count]
