"""Rollouts on record: every `rl.record`-th rollout of a run, as `rollouts/STEP.parquet` in its
workdir.

STEP is the number of updates before the rollout: the policy of checkpoint STEP sampled it, and its
metrics are in metrics.jsonl under step STEP + 1. A row is an answer, in the order [prompt, group].
An array of tokens holds those of the answer alone, through the one that ended it.

| column | type | meaning |
|---|---|---|
| prompt, response | string | text, without special tokens |
| prompt_tokens, tokens | [int32] | ids of the prompt and of the answer, without padding |
| response_mask | [float32] | 1, or 0 in an answer without a reward, which is skipped |
| policy_mask | [float32] | 0 where only the critic learns |
| sampler_logprobs, old_logprobs, ref_logprobs | [float32] | log-probabilities in nats: of the \
sampler, and of policy and reference as the trainer computes them |
| kl | [float32] | old_logprobs - ref_logprobs, the estimate k1 of the KL |
| advantages | [float32] | as the policy's loss takes them |
| old_values, returns | [float32] | of the critic, if there is one |
| score, reward/NAME | float32 | raw: the weighted sum, and each reward |
| updates | [int32] | the updates, from 1, that take the answer, one an epoch |
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from data.atomic import write_atomically
from data.text.base import Tokenizer
from model import sharding
from train.rl import rewards
from train.runtime import outputs

FOLDER = "rollouts"
# The arrays [B, R] of a rollout, in the order of their columns.
PER_TOKEN = (
    "response_mask", "policy_mask", "sampler_logprobs", "old_logprobs", "ref_logprobs", "kl",
    "advantages", "old_values", "returns",
)  # fmt: skip


class Rollout(NamedTuple):
    """A rollout as its source hands it over (train/rl/rollout.py), on the devices.

    Attributes:
      number: of the rollout. answers: from `Sampler.sample`, with the mask of all their tokens.
      rewards: {name: [B]}. experience: of the source's state. updates: [B, epochs] int, from 1
        within the rollout.
    """

    number: int
    answers: Mapping[str, jax.Array]
    rewards: Mapping[str, jax.Array]
    experience: Mapping[str, jax.Array]
    updates: np.ndarray


def path(workdir: epath.PathLike, step: int) -> epath.Path:
    """The file of the rollout after `step` updates."""
    return epath.Path(workdir) / FOLDER / f"{step}.parquet"


def fetch(rollout: Rollout, mesh: jax.sharding.Mesh) -> dict[str, np.ndarray]:
    """{name: whole array on the host}. All processes call it. One array at a time, as on several
    hosts each is replicated first."""
    arrays = {f"reward/{name}": x for name, x in rollout.rewards.items()}
    arrays |= {"answer_mask": rollout.answers["response_mask"]} | dict(rollout.experience)
    arrays["sampler_logprobs"] = rollout.answers["sampler_logprobs"]

    def whole(x):
        if not x.is_fully_addressable:
            x = jax.device_put(x, sharding.replicated(mesh))
        return np.asarray(jax.device_get(x))

    return {name: whole(x) for name, x in arrays.items()}


def table(
    tokenizer: Tokenizer, rollout: Rollout, arrays: Mapping[str, np.ndarray], step: int
) -> pa.Table:
    """The table of a rollout (above).

    Args:
      arrays: of `fetch`. step: the number of updates before the rollout.
    """
    mask = arrays["answer_mask"] > 0
    P = arrays["tokens"].shape[1] - mask.shape[1]
    prompts = arrays["segment_ids"][:, :P] > 0
    episodes = rewards.episodes(tokenizer, arrays["tokens"], prompts, mask, [""] * len(mask))
    arrays = {**arrays, "kl": arrays["old_logprobs"] - arrays["ref_logprobs"]}
    columns = {
        "prompt": pa.array([episode.prompt for episode in episodes], pa.string()),
        "response": pa.array([episode.response for episode in episodes], pa.string()),
        "prompt_tokens": _lists(arrays["tokens"][:, :P], prompts),
        "tokens": _lists(arrays["tokens"][:, P:], mask),
    }
    columns |= {name: _lists(arrays[name], mask) for name in PER_TOKEN if name in arrays}
    columns["score"] = pa.array(arrays["reward/score"])
    parts = (name for name in arrays if name.startswith("reward/") and name != "reward/score")
    columns |= {name: pa.array(arrays[name]) for name in parts}
    updates = (rollout.updates + step).astype(np.int32)
    columns["updates"] = _lists(updates, np.ones_like(updates, bool))
    devices = rollout.experience["tokens"].sharding.num_devices
    made = f"JAX {jax.__version__}, {devices} × {jax.devices()[0].device_kind}"
    notes = {"step": step, "rollout": rollout.number, "devices": devices, "made": made}
    return pa.table(columns).replace_schema_metadata({"seedpod": json.dumps(notes)})


def _lists(values: np.ndarray, mask: np.ndarray) -> pa.Array:
    """[B, n] arrays -> a list a row of the values where the mask is set."""
    offsets = np.concatenate([[0], np.cumsum(mask.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[mask]))


class Recorder:
    """The records of a run's rollouts. All processes call its methods alike, and process 0 writes.
    What cannot be written is counted, and ends no run."""

    def __init__(self, workdir: epath.PathLike, tokenizer: Tokenizer, mesh: jax.sharding.Mesh):
        self._workdir, self._tokenizer, self._mesh = epath.Path(workdir), tokenizer, mesh
        self._writes = jax.process_index() == 0

    def begin(self, step: int) -> None:
        """Drops the records of the rollouts from `step` on, which the run samples again, and what
        a killed process left of one."""
        if self._writes:
            self._tried(self._drop, step)

    def _drop(self, step: int) -> None:
        folder = self._workdir / FOLDER
        for file in folder.iterdir() if folder.exists() else ():
            match = re.fullmatch(r"(\d+)\.parquet(\.\d+\.tmp)?", file.name)
            if match and (match[2] or int(match[1]) >= step):
                file.unlink()

    def write(self, step: int, rollout: Rollout) -> None:
        """Writes the rollout after `step` updates."""
        arrays = fetch(rollout, self._mesh)
        if self._writes:
            self._tried(self._write, step, rollout, arrays)

    def _write(self, step: int, rollout: Rollout, arrays: Mapping[str, np.ndarray]) -> None:
        file, content = path(self._workdir, step), io.BytesIO()
        pq.write_table(table(self._tokenizer, rollout, arrays, step), content, compression="zstd")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content.getvalue())

    @staticmethod
    def _tried(function, *args) -> None:
        """function(*args); Arrow and an object store raise errors of their own."""
        _, reason = outputs.tried(FOLDER, function, *args)
        if reason:
            outputs.failed(FOLDER, reason, "a rollout is not on record")
