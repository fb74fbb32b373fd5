"""The lock of a workdir: at most one run writes it.

The owner is a file `lock.N` in the workdir with its host, process and command; a thread renews the
file's time as a sign of life. A lock is stale if its owner was on this machine and is gone, or if
there was no sign of life for `STALE` seconds by the file system's own clock. Who takes a stale
`lock.N` over creates `lock.N+1`, which succeeds for one alone: exclusively on a file system, and on
an object store by generation match.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from data.atomic import is_remote
from data.errors import DataError
from data.read import json_files
from ranges import ConfigError
from train.guards.lock_store import Files, Objects, Store
from train.runtime import outputs, processes, strict_json
from train.terminal import interrupts
from train.terminal.console import console, duration

# Seconds between two signs of life, without one until a lock is stale, between two looks at a lock.
# A bucket that is mounted as a file system shows an old time for up to a minute.
BEAT, STALE, LOOK = 10.0, 90.0, 1.0
MOST_BYTES = 1000  # of a refusal
_WAIT = "wait"


class Owner(TypedDict):
    """The content of a lock file.

    Attributes:
      id: unique. host: its name. machine: identifies what process numbers are unique in. started:
        of the process, in the system's own form. since: time.time() of the start of the run.
    """

    id: str
    host: str
    machine: str
    pid: int
    started: str
    command: str
    since: float


def _machine() -> str:
    """An identifier of this machine since its start and, in a container, of its processes."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # not Linux
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip()]
        parts += [os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """The start of a process of this machine, "" where the system does not say; None if it is
    gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:  # it is another user's
            pass
        return ""
    return None if fields[0] in "ZX" else fields[19]  # a zombie is gone too


def _this_process() -> Owner:
    pid = os.getpid()
    return Owner(
        id=uuid.uuid4().hex,
        host=socket.gethostname(),
        machine=_machine(),
        pid=pid,
        started=_started(pid) or "",
        command=shlex.join(sys.orig_argv)[:1000],
        since=time.time(),
    )


def describe(owner: Owner) -> str:
    """The owner of a lock, for messages."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["since"]))
    return f"process {owner['pid']} on {owner['host']} since {since} ({owner['command']:.200})"


class Lock:
    """The lock of a workdir for this process."""

    def __init__(self, workdir: epath.PathLike):
        self._workdir, self._owner = workdir, _this_process()
        self._store: Store = Objects(workdir) if is_remote(workdir) else Files(workdir)
        self._content = strict_json.dumps(self._owner).encode()
        self._number = 0  # of the lock file; 0 without one
        self._first_seen: dict[str, Any] = {}  # {owner: the sign of life that was seen first}
        self._released, self._at_work = threading.Event(), threading.Lock()

    def take(self) -> str:
        """Tries to take the lock; returns "" if that succeeds, the reason to refuse the workdir, or
        `_WAIT` if it cannot be decided yet."""
        stale: dict[int, Owner | None] = {}
        for number in self._store.numbers():
            owner, modified = self._read(number)
            if modified is None or (verdict := self._verdict(owner, modified)) == _WAIT:
                return _WAIT
            if verdict:
                return verdict
            stale[number] = owner
        number = max(stale, default=0) + 1
        if not self._store.create(number, self._content):
            owner, _ = self._read(number)
            if not owner or owner["id"] != self._owner["id"]:  # it may be, after a repeated request
                return _WAIT
        self._number = number
        # One that started from no lock at all, while this one read a stale lock, is seen here, or
        # sees this one.
        if any(self._read(other)[0] != stale.get(other, self._owner)
               for other in self._store.numbers() if other != number):  # fmt: skip
            self._store.remove(number)
            return _WAIT
        for other, owner in stale.items():
            self._store.remove(other)
            who = describe(owner) if owner else "a process that did not sign"
            console.print(f"{self._workdir} was in use by {who}, which is gone: taken over")
        return ""

    def _read(self, number: int) -> tuple[Owner | None, Any]:
        """(owner, time of its last sign of life); the owner is None where the file is damaged or
        just being written, the time where it is gone."""
        try:
            content, modified = self._store.read(number)
        except FileNotFoundError:
            return None, None
        try:
            return json_files.parse(content, f"lock.{number}", Owner), modified
        except DataError:
            return None, modified

    def _verdict(self, owner: Owner | None, modified: Any) -> str:
        """ "" if a lock is stale, the reason to refuse the workdir, or `_WAIT`."""
        age = self._store.age(modified)
        if owner is None:
            return "" if age >= STALE else _WAIT
        if owner["machine"] == self._owner["machine"]:
            if _started(owner["pid"]) != owner["started"]:
                return ""
            stop = f"kill {owner['pid']}"
        else:
            if age >= STALE:
                return ""
            if self._first_seen.setdefault(owner["id"], modified) == modified:
                return _WAIT
            stop = f"kill {owner['pid']} on {owner['host']}"
        seen = f", whose last sign of life is {duration(age)} old" if age >= STALE else ""
        return (
            f"{self._workdir} is in use by {describe(owner)}{seen}. Wait for its end, or make it "
            f"save and leave ({stop}), or give another --workdir"
        )

    def waits_for(self) -> str:
        """A message about the process whose sign of life is waited for."""
        owners = [owner for n in self._store.numbers() if (owner := self._read(n)[0])]
        who = describe(owners[-1]) if owners else "another process"
        return (
            f"{self._workdir} was in use by {who}; waiting up to {duration(STALE)} for a sign that "
            "it still is"
        )

    def hold(self) -> None:
        """Gives signs of life from now on."""
        processes.before_leaving.append(self.release)
        threading.Thread(target=self._beat, name="lock", daemon=True).start()

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            with self._at_work:
                if self._released.is_set():
                    return
                try:
                    other = self._renew()
                # Whatever a file system or a store raises is counted, and tried again: without this
                # thread nobody would notice a takeover.
                except Exception as error:
                    outputs.failed("lock", error, "its sign of life is given as soon as it can be")
                    continue
            if other:
                interrupts.leave(
                    f"error: {self._workdir} was taken over by {describe(other)}, as there was no "
                    "sign of life of this process for too long; it leaves, and saves nothing more",
                    processes.TAKEN_OVER,
                )

    def _renew(self) -> Owner | None:
        """Gives a sign of life; returns the other owner where there is one."""
        numbers = self._store.numbers()
        owner = self._read(numbers[-1])[0] if numbers else None
        if owner and owner["id"] != self._owner["id"]:
            return owner
        if numbers:
            self._store.renew(self._number, self._content)
        else:  # someone has removed it
            self._store.create(self._number, self._content)
        return None

    def release(self) -> None:
        """Ends the signs of life, and removes the lock file if it is this process's."""
        self._released.set()
        if self.release in processes.before_leaving:
            processes.before_leaving.remove(self.release)
        if not self._number or not self._at_work.acquire(timeout=BEAT):  # a file system may hang
            return
        try:
            owner, _ = self._read(self._number)
            if owner and owner["id"] == self._owner["id"]:
                self._store.remove(self._number)
        except OSError as error:
            outputs.failed("lock", error, "it is stale as soon as this process has ended")
        self._at_work.release()


@contextlib.contextmanager
def owned(workdir: epath.PathLike) -> Iterator[None]:
    """A context in which this run, of one process or several, owns a workdir that exists.

    Raises:
      ConfigError: in all processes, if another run owns it.
    """
    lock, first = Lock(workdir), jax.process_index() == 0
    for look in itertools.count():
        outcome = _from_process_0(_attempt(lock) if first else "")
        if outcome != _WAIT:
            break
        if first and look == 1:  # before that, the file may be just being written
            console.print(lock.waits_for())
        time.sleep(random.uniform(LOOK / 2, LOOK))
    if outcome:
        raise ConfigError(outcome)
    try:
        yield
    finally:
        lock.release()


def _attempt(lock: Lock) -> str:
    """`lock.take`; without a lock file where none can be written."""
    try:
        outcome = lock.take()
        if not outcome:
            lock.hold()
        return outcome
    except OSError as error:
        outputs.failed("lock", error, "another run would not be kept out of the workdir")
        return ""


def _from_process_0(text: str) -> str:
    """The text of process 0, in every process. No collective waits long: all call it again."""
    if jax.process_count() == 1:
        return text
    padded = np.zeros(MOST_BYTES, np.uint8)
    data = text.encode()[:MOST_BYTES]
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    sent = np.asarray(multihost_utils.broadcast_one_to_all(padded), np.uint8)
    return sent.tobytes().rstrip(b"\0").decode(errors="ignore")
