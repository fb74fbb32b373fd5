"""Tracked text: a str that records which of its characters come from which message.

A chat template cuts, trims and joins the text of messages. `Tracked` behaves as any str to a
template, and its methods propagate the spans that come from messages; so the rendered text is
unchanged, and the origin of each of its characters is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, SupportsIndex

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;"}


class Source(NamedTuple):
    """The origin of characters: a field of the message with this index."""

    message: int
    field: str


class Tracked(str):
    """Text with [(start, end, Source)] of the parts with a known origin. Spans may overlap; an
    empty span marks the place of an empty text. Names that the sandbox must hide from templates
    begin with _."""

    __slots__ = ("_spans",)
    _spans: tuple[tuple[int, int, Source], ...]

    def __new__(cls, text: str, spans=()):
        self = super().__new__(cls, text)
        self._spans = tuple(spans)
        return self

    def __str__(self):
        return self

    def _cut(self, start: int, end: int) -> Tracked:
        end, kept = max(start, end), []
        for a, b, source in self._spans:
            low, high = max(a, start), min(b, end)
            if low < high or (low == high and (a == b or start == end)):
                kept.append((low - start, high - start, source))
        return type(self)(super().__getitem__(slice(start, end)), kept)

    def _located(self, pieces, sep: str | None):
        """Pieces of this text, separated by `sep` or by white space (None), tracked."""
        tracked, at = [], 0
        for piece in pieces:
            at = self.find(piece, at) if sep is None else at
            tracked.append(self._cut(at, at + len(piece)))
            at += len(piece) + len(sep or "")
        return tracked

    def _like(self, text: str) -> Tracked:
        """A text made from this one, tracked: by character if the length is the same, else as a
        whole."""
        return Tracked(text, self._spans) if len(text) == len(self) else smear(text, sources(self))

    def __getitem__(self, key):
        if not isinstance(key, slice):
            at = range(len(self))[key]
            return self._cut(at, at + 1)
        start, end, step = key.indices(len(self))
        if step == 1:
            return self._cut(start, end)
        return concat(self._cut(i, i + 1) for i in range(start, end, step))

    def __iter__(self):
        return (self._cut(i, i + 1) for i in range(len(self)))

    def __add__(self, other):
        return concat([self, other]) if isinstance(other, str) else NotImplemented

    def __radd__(self, other):
        return concat([other, self]) if isinstance(other, str) else NotImplemented

    def __mul__(self, count):
        whole = concat([self] * count)
        return type(self)(whole, whole._spans)

    __rmul__ = __mul__

    def strip(self, chars: str | None = None) -> Tracked:
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None) -> Tracked:
        return self._cut(len(self) - len(super().lstrip(chars)), len(self))

    def rstrip(self, chars: str | None = None) -> Tracked:
        return self._cut(0, len(super().rstrip(chars)))

    def removeprefix(self, prefix: str) -> Tracked:
        return self._cut(len(self) - len(super().removeprefix(prefix)), len(self))

    def removesuffix(self, suffix: str) -> Tracked:
        return self._cut(0, len(super().removesuffix(suffix)))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list:
        return self._located(super().split(sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list:
        return self._located(super().rsplit(sep, maxsplit), sep)

    def partition(self, sep: str) -> tuple:
        return tuple(self._located(super().partition(sep), ""))

    def rpartition(self, sep: str) -> tuple:
        return tuple(self._located(super().rpartition(sep), ""))

    def splitlines(self, keepends: bool = False) -> list:
        lines = self._located(super().splitlines(True), "")
        return lines if keepends else [x._cut(0, len("".join(str.splitlines(x)))) for x in lines]

    def join(self, items: Iterable) -> Tracked:
        parts = []
        for item in items:
            if not isinstance(item, str):
                raise TypeError(f"expected text to join, not {type(item).__name__}")
            parts += [self, item]
        return concat(parts[1:])

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> Tracked:
        if not old:
            return smear(super().replace(old, new, count), sources(self) | sources(new))
        if not self._spans and not sources(new):
            return Tracked(super().replace(old, new, count))
        return Tracked.join(as_tracked(new), self.split(old, count))

    def upper(self) -> Tracked:
        return self._like(super().upper())

    def lower(self) -> Tracked:
        return self._like(super().lower())

    def capitalize(self) -> Tracked:
        return self._like(super().capitalize())

    def casefold(self) -> Tracked:
        return self._like(super().casefold())

    def swapcase(self) -> Tracked:
        return self._like(super().swapcase())

    def title(self) -> Tracked:
        return self._like(super().title())

    def center(self, *args) -> Tracked:
        return self._like(super().center(*args))

    def ljust(self, *args) -> Tracked:
        return self._like(super().ljust(*args))

    def rjust(self, *args) -> Tracked:
        return self._like(super().rjust(*args))

    def zfill(self, *args) -> Tracked:
        return self._like(super().zfill(*args))

    def expandtabs(self, *args, **kwargs) -> Tracked:
        return self._like(super().expandtabs(*args, **kwargs))


class Safe(Tracked):
    """Text that a template declared safe HTML. Text joined to it with `+` is escaped, as Jinja does
    even with autoescaping off."""

    __slots__ = ()

    def __add__(self, other):
        return Safe.of(concat([self, escaped(other)])) if isinstance(other, str) else NotImplemented

    def __radd__(self, other):
        return Safe.of(concat([escaped(other), self])) if isinstance(other, str) else NotImplemented

    @staticmethod
    def of(text: str) -> Safe:
        return Safe(text, as_tracked(text)._spans)


def escaped(text: str) -> Safe:
    """Text with the characters of HTML markup escaped."""
    if not isinstance(text, Safe):
        text = as_tracked(text)
        for sign, entity in _ENTITIES.items():
            text = text.replace(sign, entity)
    return Safe.of(text)


def as_tracked(text: str) -> Tracked:
    return text if isinstance(text, Tracked) else Tracked(text)


def sources(text: str) -> set[Source]:
    """The origins of a text."""
    return {source for _, _, source in text._spans} if isinstance(text, Tracked) else set()


def smear(text: str, origins: Iterable[Source]) -> Tracked:
    """A text that as a whole comes from all of `origins`, for lack of exact spans."""
    return Tracked(text, [(0, len(text), source) for source in sorted(origins)])


def concat(parts: Iterable[str]) -> Tracked:
    """The parts joined, with their spans."""
    parts = list(parts)
    spans, at = [], 0
    for part in parts:
        if isinstance(part, Tracked):
            for a, b, source in part._spans:
                a, b = a + at, b + at
                if spans and spans[-1][1:] == (a, source):  # continues the last span
                    a = spans.pop()[0]
                spans.append((a, b, source))
        at += len(part)
    return Tracked("".join(parts), spans)


def track(value: Any, source: Source) -> Any:
    """A JSON value with every text tracked as coming from `source`."""
    if isinstance(value, str):
        return Tracked(value, [(0, len(value), source)])
    if isinstance(value, dict):
        return {track(k, source): track(v, source) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [track(item, source) for item in value]
    return value
