"""Taps: the places of a forward pass that can be looked at and changed, by name.

The network calls `tap(name, x)` where a value may be of interest. Outside of `watching` it is the
identity, so that what is compiled has no trace of it. Within it layers run one by one, outside of
scans and rematerialisation, which a value could not leave, with an attention that computes its
weights as an array. The names are those of docs/inspect.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeAlias

from jax import Array

# (name, value) -> the value to go on with, of the same shape and dtype.
Visit: TypeAlias = Callable[[str, Array], Array]

_visit: ContextVar[Visit | None] = ContextVar("visit", default=None)
_prefix: ContextVar[str] = ContextVar("prefix", default="")


def tap(name: str, x: Array) -> Array:
    """x, or what the visitor of `watching` returns for it."""
    visit = _visit.get()
    return x if visit is None else visit(_prefix.get() + name, x)


def active() -> bool:
    """Whether a visitor watches."""
    return _visit.get() is not None


@contextlib.contextmanager
def watching(visit: Visit) -> Iterator[None]:
    """Calls `visit` at every tap of the forward passes in this context."""
    token = _visit.set(visit)
    try:
        yield
    finally:
        _visit.reset(token)


@contextlib.contextmanager
def scope(name: str) -> Iterator[None]:
    """Puts `name.` before the names of the taps in this context."""
    token = _prefix.set(f"{_prefix.get()}{name}.")
    try:
        yield
    finally:
        _prefix.reset(token)
