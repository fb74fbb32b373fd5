"""The format of a prepared row: one record of an ArrayRecord shard, little endian.

A record holds the number of its segments, their lengths, a bit a token that is 1 where the loss
counts (conversations, and text with fill in the middle), and the token ids. Positions and segment
ids follow from the lengths; so does the mask of other text, which is 1 except at the first token of
a segment. A row with any other weight ends with the weights of all its tokens, float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest dtype that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def has_mask(schema: str, fim_rate: float) -> bool:
    """Whether records hold a mask."""
    return schema == "chat" or fim_rate > 0


def encode(row: dict, dtype: np.dtype, with_mask: bool) -> bytes:
    """A row of data/batch.py ([T] arrays) as a record."""
    ids = row["segment_ids"]
    lengths = np.bincount(ids, minlength=1)[1:].astype("<u4")
    parts = [np.array([len(lengths)], "<u4"), lengths]
    weights = row["loss_mask"]
    ones = weights > 0 if with_mask else (ids > 0) & (row["positions"] > 0)
    if with_mask:
        parts.append(np.packbits(ones))
    parts.append(row["tokens"].astype(dtype))
    if np.any(weights != ones):
        parts.append(weights.astype("<f4"))
    return b"".join(part.tobytes() for part in parts)


def decode(records: Sequence[bytes], length: int, dtype: np.dtype, with_mask: bool) -> dict:
    """Records as rows [n, length] of data/batch.py.

    Raises:
      ValueError: one of them is not a row of that length.
    """
    n, bits = len(records), -(-length // 8) if with_mask else 0
    tokens = np.empty((n, length), np.int32)
    masks = np.empty((n, bits), np.uint8)
    counts, sizes, weights = np.empty(n, np.int64), [], {}
    for i, record in enumerate(records):
        counts[i] = count = int.from_bytes(record[:4], "little")
        at = 4 + 4 * count
        end = at + bits + length * dtype.itemsize
        if len(record) == end + 4 * length:
            weights[i] = np.frombuffer(record, "<f4", length, end)
        elif len(record) != end:
            raise ValueError(f"a record of {len(record)} bytes is no row of {length} tokens")
        sizes.append(record[4:at])
        if with_mask:
            masks[i] = np.frombuffer(record, np.uint8, bits, at)
        tokens[i] = np.frombuffer(record, dtype, length, at + bits)
    sizes = np.frombuffer(b"".join(sizes), "<u4").astype(np.int64)
    ends = np.cumsum(counts)  # of each row's segments among those of all rows
    filled = np.append(0, np.cumsum(sizes))
    filled = filled[ends] - filled[ends - counts]
    if np.any(filled > length):
        raise ValueError(f"a row of {length} tokens cannot hold {np.max(filled)}")
    numbers = np.arange(1, len(sizes) + 1) - np.repeat(ends - counts, counts)
    # Padding is one more segment at the end of each row, number 0.
    numbers = np.insert(numbers, ends, 0).astype(np.int32)
    sizes = np.insert(sizes, ends, length - filled)
    starts = np.cumsum(sizes) - sizes
    segment_ids = np.repeat(numbers, sizes).reshape(n, length)
    positions = np.repeat((starts % length).astype(np.int32), sizes).reshape(n, length)
    positions = np.subtract(np.arange(length, dtype=np.int32), positions, out=positions)
    if with_mask:
        loss_mask = np.unpackbits(masks, axis=1)[:, :length].astype(np.float32)
    else:
        loss_mask = np.ones((n, length), np.float32)
        loss_mask.reshape(-1)[starts[sizes > 0]] = 0
    for row in np.flatnonzero(filled < length).tolist():
        positions[row, filled[row] :] = 0
        loss_mask[row, filled[row] :] = 0
    for row, values in weights.items():
        loss_mask[row] = values
    return {
        "tokens": tokens,
        "positions": positions,
        "segment_ids": segment_ids,
        "loss_mask": loss_mask,
    }
