"""Limits on what rendering a chat template may take: steps, processor time, and size of values."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import jinja2

# A template takes a few hundred steps a message. This many take about a second; some more are
# allowed for each character of the messages.
STEPS = 1_000_000
SECONDS = 20.0
# The most characters of a text, or items of a list; some more for each character of the messages.
SIZE = 4_000_000
CHARACTERS_A_STEP = 16
# The largest width, count or repetition that a filter or a method of text may be given.
MAX_COUNT = 100_000


class TooMuch(jinja2.TemplateRuntimeError):
    """A template takes more time or memory than a conversation can need."""


class Budget:
    """The budget of the current rendering. Every method may raise TooMuch."""

    def __init__(self):
        self.begin(0)

    def begin(self, size: int) -> None:
        """Begins a rendering of messages of `size` characters."""
        self._steps = STEPS + 8 * size
        self._max_size = SIZE + 8 * size
        self._next_check = self._steps
        self._deadline = time.thread_time() + SECONDS

    def spend(self, steps: int) -> None:
        """Takes steps; the clock is read every hundred."""
        self._steps -= steps
        if self._steps <= self._next_check:
            self._next_check = self._steps - 100
            if self._steps <= 0 or time.thread_time() > self._deadline:
                raise TooMuch("it takes too many steps: its loops or calls may have no end")

    def spend_text(self, size: int) -> None:
        """Takes the steps of a text of `size` characters, or of a list of so many items; raises
        TooMuch if it is too large."""
        if size > self._max_size:
            raise TooMuch(f"it makes a text or list of more than {self._max_size:,} characters")
        self.spend(1 + size // CHARACTERS_A_STEP)

    def charge(self, value: Any) -> Any:
        """Takes the steps of a value that was made; returns it, an iterator as one that counts."""
        if isinstance(value, str | list | tuple | dict):
            self.spend_text(len(value))
            self.spend(0 if isinstance(value, str) else len(value))
        elif isinstance(value, Iterator):
            return self.counted(value)
        return value

    def counted(self, items: Iterable) -> Iterator:
        """Yields the items, taking a step for each."""
        for item in items:
            self.spend(1)
            yield item

    @staticmethod
    def check_counts(values: Iterable) -> None:
        """Raises TooMuch if one of the values is an integer beyond MAX_COUNT."""
        for value in values:
            if isinstance(value, int) and abs(value) > MAX_COUNT:
                raise TooMuch(f"it asks for {value:,} of something at once")
