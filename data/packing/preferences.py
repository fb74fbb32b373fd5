"""Rankings of answers to one prompt: rendered, cut, and packed into rows of sub-rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data.batch import stack
from data.errors import DataError
from data.packing.base import CUT, NO_ANSWER, NothingLeft, Packed, map_examples, too_long
from data.read.bad_records import BadRecords
from data.text.base import Tokenizer
from data.text.chat import render

# Rows that are open at a time: more wastes less, and takes longer.
_OPEN_ROWS = 32


class Ranking(NamedTuple):
    """A rendered ranking.

    Attributes:
      ids: the ids [n] of each candidate. starts: the index in them at which its answer begins.
      trunk: the number of ids of the prompt that the candidates share; 0 if they are kept apart.
    """

    example: dict
    ids: list[np.ndarray]
    starts: list[int]
    trunk: int

    @property
    def sizes(self) -> list[int]:
        """The number of ids of each candidate after the trunk."""
        return [len(ids) - self.trunk for ids in self.ids]


class _Row:
    """A row that is being filled. `rooms`: the free tokens of each sub-row."""

    def __init__(self, length: int, sub_rows: int):
        self.rooms = [length] * sub_rows
        self.rankings: list[tuple[Ranking, list[int]]] = []  # and the sub-row of each candidate
        self.numbers: list[int] = []  # of the examples


def preference_rows(
    examples: Iterable[dict], tokenizer: Tokenizer, length: int, sub_rows: int, share_prompt: bool,
    on_long: str, skipped: Counter, kinds: Sequence[str], bad: BadRecords | None = None,
) -> Packed:  # fmt: skip
    """Rankings -> rows of `sub_rows` × `length` tokens (data/batch.py), first-fit.

    The reward is read at the token that ends the answer; that of a cut candidate at its last token.
    A ranking is left out and counted if a cut removes an answer, or makes two candidates of
    different rank equal.

    Args:
      kinds: the names that `kind` indexes.

    Raises:
      DataError: a candidate is longer than `length` and `on_long` is "error"; NothingLeft if all
        are left out.
    """
    rows, open_rows, kept = [], [], []
    rankings = _rendered(examples, tokenizer, length, sub_rows, share_prompt, on_long, skipped, bad)
    for ranking in rankings:
        sizes = ranking.sizes
        for row in open_rows:
            placed = place(row.rooms, sizes, ranking.trunk)
            if placed:
                break
        else:
            row = _Row(length, sub_rows)
            placed = place(row.rooms, sizes, ranking.trunk)
            rows.append(row)
            open_rows = [*open_rows, row][-_OPEN_ROWS:]
        assert placed is not None  # `_rendered` leaves out rankings larger than an empty row
        row.rooms = placed[0]
        row.rankings.append((ranking, placed[1]))
        row.numbers.append(len(kept))
        kept.append(ranking.example)
    if not rows:
        raise NothingLeft(f"no preference fits data.length={length}: {dict(skipped)}")
    candidates = round_up(max(sum(len(r.ids) for r, _ in row.rankings) for row in rows))
    arrays = stack([_arrays(row.rankings, length, sub_rows, candidates, kinds) for row in rows])
    if not share_prompt:
        del arrays["branch_ids"]
    return Packed(arrays, kept, [row.numbers for row in rows])


def round_up(count: int) -> int:
    """The candidates of a row, at most half as many again as `count`: 1, 2, 3, 4, 6, 8, 12, 16, …,
    so that data sets of one kind have rows of one shape, and runs on them share their programs."""
    step = 1 << max(count.bit_length() - 2, 0)
    return -(-count // step) * step


def place(rooms: list[int], sizes: Sequence[int], trunk: int) -> tuple[list[int], list[int]] | None:
    """Sub-rows for the candidates of one ranking.

    Args:
      rooms: the free tokens of each sub-row. sizes: the tokens of each candidate after the trunk.
      trunk: tokens of the prompt, stored once in each sub-row that holds candidates; 0 where the
        prompt is not shared.

    Returns:
      (free tokens left, the sub-row of each candidate), or None if they do not all fit.
    """
    rooms, chosen, begun, left = list(rooms), [0] * len(sizes), set(), sum(sizes)
    if sum(rooms) < trunk + left or max(rooms) < trunk + max(sizes):
        return None  # most rows, found without trying
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        costs = [sizes[index] + (0 if s in begun else trunk) for s in range(len(rooms))]
        fits = [(room, s) for s, room in enumerate(rooms) if room >= costs[s]]
        if not fits:
            return None
        # Without a trunk, the fullest that has room. With one, few copies of it are wanted: a
        # sub-row that has it, or has room for all that is left, or the emptiest.
        shared = [f for f in fits if f[1] in begun] if trunk else fits
        whole = [f for f in fits if f[0] >= trunk + left]
        _, chosen[index] = min(shared or whole or [max(fits)])
        rooms[chosen[index]] -= costs[chosen[index]]
        begun.add(chosen[index])
        left -= sizes[index]
    return rooms, chosen


def _rendered(
    examples, tokenizer: Tokenizer, length: int, sub_rows: int, share_prompt: bool, on_long: str,
    skipped: Counter, bad: BadRecords | None,
) -> Iterator[Ranking]:  # fmt: skip
    """Yields a Ranking for each example that fits a row."""
    bad = bad or BadRecords()
    rendered = map_examples(examples, bad, lambda e: _render(e, tokenizer, share_prompt))
    for example, ranking in rendered:
        longest = max(map(len, ranking.ids))
        if longest > length:
            if on_long == "error":
                raise too_long(example["where"], longest, length)
            if on_long == "drop":
                skipped[f"longer than {length} tokens, drop"] += 1
                continue
            ranking = _cut(ranking, length)
            if isinstance(ranking, str):
                skipped[ranking] += 1
                continue
        if place([length] * sub_rows, ranking.sizes, ranking.trunk) is None:
            message = (
                f"its {len(ranking.ids)} candidates do not fit {sub_rows} rows of {length} tokens; "
                "raise --config.data.sub_rows"
            )
            bad.add(example["where"], DataError(message, "too_many_candidates"))
            continue
        if longest > length:
            skipped[f"longer than {length} tokens{CUT}"] += 1
        yield ranking


def _render(example: dict, tokenizer: Tokenizer, share_prompt: bool) -> Ranking:
    candidates, starts = [], []
    for response in example["responses"]:
        answer = {"role": "assistant", "content": response}
        ids, mask = render(tokenizer, [*example["messages"], answer], example.get("tools"))
        if not mask[1:].any():
            raise DataError(f"no token of an answer to learn from: {response[:40]!r}", "no_answer")
        # Up to the token that ends the answer: a template may write more after it, a policy stops.
        end = np.flatnonzero(mask)[-1] + 1
        candidates.append(ids[:end])
        starts.append(int(np.flatnonzero(mask[:end] == 0)[-1]) + 1)
    if _has_equal_of_different_rank(candidates, example["rank"]):
        raise DataError(
            "two responses that are ranked apart are the same tokens, as where a chat template "
            "leaves thoughts out; there is nothing to prefer",
            "identical_responses",
        )
    trunk = 0
    if share_prompt:
        prompts = np.stack([ids[: min(starts)] for ids in candidates])
        trunk = int(np.argmin(np.append(np.all(prompts == prompts[0], axis=0), False)))
    return Ranking(example, candidates, starts, trunk)


def _cut(ranking: Ranking, length: int) -> Ranking | str:
    """The beginning of each candidate, or the reason why there is nothing to compare."""
    if max(ranking.starts) >= length:
        return NO_ANSWER
    ids = [i[:length] for i in ranking.ids]
    if _has_equal_of_different_rank(ids, ranking.example["rank"]):
        return "answers that are equal within the length"
    return ranking._replace(ids=ids)


def _has_equal_of_different_rank(ids: Sequence[np.ndarray], rank: Sequence[int]) -> bool:
    """Whether two candidates are equal and differ in rank."""
    ranks: dict[bytes, int] = {}
    pairs = zip(ids, rank, strict=True)
    return any(ranks.setdefault(candidate.tobytes(), r) != r for candidate, r in pairs)


def _arrays(
    rankings: Sequence[tuple[Ranking, list[int]]], length: int, sub_rows: int, candidates: int,
    kinds: Sequence[str],
) -> dict[str, np.ndarray]:  # fmt: skip
    """The arrays of one row, from its (Ranking, sub-row of each candidate) pairs."""
    names = ("tokens", "positions", "segment_ids", "branch_ids")
    row: dict[str, np.ndarray] = {name: np.zeros((sub_rows, length), np.int32) for name in names}
    row |= {name: np.zeros(candidates, np.int32) for name in ("start", "end", "group", "kind")}
    row["rank"] = np.full(candidates, -1, np.int32)
    row["doubt"] = np.zeros(candidates, np.float32)
    filled, c = [0] * sub_rows, 0

    def append(s: int, ids: np.ndarray, position: int, segment: int, branch: int) -> None:
        place = s, slice(filled[s], filled[s] + len(ids))
        row["tokens"][place] = ids
        row["positions"][place] = position + np.arange(len(ids))
        row["segment_ids"][place] = segment
        row["branch_ids"][place] = branch
        filled[s] += len(ids)

    segments = [0] * sub_rows
    for group, (ranking, chosen) in enumerate(rankings):
        trunk, begun = ranking.trunk, set()
        for i, s in enumerate(chosen):
            ids, shared = ranking.ids[i], trunk > 0
            if not shared or s not in begun:
                segments[s] += 1
                append(s, ids[:trunk], 0, segments[s], 0)
                begun.add(s)
            at = s * length + filled[s] - trunk  # where the candidate's ids would begin
            append(s, ids[trunk:], trunk, segments[s], i + 1 if shared else 0)
            row["start"][c], row["end"][c] = at + ranking.starts[i], at + len(ids) - 1
            row["rank"][c] = ranking.example["rank"][i]
            row["doubt"][c] = 1 - ranking.example.get("confidence", 1.0)
            row["group"][c] = group
            row["kind"][c] = kinds.index(ranking.example["kinds"][i])
            c += 1
    return row
