"""A run that follows capacity: where its machines are taken and none come within a limit, it goes
on on machines of another kind or in another zone.

The candidates are in order of preference, which starts again after every loss. At most one has
machines: those of a candidate are gone before the next is asked.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from data.atomic import write_atomically
from tpu.launch import queued
from tpu.launch.commands import QueuedJob
from tpu.launch.gcloud import LOST, Gcloud, LaunchError, StillThere
from tpu.launch.history import FILE, Candidate, History, candidate_of
from tpu.launch.supervise import StopSignal
from train.runtime.processes import PREEMPTED

# Refusals in a row after which a candidate is left out, as of a kind that a zone does not have.
REFUSALS = 3
FIRST_PAUSE, LONGEST_PAUSE = 30.0, 300.0  # seconds, after no candidate had machines


class Place(Protocol):
    """Machines, and the runs on them."""

    def goes_on(self, candidate: Candidate) -> bool:
        """Whether the machines of the last stay are still there, or still coming."""

    def ask(self, candidate: Candidate, since: float) -> bool:
        """Waits for machines, asked for at `since`; returns whether they were there already.

        Raises:
          LaunchError: none came, with code `LOST`; they were refused; or with code `PREEMPTED`,
            termination was requested.
        """

    def run(self, candidate: Candidate, there: bool) -> int:
        """Runs one attempt on machines that are there; returns its exit code."""


class Follower:
    """The attempts of a run that follows capacity.

    Args:
      progress: returns the number of committed steps. rotates: whether a loss goes on to the next
        candidate, rather than to the first.
    """

    def __init__(
        self, place: Place, candidates: Sequence[Candidate], history: History,
        progress: Callable[[], int], say: Callable[[str], None], stop: StopSignal,
        rotates: bool = False,
    ):  # fmt: skip
        self.place, self.candidates, self.history = place, list(candidates), history
        self.progress, self.say, self.stop, self.rotates = progress, say, stop, rotates
        self._refusals: dict[Candidate, int] = {}
        last = history.last
        self._going_on = bool(last and place.goes_on(candidate_of(last)))
        if last and not self._going_on and not last["ended"]:
            history.end("lost while nobody supervised", progress() if last["begun"] else 0)

    def attempt(self) -> int:
        """Asks the candidates until one has machines, and runs one attempt there; returns its exit
        code.

        Raises:
          StillThere: machines of a candidate could not be deleted.
        """
        pause = FIRST_PAUSE
        while order := self._order():
            for candidate in order:
                if self.stop.requested:
                    return PREEMPTED
                try:
                    there = self._ask(candidate)
                except StillThere:  # no other is asked for beside them
                    raise
                except LaunchError as error:
                    self.history.end(str(error))
                    if error.code not in (LOST, PREEMPTED):
                        self.say(f"{candidate}: {error}")
                        self._refusals[candidate] = self._refusals.get(candidate, 0) + 1
                    continue
                return self._run(candidate, there)
            self.say(f"no machines came anywhere; asking again in {pause:g} s")
            self.stop.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)
        self.say("each of these was refused several times")
        return 1

    def _order(self) -> list[Candidate]:
        """The candidates to ask; first that of a stay which goes on."""
        last, first, start = self.history.last, list[Candidate](), 0
        names = [candidate[:2] for candidate in self.candidates]
        if last and (self._going_on or self.rotates):
            here = candidate_of(last)
            if here[:2] in names:
                start = names.index(here[:2])
                here = self.candidates[start]
                start += 1
            first = [here] * self._going_on
        ring = [*first, *self.candidates[start:], *self.candidates[:start]]
        return [c for c in dict.fromkeys(ring) if self._refusals.get(c, 0) < REFUSALS]

    def _ask(self, candidate: Candidate) -> bool:
        """Asks for a candidate's machines, and says so where it is another than the last one."""
        last, going_on, self._going_on = self.history.last, self._going_on, False
        if going_on:
            self.history.reopen(candidate)
        else:
            if last and candidate_of(last)[:2] != candidate[:2]:
                why = f"{candidate_of(last)}: {last['outcome']}"
                self.say(f"moving to {candidate} ({why}); {candidate.summary}")
            self.history.ask(candidate)
        there = self.place.ask(candidate, self.history.stays[-1]["asked"])
        if not self.history.stays[-1]["begun"]:
            self.history.begin(self.progress())
        return there

    def _run(self, candidate: Candidate, there: bool) -> int:
        code = self.place.run(candidate, there)
        outcomes = {0: "done", PREEMPTED: "taken away, saved", LOST: "taken away"}
        outcome = outcomes.get(code, f"ended with {code}")
        if self.stop.requested and code == PREEMPTED:
            outcome = "stopped, saved"
        self.history.end(outcome, self.progress())
        self._refusals.clear()
        return code


