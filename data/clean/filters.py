"""Quality filters: what `data.filters` names. A new one is a function and a row.

Each measures a document's text as one number, and a limit says which numbers stay.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping

from data.read.templates import one_of


def repetition(text: str) -> float:
    """The share of a text's runs of three words that stood in it before; 0 under three words."""
    words = text.split()
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def symbols(text: str) -> float:
    """The share of symbols: of the characters other than white space, those that are in no
    script's letters, marks (vowel signs, accents) or numbers."""
    categories = [unicodedata.category(c)[0] for c in text if not c.isspace()]
    return sum(c not in "LMN" for c in categories) / len(categories) if categories else 0.0


FILTERS = {  # name: (measure, whether the number stays under the limit)
    "min_length": (len, lambda value, limit: value >= limit),
    "max_length": (len, lambda value, limit: value <= limit),
    "max_repetition": (repetition, lambda value, limit: value <= limit),
    "max_symbols": (symbols, lambda value, limit: value <= limit),
}


def check(limits: Mapping[str, float]) -> None:
    """Raises DataError for a filter that there is not."""
    for name in limits:
        one_of("filter of data.filters", name, FILTERS)


def apply(examples: list[dict], limits: Mapping[str, float], skipped: Counter) -> list[dict]:
    """The examples that pass every filter. The others count in `skipped` as `filter_NAME`, by the
    first that they fail. Of a conversation all messages are measured as one text, of a ranking
    those of its prompt."""
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
