"""Words, as near duplicates and decontamination compare texts.

Case, white space and punctuation are ignored, and text is compared in Unicode's NFC, so it makes no
difference whether an accent is a character of its own.

- A word is letters, digits and underscores with their combining marks: the vowel signs of
  Devanagari or Arabic belong to it. A number keeps its decimal point: 3.5 is one word.
- Operators, other mathematical symbols and emoji are words: `3+4`, `3-4` and `3*4` differ. Hyphens
  and slashes between longer words (well-known, and/or), dashes, bullets and **emphasis** are
  punctuation, and so are signs of currency, as $ also opens a formula.
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
    """The inside of a regular expression's [] for Unicode's general categories."""
    # No letter, mark or symbol is beyond, but for variation selectors.
    found = [i for i in range(0x323B0) if unicodedata.category(chr(i)) in kinds]
    starts = sorted({*found} - {i + 1 for i in found})
    stops = sorted({*found} - {i - 1 for i in found})
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
        # Beside a number, a bracket or a letter that stands alone: 3-4, -5, x / y.
        | (?: (?<=[\d)\]}}]) | (?<=[\d)\]}}][^\S\n]) | (?<=\b\w) | (?<=\b\w[^\S\n]) ) [-/]+
        | [-/]+ (?= [^\S\n]? (?: [\d([{{] | \w\b ) )
        """,
        re.VERBOSE,
    )


def words_of(text: str) -> list[str]:
    """The words of a text, in order."""
    return _word().findall(unicodedata.normalize("NFC", text.lower()))


def runs(words: Sequence[str], n: int) -> Iterator[str]:
    """All runs of n words; none of a shorter text."""
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
