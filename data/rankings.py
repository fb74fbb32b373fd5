"""Rankings of answers to one prompt: rendered, cut, and laid into a row of sub-rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.errors import DataError
from data.text.chat import render

NO_ANSWER = "no token of an answer within the length"


def place(rooms: list[int], sizes: Sequence[int], trunk: int):
    """Sub-rows for answers of these sizes, each behind a copy of a trunk that answers in the same
    sub-row share; 0 where nothing is shared.

    Returns:
      (rooms left, the sub-row of each), or None if they do not all fit.
    """
    rooms, chosen, begun, left = list(rooms), [0] * len(sizes), set(), sum(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        costs = [sizes[index] + (0 if s in begun else trunk) for s in range(len(rooms))]
        fits = [(room, s) for s, room in enumerate(rooms) if room >= costs[s]]
        if not fits:
            return None
        # The fullest that holds it; of a trunk few copies are wanted: one that holds all that is
        # left, else the emptiest.
        shared = [f for f in fits if f[1] in begun] if trunk else fits
        whole = [f for f in fits if f[0] >= trunk + left]
        _, chosen[index] = min(shared or whole or [max(fits)])
        rooms[chosen[index]] -= costs[chosen[index]]
        begun.add(chosen[index])
        left -= sizes[index]
    return rooms, chosen


class Ranking(NamedTuple):
    """A rendered ranking: ids [n] of each candidate, where its answer begins in them, and how many
    ids of the prompt the candidates share."""

    example: dict
    ids: list[np.ndarray]
    starts: list[int]
    trunk: int

    @property
    def sizes(self):
        return [len(ids) - self.trunk for ids in self.ids]


def render_ranking(example, tokenizer, share_prompt: bool) -> Ranking:
    every, starts = [], []
    for response in example["responses"]:
        answer = {"role": "assistant", "content": response}
        ids, mask = render(tokenizer, [*example["messages"], answer], example.get("tools"))
        if not mask[1:].any():
            raise DataError(f"no token of an answer to learn from: {response[:40]!r}", "no_answer")
        # To the token that ends the answer: a template may write on after it, a policy does not.
        end = np.flatnonzero(mask)[-1] + 1
        every.append(ids[:end])
        starts.append(int(np.flatnonzero(mask[:end] == 0)[-1]) + 1)
    if _ranked_apart(every, example["rank"]):
        raise DataError(
            "two responses that are ranked apart are the same tokens, as where a chat template "
            "leaves thoughts out; there is nothing to prefer",
            "identical_responses",
        )
    trunk = 0
    if share_prompt:
        prompts = np.stack([ids[: min(starts)] for ids in every])
        trunk = int(np.argmin(np.append(np.all(prompts == prompts[0], axis=0), False)))
    return Ranking(example, every, starts, trunk)


def cut(ranking: Ranking, length: int) -> Ranking | str:
    """The beginning of a ranking's candidates, or why there is nothing to compare."""
    if max(ranking.starts) >= length:
        return NO_ANSWER
    ids = [i[:length] for i in ranking.ids]
    if _ranked_apart(ids, ranking.example["rank"]):
        return "answers that are equal within the length"
    return ranking._replace(ids=ids)


def _ranked_apart(ids, rank) -> bool:
    """Whether two candidates are the same and have not the same rank."""
    places: dict[bytes, int] = {}
    pairs = zip(ids, rank, strict=True)
    return any(places.setdefault(candidate.tobytes(), place) != place for candidate, place in pairs)


def ranking_row(rankings, length: int, sub_rows: int, candidates: int, kinds):
    """One row of `preference_rows` from its (Ranking, sub-row of each candidate) pairs."""
    names = ("tokens", "positions", "segment_ids", "branch_ids")
    row = {name: np.zeros((sub_rows, length), np.int32) for name in names}
    row |= {name: np.zeros(candidates, np.int32) for name in ("start", "end", "group", "kind")}
    row["rank"] = np.full(candidates, -1, np.int32)
    row["doubt"] = np.zeros(candidates, np.float32)
    filled, c = [0] * sub_rows, 0

    def lay(s, ids, position, segment, branch):
        where = s, slice(filled[s], filled[s] + len(ids))
        row["tokens"][where] = ids
        row["positions"][where] = position + np.arange(len(ids))
        row["segment_ids"][where] = segment
        row["branch_ids"][where] = branch
        filled[s] += len(ids)

    segments = [0] * sub_rows
    for group, (ranking, chosen) in enumerate(rankings):
        trunk, begun = ranking.trunk, set()
        for i, s in enumerate(chosen):
            ids, shared = ranking.ids[i], trunk > 0
            if not shared or s not in begun:
                segments[s] += 1
                lay(s, ids[:trunk], 0, segments[s], 0)
                begun.add(s)
            at = s * length + filled[s] - trunk  # where the candidate's ids would begin
            lay(s, ids[trunk:], trunk, segments[s], i + 1 if shared else 0)
            row["start"][c], row["end"][c] = at + ranking.starts[i], at + len(ids) - 1
            row["rank"][c] = ranking.example["rank"][i]
            row["doubt"][c] = 1 - ranking.example.get("confidence", 1.0)
            row["group"][c] = group
            row["kind"][c] = kinds.index(ranking.example["kinds"][i])
            c += 1
    return row
