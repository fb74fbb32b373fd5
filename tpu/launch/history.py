"""The history of a run that follows capacity, in its workdir's `capacity.json`: on which machines
it ran, when, and which steps it took there.

A stay is written before its machines are asked for, so that a supervisor that was killed at any
moment finds those that may exist.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, TypedDict

from data.read import json_files
from train.runtime import strict_json
from train.terminal.console import duration

FILE = "capacity.json"


class Candidate(NamedTuple):
    """A kind of machines and a place for them.

    Attributes:
      accelerator: as `v5e-16`, or a number of devices of this machine. zone: "" on this machine.
      flags: settings of the run on them. summary: the same for people.
    """

    accelerator: str
    zone: str
    flags: tuple[str, ...] = ()
    summary: str = ""

    def __str__(self) -> str:
        return f"{self.accelerator} in {self.zone}" if self.zone else self.accelerator


class Stay(TypedDict):
    """An entry of the history.

    Attributes:
      flags, summary: as of its candidate.
      asked, begun, ended: time.time(); 0 for what has not happened: without `begun` no machines
        came.
      first_step, last_step: the steps that were saved when it began and when it ended.
      outcome: "" of one that has not ended.
    """

    accelerator: str
    zone: str
    flags: list[str]
    summary: str
    asked: float
    begun: float
    ended: float
    first_step: int
    last_step: int
    outcome: str


class File(TypedDict):
    stays: list[Stay]


class History:
    """The stays of a run.

    Args:
      text: the content of the file; "" without one. write: replaces its content.

    Raises:
      DataError: the file is damaged.
    """

    def __init__(self, text: str, write: Callable[[str], None], name: str = FILE):
        remedy = "It says which machines may exist: delete those (down), then the file"
        self.stays = json_files.parse(text, name, File, remedy)["stays"] if text else []
        self._write = write

    @property
    def last(self) -> Stay | None:
        return self.stays[-1] if self.stays else None

    def ask(self, candidate: Candidate) -> None:
        """Notes that machines are about to be asked for."""
        self.stays.append(
            Stay(
                accelerator=candidate.accelerator, zone=candidate.zone,
                flags=list(candidate.flags), summary=candidate.summary, asked=time.time(),
                begun=0.0, ended=0.0, first_step=0, last_step=0, outcome="",
            )
        )  # fmt: skip
        self._save()

    def begin(self, step: int) -> None:
        """Notes that the machines of the last stay are there, where `step` is saved."""
        self.stays[-1].update(begun=time.time(), first_step=step, last_step=step)
        self._save()

    def reopen(self, candidate: Candidate) -> None:
        """Notes that the last stay goes on."""
        flags, summary = list(candidate.flags), candidate.summary
        self.stays[-1].update(ended=0.0, outcome="", flags=flags, summary=summary)
        self._save()

    def end(self, outcome: str, step: int = 0) -> None:
        """Notes that the last stay has ended, where `step` is saved."""
        stay = self.stays[-1]
        stay.update(ended=time.time(), outcome=outcome, last_step=max(step, stay["last_step"]))
        self._save()

    def _save(self) -> None:
        self._write(strict_json.dumps({"stays": self.stays}, indent=1) + "\n")

    def table(self) -> list[str]:
        """Lines for the terminal: the stays on machines, and the time without any."""
        ran = [stay for stay in self.stays if stay["begun"]]
        waits = [stay for stay in self.stays if not stay["begun"] and stay["ended"]]
        rows = [
            (
                str(candidate_of(stay)),
                f"steps {stay['first_step']:,} to {stay['last_step']:,}",
                duration((stay["ended"] or time.time()) - stay["begun"]),
                stay["outcome"] or "at work",
            )
            for stay in ran
        ]
        widths = [max(len(row[n]) for row in rows) for n in range(3)] if rows else []
        lines = [
            "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]])
            for row in rows
        ]
        if waits:
            seconds = duration(sum(stay["ended"] - stay["asked"] for stay in waits))
            times = "once" if len(waits) == 1 else f"{len(waits)} times"
            lines.append(f"no machines came {times}, in {seconds}")
        return lines


def candidate_of(stay: Stay) -> Candidate:
    """The candidate of a stay."""
    return Candidate(stay["accelerator"], stay["zone"], tuple(stay["flags"]), stay["summary"])
