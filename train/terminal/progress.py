"""The progress of a piece of work: a live line on a terminal, else a line now and then.

The work names its present phase (`reading …`, `compiling …`) through the function `phase`, from
wherever it is: a process has one terminal, as it has one console.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from rich.cells import cell_len, set_cell_size
from rich.live import Live
from rich.text import Text

from printable import escaped
from train.terminal.console import SEPARATOR, columns, console, duration, is_live, lines_of

EVERY = 10.0  # seconds between two lines without a terminal
LONG = 2.0  # seconds from which on the end of a phase is a line too
BAR, SHORTEST_NAME = 10, 8  # columns


def layout(
    width: int, name: str, done: int, total: int, parts: Sequence[str], phase: str = "",
    left: str = "",
) -> Text:  # fmt: skip
    """`name ━━━━ done/total phase · parts · left`, in at most `width` columns.

    The name is shortened first; then `parts` are left out, the last first; then the bar; the phase
    is shortened last. The time left and the count are always whole.
    """

    def end(phase: str, shown: int) -> str:
        texts = SEPARATOR.join(filter(None, (phase, *parts[:shown], left)))
        return " ".join(filter(None, (f"{done}/{total}" if total else "", texts)))

    least = min(SHORTEST_NAME, cell_len(name))
    for shown in range(len(parts), -1, -1):
        text = end(phase, shown)
        room = width - cell_len(text) - BAR - 2
        if total and room >= least:
            return _line(_shortened(name, room), BAR, done / total, text)
    room = width - cell_len(end(phase, 0)) - 1 - least
    if room < 0 and phase:
        phase = _shortened(phase, max(cell_len(phase) + room, 1))
    text = end(phase, 0)
    return _line(_shortened(name, max(width - cell_len(text) - 1, 1)), 0, 0.0, text)


def _one_line(text: str) -> str:
    return " ".join(escaped(text).split())


def _shortened(text: str, room: int) -> str:
    return text if cell_len(text) <= room else set_cell_size(text, max(room - 1, 0)) + "…"


def _line(name: str, bar: int, share: float, end: str) -> Text:
    filled = min(int(share * bar), bar)
    line = Text(name, style="bold", no_wrap=True, overflow="crop", end="")
    if bar:
        line.append(" ").append("━" * filled, "not bold bar.complete")
        line.append("━" * (bar - filled), "not bold bar.back")
    return line.append(f" {end}", "not bold")


class Progress:
    """A context in which the progress of a piece of work is shown.

    Args:
      name: of the work. total: number of its steps, 0 if it has none. done: number that is done at
        the start. writes: whether this process shows anything.
    """

    def __init__(self, name: str, total: int = 0, done: int = 0, writes: bool = True):
        self.name, self.total, self.done, self.writes = _one_line(name), total, done, writes
        self._parts: Sequence[str] = ()
        self._left, self._phases = "", list[Phase]()
        self._live: Live | None = None
        self._printed = -EVERY  # the time of the last line
        self._named: set[str] = set()  # phases that there were

    def __enter__(self) -> Progress:
        _shown.append(self)
        if self.writes and is_live():
            self._live = Live(get_renderable=self.line, console=console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *error) -> None:
        _shown.remove(self)
        self.stop()

    def stop(self) -> None:
        """Ends the live line, which stays if it has metrics."""
        live, self._live = self._live, None  # the thread of Ctrl-C may call this too
        if live:
            live.transient = not self._parts
            live.stop()

    def line(self) -> Text:
        """The live line."""
        phase = "".join(phase.text() for phase in self._phases[-1:])
        return layout(columns(), self.name, self.done, self.total, self._parts, phase, self._left)

    def update(self, done: int, parts: Sequence[str] = (), seconds: float | None = None) -> None:
        """Shows that `done` steps are done.

        Args:
          parts: metrics, the most important first. seconds: the time left, if it is known.
        """
        self.done, self._parts = done, parts
        self._left = "" if seconds is None or done == self.total else f"{duration(seconds)} left"
        now = time.monotonic()
        if self._live or not self.writes:
            return
        if now - self._printed >= EVERY or done == self.total:
            self._printed = now
            texts = SEPARATOR.join(filter(None, (*parts, self._left)))
            console.print(f"{self.name} {done}/{self.total} {texts}".rstrip())

    def say(self, *parts: str) -> None:
        """Prints a message, in lines that are broken between its parts where the terminal is too
        narrow."""
        if self.writes:
            for line in lines_of(parts, columns()):
                console.print(line)

    @contextlib.contextmanager
    def phase(self, name: str, total: int) -> Iterator[Phase]:
        """The function `phase`."""
        name = _one_line(name)
        if self._phases and self._phases[-1].name == name:  # a part of it that counts
            self._phases[-1].total = total
            yield self._phases[-1]
            return
        phase = Phase(self, name, total)
        first = name not in self._named
        self._named.add(name)
        if first:
            self.note(f"{name} …")
        self._phases.append(phase)
        try:
            yield phase
        finally:
            self._phases.remove(phase)
            seconds = time.monotonic() - phase.begun
            if seconds >= (LONG if first else EVERY):
                self.note(f"{name} took {duration(seconds)}")

    def command(self, line: str) -> None:
        """Prints a line with a command, which no line break of ours spoils."""
        if self.writes:
            console.print(line)

    def note(self, text: str) -> None:
        """Prints a line about a phase where there is no live line."""
        if self.writes and not self._live:
            console.print(f"{self.name}: {text}")


class Phase:
    """A phase of a `Progress`.

    Args:
      total: number of its parts, 0 if it has none.
    """

    def __init__(self, progress: Progress, name: str, total: int):
        self.name, self.total, self.begun = name, total, time.monotonic()
        self._progress, self._done, self._noted = progress, 0, self.begun

    def count(self, done: int) -> None:
        """Shows that `done` of its parts are done."""
        self._done, now = done, time.monotonic()
        if now - self._noted >= EVERY and done < self.total:
            self._noted = now
            self._progress.note(self._text())

    def _text(self) -> str:
        return f"{self.name} " + (f"{self._done}/{self.total}" if self.total else "…")

    def text(self) -> str:
        """The phase in the live line."""
        seconds = time.monotonic() - self.begun
        return self._text() + (f" {duration(seconds)}" if seconds >= LONG else "")


class Silent:
    """A phase that is not shown."""

    def count(self, done: int) -> None:
        pass


_shown: list[Progress] = []  # the innermost last


@contextlib.contextmanager
def phase(name: str, total: int = 0) -> Iterator[Phase | Silent]:
    """A context in which the innermost `Progress` that is shown, if there is one, names a phase.

    Args:
      total: number of parts that its `count` counts.
    """
    if not _shown:
        yield Silent()
        return
    with _shown[-1].phase(name, total) as shown:
        yield shown


def current() -> str:
    """The innermost phase that is shown, or ""."""
    return next((phase.name for shown in reversed(_shown) for phase in shown._phases[::-1]), "")


def stop_all() -> None:
    """Ends all live lines, before the process is left."""
    for progress in reversed(_shown):
        progress.stop()
