"""Replays without models."""

from collections.abc import Collection, Mapping

import numpy as np

from train.replay import gates, measures
from train.replay.conversations import Turn
from train.replay.report.content import Content
from train.replay.summary import Column, Replay, available, regressions

REFUSAL = "I cannot help with that."


def make(
    count: int, wins: int = 0, people: float = 0.0, refused: Collection[int] = (),
    texts: Mapping[int, str] | None = None, question: str = "Where is it?",
) -> Replay:  # fmt: skip
    """A replay of `count` conversations of the categories a and b: the first checkpoint's reward is
    1, the people's `people`, the other's 0 for the first `wins` and 2 for the rest.

    Args:
      refused: turns that the first checkpoint refuses. texts: the people's answers.
    """
    turns = [
        Turn(f"chats.jsonl:{i + 1}", i, 1, ({"role": "user", "content": f"{question} {i}"},),
             (texts or {}).get(i, f"It is here, number {i}."), "ab"[i % 2], None, "",
             f"{question} {i}")
        for i in range(count)
    ]  # fmt: skip
    others = np.where(np.arange(count) < wins, 0.0, 2.0)

    def column(name, own, reward):
        values = measures.measure(turns, own) | {"reward": np.broadcast_to(reward, count)}
        if name != "people":
            values |= {"cut": np.zeros(count), "similarity": np.full(count, 50.0)}
        return Column(name, own, values)

    own = [REFUSAL if i in refused else f"Number {i} is there." for i in range(count)]
    first = column("new@2", own, 1.0)
    other = column("old@1", [f"It is number {i}." for i in range(count)], others)
    return Replay(
        turns, column("people", [t.answer for t in turns], people), [first, other], "reward"
    )


def content(replay: Replay, read: gates.Gates | None = None) -> Content:
    """The content of its report."""
    there = available(["reward"], replay.turns, True, False)
    read = read or gates.Gates()
    conditions, decisions = gates.rollout(read, replay, there)
    return Content(replay, regressions(replay), there, gates.verdicts(read, replay), conditions,
                   decisions, ["a note"], {"seed": 0})  # fmt: skip
