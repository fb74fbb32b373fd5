"""Text of others made safe for a terminal: data, answers, file names, error messages.

This file imports nothing of Seedpod, so that model/, data/ and train/ can all use it.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from rich.console import Console

# Characters that change the direction of the text after them.
_DIRECTIONS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}
_HIDDEN = ("Cc", "Cs", "Zl", "Zp")  # controls, surrogates, line and paragraph separators


def escaped(text: str) -> str:
    """Text whose control characters, other than line breaks and tabs, are written as `\\x1b`: the
    text of a model or a file must not move the cursor, nor hide what is beside it."""

    def escape(c: str) -> str:
        hidden = unicodedata.category(c) in _HIDDEN and c not in "\n\t"
        return repr(c)[1:-1] if hidden or ord(c) in _DIRECTIONS else c

    return text if text.isascii() and text.isprintable() else "".join(map(escape, text))


class SafeConsole(Console):
    """A console whose strings are escaped; brackets in them are text, unless `markup` is given."""

    def __init__(self, **options: Any):
        super().__init__(highlight=False, soft_wrap=True, markup=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(escaped(x) if isinstance(x, str) else x for x in objects), **options)
