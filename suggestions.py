"""Suggestions for a misspelled name: the nearest known one, and the words that offer it.

This file imports nothing of Seedpod, so that model/, data/ and train/ can all use it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The name among `known` that is spelled most like `name`, or "".

    Args:
      cutoff: least similarity (`difflib`'s ratio), from 0, which always names one, to 1, equality.
    """
    return next(iter(difflib.get_close_matches(name, list(known), 1, cutoff)), "")


def did_you_mean(*names: str) -> str:
    """`; did you mean A or B?`, the end of an error message; "" if no name is given."""
    names = tuple(filter(None, names))
    return f"; did you mean {' or '.join(names)}?" if names else ""
