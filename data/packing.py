"""Examples -> rows of one length: cut, packed or padded, once, when a data set is opened.

Whatever changes the number of rows happens here, so that the loader maps one to one and a batch is
a function of the step alone. Rows are dicts of arrays with a leading dimension (data/batch.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from data.batch import segment_row, stack
from data.chat import render, render_prompt
from data.sources import DataError
from data.tokenizer import BOS, EOS, Tokenizer

ON_LONG = ("error", "cut", "drop")


def _too_long(where: str, have: int, length: int, setting: str):
    return DataError(
        f"{where}: {have} tokens, and {setting} is {length}. Raise it, or set "
        "--config.data.on_long=cut (keep the beginning) or =drop (leave such examples out)"
    )


def pack_text(examples, tokenizer: Tokenizer, length: int) -> dict[str, np.ndarray]:
    """Documents, <bos> text <eos> each, laid end to end and split every `length` tokens.

    A document that is split goes on in the next row with its last token repeated there, masked, so
    that every token but <bos> is predicted exactly once.

    Returns:
      (rows, the examples, all of them).
    """
    rows, segments, room = [], [], length
    for example in examples:
        ids = np.array([BOS, *tokenizer.encode(example["text"]), EOS], np.int32)
        start = 0
        while start < len(ids) - 1:
            if room < 2:
                rows.append(segment_row(segments, length))
                segments, room = [], length
            piece = ids[start : start + room]
            segments.append((piece, np.ones(len(piece), np.float32)))
            room -= len(piece)
            start += len(piece) - 1
    if segments:
        rows.append(segment_row(segments, length))
    return stack(rows), examples


def best_fit(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Bins of `length`, each a list of indices: first-fit decreasing, by the fullest that fits.

    (Ding et al. 2024, arXiv:2404.10830, for why: no example is cut, and hardly a token is wasted.)
    """
    bins: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(length + 1)]  # room left -> bins
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        size = sizes[index]
        room = next((r for r in range(size, length + 1) if by_room[r]), None)
        if room is None:
            bins.append([])
            number, room = len(bins) - 1, length
        else:
            number = by_room[room].pop()
        bins[number].append(index)
        by_room[room - size].append(number)
    return [sorted(b) for b in bins]


def _rendered_chats(examples, tokenizer, length, on_long, skipped: Counter):
    """Yields (example, ids, mask) of what fits a row and has something to learn."""
    for example in examples:
        ids, mask = render(tokenizer, example["messages"])
        if len(ids) > length:
            if on_long == "error":
                raise _too_long(example["where"], len(ids), length, "data.length")
            skipped[f"longer than {length} tokens, {on_long}"] += 1
            if on_long == "drop":
                continue
            ids, mask = ids[:length], mask[:length]
        if not mask.any():
            if on_long == "error":
                raise DataError(f"{example['where']}: no token of an answer to learn from")
            skipped["no token of an answer within the length"] += 1
            continue
        yield example, ids, mask


def pack_chats(examples, tokenizer, length: int, on_long: str, pack: bool, skipped: Counter):
    """Conversations -> packed rows (or one a row), loss on the assistant's tokens alone.

    Returns:
      (rows, the examples that are in them).

    Raises:
      DataError: an example is longer than a row (`on_long="error"`) or has no token to learn from.
    """
    rendered = list(_rendered_chats(examples, tokenizer, length, on_long, skipped))
    if not rendered:
        raise DataError(f"no conversation fits data.length={length}: {dict(skipped)}")
    bins = [[i] for i in range(len(rendered))]
    if pack:
        bins = best_fit([len(ids) for _, ids, _ in rendered], length)
    rows = stack([segment_row([rendered[i][1:] for i in b], length) for b in bins])
    return rows, [example for example, _, _ in rendered]


def preference_rows(examples, tokenizer, length: int, on_long: str, skipped: Counter, kinds):
    """Preferences -> [R, C, T] rows, C the most candidates any has; fewer are padded with rank -1.

    The reward is read at the <eos> that ends the answer; a candidate cut short is read at its last
    token. `kinds` is the list of names that `kind` counts in.

    Returns:
      (rows, the examples that they are, in order).

    Raises:
      DataError: a candidate is longer than a row and `on_long` is "error".
    """
    candidates = max(len(e["responses"]) for e in examples)
    rows, kept = [], []
    for example in examples:
        row = {
            "tokens": np.zeros((candidates, length), np.int32),
            "positions": np.zeros((candidates, length), np.int32),
            "segment_ids": np.zeros((candidates, length), np.int32),
            "end": np.zeros(candidates, np.int32),
            "rank": np.full(candidates, -1, np.int32),
            "kind": np.zeros(candidates, np.int32),
        }
        longest = 0
        for c, response in enumerate(example["responses"]):
            answer = {"role": "assistant", "content": response}
            ids, _ = render(tokenizer, [*example["messages"], answer])
            longest = max(longest, len(ids))
            ids = ids[:length]
            row["tokens"][c, : len(ids)] = ids
            row["positions"][c, : len(ids)] = np.arange(len(ids))
            row["segment_ids"][c, : len(ids)] = 1
            row["end"][c] = len(ids) - 1
            row["rank"][c] = example["rank"][c]
            row["kind"][c] = kinds.index(example["kinds"][c])
        if longest > length:
            if on_long == "error":
                raise _too_long(example["where"], longest, length, "data.length")
            skipped[f"longer than {length} tokens, {on_long}"] += 1
            if on_long == "drop":
                continue
        rows.append(row)
        kept.append(example)
    if not rows:
        raise DataError(f"no preference fits data.length={length}: {dict(skipped)}")
    return stack(rows), kept


def prompt_rows(examples, tokenizer, length: int, on_long: str, skipped: Counter):
    """Prompts that await an answer -> `tokens` [R, P] left padded, `mask` [R, P] bool.

    Returns:
      (rows, the examples that they are, in order).

    Raises:
      DataError: a prompt is longer than P and `on_long` is not "drop" (a cut one asks nothing).
    """
    rows, kept = [], []
    for example in examples:
        ids = render_prompt(tokenizer, example["messages"])
        if len(ids) > length:
            if on_long != "drop":
                raise DataError(
                    f"{example['where']}: a prompt of {len(ids)} tokens, and "
                    f"ppo.prompt_length is {length}. Raise it, or set --config.data.on_long=drop"
                )
            skipped[f"prompt longer than {length} tokens, drop"] += 1
            continue
        row = {"tokens": np.zeros(length, np.int32), "mask": np.zeros(length, bool)}
        row["tokens"][length - len(ids) :] = ids
        row["mask"][length - len(ids) :] = True
        rows.append(row)
        kept.append(example)
    if not rows:
        raise DataError(f"no prompt fits ppo.prompt_length={length}: {dict(skipped)}")
    return stack(rows), kept
