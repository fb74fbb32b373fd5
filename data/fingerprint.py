"""Fingerprints of data: equal for the same rows, wherever they were read from."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from data.pipeline import Data
from data.prepare import prepared


def fingerprint(data: Data) -> str:
    """A hash of the training and held-out rows and of the examples that belong to them. For
    prepared rows that are not in memory it covers the digests of their shards instead."""
    total = hashlib.sha256()
    for rows in (data.train, data.heldout):
        _add(total, rows)
    for examples in (data.train_examples, data.heldout_examples):
        bare = [{k: v for k, v in example.items() if k != "where"} for example in examples]
        total.update(json.dumps(bare, sort_keys=True).encode())
    return total.hexdigest()[:16]


def _add(total, rows) -> None:
    if isinstance(rows, prepared.Joined):
        for part in rows.parts:
            _add(total, part)
    elif isinstance(rows, prepared.PreparedRows):
        total.update(rows.digest.encode())
    else:
        for name in sorted(rows):
            total.update(f"{name} {rows[name].dtype} {rows[name].shape}".encode())
            total.update(np.ascontiguousarray(rows[name]).data)
