"""The schema of every batch: the contract between data/ and train/.

A batch is a dict of arrays whose first dimension is rows (B), split over the mesh's batch axes and
into microbatches. A row itself is never split.

| name | shape | dtype | meaning |
|---|---|---|---|
| tokens | [B, T] | int32 | ids |
| positions | [B, T] | int32 | position within the segment |
| segment_ids | [B, T] | int32 | 1, 2, … within a row; 0 is padding |
| loss_mask | [B, T] | float32 | weight, 0 or more, of predicting `tokens[b, t]`; 0 at starts |

Preferences: a row holds the candidates of a few rankings, packed into S sub-rows, so that a ranking
is never split. `tokens`, `positions` and `segment_ids` are [B, S, T], one segment a candidate.
Where candidates share their prompt (data.share_prompt), a segment is the prompt followed by its
answers, each with the positions that follow the prompt, and `branch_ids` [B, S, T] int32 is 0 in
the prompt and 1, 2, … in the answers. In addition:

| name | shape | dtype | meaning |
|---|---|---|---|
| start | [B, C] | int32 | index into S·T of the first token of a candidate's answer |
| end | [B, C] | int32 | index into S·T of its last token |
| rank | [B, C] | int32 | lower is better, equal is a tie, -1 is no candidate; alone 0 good, 1 not |
| group | [B, C] | int32 | the ranking of the row that a candidate belongs to |
| kind | [B, C] | int32 | index into the data set's kinds of candidate |
| doubt | [B, C] | float32 | probability that its ranking is reversed; 0 unless a record gives one |

Prompts: `tokens` [B, P] padded on the left, `mask` [B, P] bool and `example` [B] int32, the index
of the example in its split. Rollouts are described in train/rl/rollout.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def segment_row(
    segments: Iterable[tuple[Sequence[int] | np.ndarray, Any]], length: int,
    starts: Sequence[int] = (),
) -> dict[str, np.ndarray]:  # fmt: skip
    """One row [length] of (ids, loss mask) segments, one after the other, padded at the end.

    A segment's first token is never predicted: its mask is set to 0.

    Args:
      starts: ascending positions of the segments, with padding between them.
    """
    row = {
        "tokens": np.zeros(length, np.int32),
        "positions": np.zeros(length, np.int32),
        "segment_ids": np.zeros(length, np.int32),
        "loss_mask": np.zeros(length, np.float32),
    }
    at = 0
    for number, (ids, mask) in enumerate(segments, start=1):
        at = starts[number - 1] if starts else at
        end = at + len(ids)
        if end > length:
            raise ValueError(f"segments of {end} tokens or more do not fit a row of {length}")
        row["tokens"][at:end] = ids
        row["positions"][at:end] = np.arange(len(ids))
        row["segment_ids"][at:end] = number
        row["loss_mask"][at:end] = mask
        row["loss_mask"][at] = 0
        at = end
    return row


def stack(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """A list of dicts of arrays of equal shapes -> one dict of arrays with a leading dimension."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
