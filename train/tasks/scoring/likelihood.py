"""Log-likelihoods of passages: packed rows, and the vocabulary head where a token is scored.

Axes: R rows, T row length, C scored tokens of a row at once, D embed, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from model import sharding, vocabulary
from model.config import TransformerConfig
from model.context_parallel import AXIS
from model.kernels.dispatch import LONG, BackendError, check_branches
from model.transformer import Transformer
from train.tasks.base import Scored
from train.tasks.scoring.packing import Batches, fill, pack
from train.tasks.scoring.pieces import make_pieces
from train.tasks.scoring.tokens import Passage

# Logits that a device holds at once, at most: this many tokens'.
SCORED_AT_ONCE = 1024


class LogLikelihood:
    """Log-likelihoods under one architecture.

    Args:
      tokens: tokens that each of the mesh's batch shards computes at once.
    """

    def __init__(self, config: TransformerConfig, mesh: jax.sharding.Mesh, tokens: int):
        self.config, self.mesh, self.tokens = config, mesh, tokens
        try:
            check_branches(config.attention, LONG, mesh.shape[AXIS], config.window)
        except BackendError:
            self.forks = False  # each passage is computed alone
        else:
            self.forks = True
        self._hidden = jax.jit(self._run_hidden)
        self._score = jax.jit(self._run_head, out_shardings=sharding.replicated(mesh))

    def _run_hidden(self, params, tokens, positions, segment_ids, branch_ids=None):
        """Hidden states [R, T, D]."""
        args = tokens, positions, segment_ids
        module = Transformer(self.config)
        return module.apply(
            {"params": params}, *args, branch_ids=branch_ids, method=Transformer.hidden
        )[0]

    def _run_head(self, table, hidden, places, targets) -> tuple[Array, Array]:
        """([R, C] float32 log-probabilities of `targets`, [R, C] bool whether each is the
        likeliest), predicted at `places` [R, C]."""
        hidden = jnp.take_along_axis(hidden, places[..., None], axis=1)
        logits = vocabulary.logits(self.config, table, hidden, decoding=True)
        logprobs = vocabulary.log_probs(logits, targets, 1.0)
        # An argmax, whose ties go to the lowest id: XLA on CPU computes two reductions faster.
        ids = jnp.arange(logits.shape[-1])
        is_top = logits == jnp.max(logits, axis=-1, keepdims=True)
        top = jnp.min(jnp.where(is_top, ids, len(ids)), axis=-1)
        return logprobs, top == targets

    def __call__(
        self, params: Any, groups: Sequence[Sequence[Passage]],
        done: Collection[int] = frozenset(),
    ) -> Iterator[tuple[int, tuple[Scored, ...]]]:  # fmt: skip
        """Yields (index of a group, the Scored of each of its passages) as they are computed.

        Args:
          groups: passages that are likely to begin alike, such as the choices of a question.
          done: indices of groups that are not needed; a batch with nothing else is skipped.
        """
        passages = [passage for group in groups for passage in group]
        starts = np.cumsum([0, *map(len, groups)])
        group_of = np.repeat(np.arange(len(groups)), np.diff(starts))
        missing = np.array([sum(p.scored for p in group) for group in groups], np.int64)
        needed = np.isin(np.arange(len(groups)), list(done), invert=True)
        missing[~needed] = -1  # which never becomes 0
        sums, greedy = np.zeros(len(passages)), np.ones(len(passages), bool)

        def result(index):
            own = range(starts[index], starts[index + 1])
            return index, tuple(
                Scored(float(sums[i]), bool(greedy[i]), passages[i].scored, passages[i].cut)
                for i in own
            )

        for index in np.flatnonzero(missing == 0).tolist():
            yield result(index)
        pieces = make_pieces(groups, self.forks)
        for batches in pack(pieces, self.config.embed_dim):
            for owners, logprobs, tops in self._computed(params, batches, needed[group_of]):
                np.add.at(sums, owners, logprobs)
                np.logical_and.at(greedy, owners, tops)
                counts = np.bincount(group_of[owners], minlength=len(groups))
                missing -= counts
                for index in np.flatnonzero((counts > 0) & (missing == 0)).tolist():
                    yield result(index)

    def _computed(
        self, params: Any, batches: Batches, needed: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yields (numbers of passages, log-probabilities, whether each is the likeliest), each [n],
        of scored tokens, for each batch with a passage that is `needed`."""
        table = params["embedding" if self.config.tie_embeddings else "unembedding"]
        own_rows = max(self.tokens // batches.length, 1)
        count = own_rows * sharding.batch_shards(self.mesh)
        chunk = min(batches.length // 8, max(SCORED_AT_ONCE // own_rows, 16))
        local = sharding.local_rows(self.mesh, count)

        def put(*arrays):
            return [sharding.put_batch(x[local], self.mesh) for x in arrays]

        before = list[tuple[np.ndarray, tuple[Array, Array]]]()
        for start in range(0, len(batches.rows), count):
            own = batches.rows[start:][:count]
            if not any(needed[piece.owners].any() for row in own for piece in row):
                continue
            rows = fill(own, count, batches.length, chunk)
            started = []
            with jax.set_mesh(self.mesh):
                arrays = put(*rows[: 4 if batches.forks else 3])
                hidden = self._hidden(params, *arrays)
                for first in range(0, rows.owners.shape[1], chunk):
                    places, targets, owners = (x[:, first:][:, :chunk] for x in rows[4:])
                    scores = self._score(table, hidden, *put(places, targets))
                    started.append((owners, scores))
            yield from map(_fetched, before)  # while the device computes
            before = started
        yield from map(_fetched, before)


def _fetched(started: tuple[np.ndarray, tuple[Array, Array]]) -> tuple[np.ndarray, ...]:
    """The scored tokens [n] of a call, without padding."""
    owners, scores = started
    real = owners >= 0
    return owners[real], *(x[real] for x in jax.device_get(scores))
