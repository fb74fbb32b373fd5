"""Words, the units in which near duplicates and decontamination compare texts.

Case, white space and punctuation are ignored, and text is compared in Unicode's NFC, so that a
composed and a decomposed accent are the same.

- A word is letters, digits and underscores with their combining marks: the vowel signs of
  Devanagari or Arabic belong to it. A number includes its decimal point: 3.5 is one word.
- Operators, other mathematical symbols and emoji are words: `3+4`, `3-4` and `3*4` differ. Hyphens
  and slashes between longer words (well-known, and/or), dashes, bullets and **emphasis** are
  punctuation, and so are currency signs, because $ also opens a formula.
- In scripts without spaces every character with its marks is a word. In Thai, Lao, Khmer and
  Burmese, whose words are longer, two characters count as one word (`runs`).
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence

_SYLLABIC = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\ua9e0-\uaa7f"
_IDEOGRAPHIC = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00016fe0-\U00018dff\U0001aff0-\U0001b2ff\U00020000-\U000323af"
)
_IS_SYLLABIC = re.compile(f"[{_SYLLABIC}]")


def _class(*kinds: str) -> str:
    """The content of a regular expression's [] for Unicode's general categories."""
    # Beyond this code point there are no letters, marks or symbols except variation selectors.
    points = [i for i in range(0x323B0) if unicodedata.category(chr(i)) in kinds]
    starts = sorted({*points} - {i + 1 for i in points})
    stops = sorted({*points} - {i - 1 for i in points})
    return "".join(f"\\U{a:08x}-\\U{b:08x}" for a, b in zip(starts, stops, strict=True))


@functools.cache
def _word() -> re.Pattern:
    marks = _class("Mn", "Mc", "Me") + "\u200c\u200d\U000e0100-\U000e01ef"  # joiners, selectors
    unspaced, symbols = _SYLLABIC + _IDEOGRAPHIC, _class("Sm", "So") + "^%"
    return re.compile(
        rf"""
        (?=\w)[{unspaced}][{marks}]*
        | [^\W{unspaced}] (?: [^\W{unspaced}] | [{marks}] | (?<=\d)[.,:](?=\d) )*
        | != | [{symbols}]+
        | (?<=[\w)\]}}])\*+(?=[\w([{{]) | (?<=[\w)\]}}][^\S\n])\*+(?=\s)   # 3*4, 3 * 4
        # Next to a number, a bracket or a single letter: 3-4, -5, x / y.
        | (?: (?<=[\d)\]}}]) | (?<=[\d)\]}}][^\S\n]) | (?<=\b\w) | (?<=\b\w[^\S\n]) ) [-/]+
        | [-/]+ (?= [^\S\n]? (?: [\d([{{] | \w\b ) )
        """,
        re.VERBOSE,
    )


def words_of(text: str) -> list[str]:
    """The words of a text, in order."""
    return _word().findall(unicodedata.normalize("NFC", text.lower()))


def runs(words: Sequence[str], n: int) -> Iterator[str]:
    """Yields every run of n words; none for a shorter text."""
    sizes = [1 if _IS_SYLLABIC.match(word) else 2 for word in words]
    end = size = 0
    for start in range(len(words)):
        while size < 2 * n and end < len(words):
            size += sizes[end]
            end += 1
        if size < 2 * n:
            return
        yield " ".join(words[start:end])
        size -= sizes[start]