class Queued:
    """Machines of queued resources, in several zones.

    Args:
      job: its zone and accelerator are replaced by those of a candidate. patience: seconds to wait
        for machines.
    """

    def __init__(
        self, job: QueuedJob, gcloud: Gcloud, command: list[str], workdir: str,
        say: Callable[[str], None], stop: StopSignal, patience: float,
    ):  # fmt: skip
        self._job, self._gcloud, self._command = job, gcloud, command
        self._workdir, self._say, self._stop, self._patience = workdir, say, stop, patience

    def _job_of(self, candidate: Candidate) -> QueuedJob:
        return self._job._replace(
            zone=candidate.zone, accelerator=candidate.accelerator,
            valid_for=f"{max(1, round(self._patience / 60))}m",
        )  # fmt: skip

    def check_zones(self, zones: Sequence[str], history: History) -> None:
        """Raises LaunchError if machines of this name are in a zone other than that of the last
        stay."""
        known = history.last["zone"] if history.last else ""
        for zone in dict.fromkeys(zones) if not self._gcloud.dry_run else ():
            state, _ = queued.state(self._job._replace(zone=zone), self._gcloud)
            if state and zone != known:
                raise LaunchError(
                    f"{self._job.name} exists in {zone} ({state}), and this run did not ask for "
                    "it; type another --name, or delete it with down"
                )

    def goes_on(self, candidate: Candidate) -> bool:
        job = self._job_of(candidate)
        state, _ = queued.patient_state(job, self._gcloud, self._say, self._stop)
        if state in queued.GONE:
            queued.down(job, self._gcloud, self._say, self._stop)
        return bool(state) and state not in queued.GONE

    def ask(self, candidate: Candidate, since: float) -> bool:
        job, deadline = self._job_of(candidate), since + self._patience
        if not self._gcloud.dry_run:  # a laptop without a network does not exhaust the candidates
            queued.patient_state(job, self._gcloud, self._say, self._stop)
        try:
            return queued.up(job, self._gcloud, self._say, self._stop, deadline)
        except LaunchError as error:
            if error.code == LOST and time.time() > deadline:
                raise LaunchError(f"none came within {self._patience / 60:g} min", LOST) from error
            raise

    def run(self, candidate: Candidate, there: bool) -> int:
        command = [*self._command, *candidate.flags]
        job = self._job_of(candidate)
        return queued.run_once(
            job, self._gcloud, command, self._workdir, self._say, self._stop, there
        )

    def open_history(self) -> History:
        """The history of the run in the bucket."""
        path = f"{self._workdir}/{FILE}"

        def write(text: str) -> None:
            while True:
                try:
                    self._gcloud(["gcloud", "storage", "cp", "-", path], text.encode())
                    return
                except LaunchError as error:
                    if self._stop.requested:
                        raise
                    self._say(f"{error}; writing {path} again in 30 s")
                    self._stop.sleep(30)

        return History("" if self._gcloud.dry_run else self._read(path), write, path)

    def _read(self, path: str) -> str:
        try:
            return self._gcloud(["gcloud", "storage", "cat", path])
        except LaunchError as error:
            if "matched no objects" in str(error):
                return ""
            raise


class Loopback:
    """Processes on this machine, whose devices are never taken away but by a signal.

    Args:
      run: (number of devices of a process, flags) -> the exit code of the processes.
    """

    def __init__(self, run: Callable[[int, Sequence[str]], int], processes: int):
        self._run, self._processes = run, processes

    def goes_on(self, candidate: Candidate) -> bool:
        return False

    def ask(self, candidate: Candidate, since: float) -> bool:
        return False

    def run(self, candidate: Candidate, there: bool) -> int:
        devices = int(candidate.accelerator.split()[0]) // self._processes
        return self._run(devices, candidate.flags)


def open_local(workdir: str) -> History:
    """The history of a run on this machine."""
    path = Path(workdir) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text() if path.exists() else ""
    return History(text, functools.partial(write_atomically, path), str(path))
