"""Rows of random text, as training reads them."""

import numpy as np


def random_rows(rows: int, length: int, vocab_size: int) -> dict[str, np.ndarray]:
    """A batch of unpacked rows (data/batch.py) whose loss weights are 0, 0.5 or 1."""
    rng = np.random.default_rng(0)
    return {
        "tokens": rng.integers(0, vocab_size, (rows, length)).astype(np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "segment_ids": np.ones((rows, length), np.int32),
        "loss_mask": rng.choice([0.0, 0.5, 1.0], (rows, length)).astype(np.float32),
    }
