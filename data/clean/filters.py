"""Quality filters, by their names in `data.filters`. A new one is a function and a row.

Each measures a document's text as one number, and compares it with a limit.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping

from data.schemas.templates import one_of


def repetition(text: str) -> float:
    """The share of a text's runs of three words that occur earlier in it; 0 under three words."""
    words = text.split()
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def symbols(text: str) -> float:
    """The share of symbols among the characters other than white space: those that are no letters,
    marks (vowel signs, accents) or numbers of any script."""
    categories = [unicodedata.category(c)[0] for c in text if not c.isspace()]
    return sum(c not in "LMN" for c in categories) / len(categories) if categories else 0.0


FILTERS = {  # name: (measure, whether a text of that measure is kept)
    "min_length": (len, lambda value, limit: value >= limit),
    "max_length": (len, lambda value, limit: value <= limit),
    "max_repetition": (repetition, lambda value, limit: value <= limit),
    "max_symbols": (symbols, lambda value, limit: value <= limit),
}


def check_limits(limits: Mapping[str, float]) -> None:
    """Raises DataError for an unknown filter."""
    for name in limits:
        one_of("filter of data.filters", name, FILTERS)


def apply(examples: list[dict], limits: Mapping[str, float], skipped: Counter) -> list[dict]:
    """The examples that pass every filter. Each other counts in `skipped` as `filter_NAME`, for the
    first filter that it fails. The messages of a conversation are measured as one text, and so are
    those of a ranking's prompt."""
    kept = []
    for example in examples:
        text = example.get("text") or "\n".join(m["content"] for m in example["messages"])
        for name, limit in limits.items():
            measure, passes = FILTERS[name]
            if not passes(measure(text), limit):
                skipped[f"filter_{name}"] += 1
                break
        else:
            kept.append(example)
    return kept
