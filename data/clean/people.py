"""Names and addresses of people in texts, for redaction: by the libraries spaCy and pyap2, and by
the names that an export gives.

A pipeline of spaCy finds many names and misses some, mostly first names alone. Addresses are postal
ones of the United States, Canada and Great Britain.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from data.errors import DataError

MODEL = "en_core_web_sm"  # a pipeline of spaCy
_PERSON = ("PERSON", "PER")
_COUNTRIES: tuple[Literal["US", "CA", "GB"], ...] = ("US", "CA", "GB")
_NO_SPACES = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]")  # Thai, Lao, kana, Han

Spans = list[tuple[int, int]]


def known_names(text: str, people: Sequence[str]) -> Spans:
    """The places of the names in `people`, and of their parts."""
    pattern = _pattern(tuple(people))
    return [match.span() for match in pattern.finditer(text)] if pattern else []


@functools.lru_cache(maxsize=64)
def _pattern(people: tuple[str, ...]) -> re.Pattern | None:
    parts = {part for name in people for part in (name, *re.split(r"[\s,.]+", name))}
    words = [
        part for part in parts if len(part) > 1 and part[0].isalpha() and not part[0].islower()
    ]
    words.sort(key=lambda word: (-len(word), word))
    return re.compile("|".join(map(_alone, words))) if words else None


def _alone(word: str) -> str:
    """A pattern of a word; not within a longer one, in scripts with spaces between words."""
    name = re.escape(word)
    return name if _NO_SPACES.match(word) else rf"(?<!\w){name}(?!\w)"


def found_names(text: str, model: str) -> Spans:
    """The places of names of people that a pipeline finds.

    Raises:
      DataError: spaCy or the pipeline is not installed.
    """
    pipeline = _pipeline(model)
    pipeline.max_length = max(pipeline.max_length, len(text) + 1)
    entities = pipeline(text).ents
    return [(e.start_char, e.end_char) for e in entities if e.label_ in _PERSON]


@functools.lru_cache(maxsize=2)
def _pipeline(model: str) -> Any:
    try:
        import spacy
    except ImportError as error:
        raise DataError(
            "data.redact=name needs spaCy: pip install 'seedpod[names]', then "
            f"python -m spacy download {model}"
        ) from error
    try:
        pipeline = spacy.load(model, exclude=["parser", "lemmatizer", "tagger", "attribute_ruler"])
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"data.redact_model={model!r:.80} cannot be loaded ({reason:.200}). Type: python -m "
            f"spacy download {model}, or name a folder that spaCy saved"
        ) from error
    if not {"ner", "entity_ruler", "span_ruler"} & set(pipeline.pipe_names):
        raise DataError(
            f"data.redact_model={model!r:.80} finds no names: it has "
            f"{', '.join(pipeline.pipe_names) or 'no parts'}, and no ner"
        )
    return pipeline


def addresses(text: str) -> Spans:
    """The places of postal addresses.

    Raises:
      DataError: pyap2 is not installed.
    """
    try:
        import pyap
    except ImportError as error:
        raise DataError("data.redact=address needs pyap2: pip install 'seedpod[names]'") from error
    if not re.search(r"\d", text):
        return []
    found = [address for country in _COUNTRIES for address in pyap.parse(text, country=country)]
    return [(address.match_start, address.match_end) for address in found]


def replace(text: str, spans: Iterable[tuple[int, int]], word: str) -> tuple[str, int]:
    """(the text with `word` in place of the spans, their number). Spans that overlap an earlier
    one, or a word in brackets that redaction put there, are passed over."""
    pieces, end, count = [], 0, 0
    for start, stop in sorted(spans):
        inner = text[start:stop]
        start += len(inner) - len(inner.lstrip())
        stop -= len(inner) - len(inner.rstrip())
        if start < end or stop <= start or "[" in inner or "]" in inner:
            continue
        pieces += [text[end:start], word]
        end, count = stop, count + 1
    return "".join([*pieces, text[end:]]), count
