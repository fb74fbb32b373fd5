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
from data.tokenizer import Tokenizer

ON_LONG = ("error", "cut", "drop")


def _too_long(where: str, have: int, length: int, setting: str):
    return DataError(
        f"{where}: {have} tokens, and {setting} is {length}. Raise it, or set "
        "--config.data.on_long=cut (keep the beginning) or =drop (leave such examples out)"
    )


def pack_text(examples, tokenizer: Tokenizer, length: int) -> dict[str, np.ndarray]:
    """Documents, <bos> text <eos> each (an open model may have no <bos>), laid end to end and split
    every `length` tokens.

    A document that is split goes on in the next row with its last token repeated there, masked, so
    that every token but <bos> is predicted exactly once.

    Returns:
      (rows, the examples, all of them).
    """
    rows, segments, room = [], [], length
    for example in examples:
        ids = np.array(
            [*tokenizer.prefix, *tokenizer.encode(example["text"]), tokenizer.eos_id], np.int32
        )
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


# Rows that are open at a time when rankings are packed: more wastes less, and takes longer.
_OPEN_ROWS = 32


def _place(rooms: list[int], sizes: Sequence[int]):
    """Sub-rows for candidates of these sizes, each in the fullest that holds it.

    Returns:
      (rooms left, the sub-row of each), or None if they do not all fit.
    """
    rooms, chosen = list(rooms), [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        fits = [(room, s) for s, room in enumerate(rooms) if room >= sizes[index]]
        if not fits:
            return None
        _, chosen[index] = min(fits)
        rooms[chosen[index]] -= sizes[index]
    return rooms, chosen


def _rendered_rankings(examples, tokenizer, length, sub_rows, on_long, skipped: Counter):
    """Yields (example, ids of each candidate) of what fits a row."""
    for example in examples:
        answers = [{"role": "assistant", "content": r} for r in example["responses"]]
        rendered = [render(tokenizer, [*example["messages"], a]) for a in answers]
        # To the token that ends the answer: a template may write on after it, a policy does not.
        ids = [ids[: np.flatnonzero(mask)[-1] + 1] for ids, mask in rendered]
        longest = max(map(len, ids))
        if longest > length:
            if on_long == "error":
                raise _too_long(example["where"], longest, length, "data.length")
            skipped[f"longer than {length} tokens, {on_long}"] += 1
            if on_long == "drop":
                continue
            ids = [i[:length] for i in ids]
        if _place([length] * sub_rows, [len(i) for i in ids]) is None:
            raise DataError(
                f"{example['where']}: its {len(ids)} candidates do not fit {sub_rows} rows of "
                f"{length} tokens; raise --config.data.sub_rows"
            )
        yield example, ids


def preference_rows(
    examples, tokenizer, length: int, sub_rows: int, on_long: str, skipped: Counter, kinds
):
    """Rankings -> rows of `sub_rows` × `length` tokens (data/batch.py), first-fit.

    The reward is read at the <eos> that ends the answer; a candidate cut short is read at its last
    token. `kinds` is the list of names that `kind` counts in.

    Returns:
      (rows, the examples that are in them).

    Raises:
      DataError: a candidate is longer than `length` and `on_long` is "error", or a ranking does
        not fit a row.
    """
    bins, open_rows, kept = [], [], []
    for example, ids in _rendered_rankings(examples, tokenizer, length, sub_rows, on_long, skipped):
        sizes = [len(i) for i in ids]
        for row in open_rows:
            placed = _place(row["rooms"], sizes)
            if placed:
                break
        else:
            row = {"rooms": [length] * sub_rows, "rankings": []}
            placed = _place(row["rooms"], sizes)
            bins.append(row)
            open_rows = [*open_rows, row][-_OPEN_ROWS:]
        row["rooms"] = placed[0]
        row["rankings"].append((example, ids, placed[1]))
        kept.append(example)
    if not bins:
        raise DataError(f"no preference fits data.length={length}: {dict(skipped)}")
    most = max(sum(len(ids) for _, ids, _ in row["rankings"]) for row in bins)
    return stack([_ranking_row(b["rankings"], length, sub_rows, most, kinds) for b in bins]), kept


def _ranking_row(rankings, length: int, sub_rows: int, candidates: int, kinds):
    """One row of `preference_rows` from its (example, ids, sub-row of each) triples."""
    segments = [[] for _ in range(sub_rows)]
    filled = [0] * sub_rows
    row = {name: np.zeros(candidates, np.int32) for name in ("end", "group", "kind")}
    row["rank"] = np.full(candidates, -1, np.int32)
    c = 0
    for group, (example, ids, chosen) in enumerate(rankings):
        for i, sub_row in enumerate(chosen):
            segments[sub_row].append((ids[i], 0.0))
            filled[sub_row] += len(ids[i])
            row["end"][c] = sub_row * length + filled[sub_row] - 1
            row["rank"][c] = example["rank"][i]
            row["group"][c] = group
            row["kind"][c] = kinds.index(example["kinds"][i])
            c += 1
    tokens = stack([segment_row(s, length) for s in segments])
    del tokens["loss_mask"]
    return row | tokens


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
