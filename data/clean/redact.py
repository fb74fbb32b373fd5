"""Redaction: personal data in texts is replaced by its kind, such as `[EMAIL]`. The kinds are those
that `data.redact` names; a new one is a function and a row.

Patterns match forms: a number that happens to look like a phone number is replaced. Card and
account numbers are replaced only if their check digits are valid. Names and postal addresses are
found by libraries (data/clean/people.py), and the names of the people of a conversation are those
that its export gives.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from data.clean import people as finders
from data.schemas.messages import ANSWER_FIELDS


def luhn(number: str) -> bool:
    """Whether the check digit of a card number is valid (ISO/IEC 7812-1)."""
    digits = [int(c) for c in reversed(number) if c.isdigit()]
    doubled = [d * 2 - 9 * (d > 4) if i % 2 else d for i, d in enumerate(digits)]
    return 13 <= len(digits) <= 19 and sum(doubled) % 10 == 0


def iban(number: str) -> bool:
    """Whether the check digits of an account number are valid (ISO 13616: the remainder modulo 97
    is 1)."""
    plain = re.sub(r"\s", "", number).upper()
    moved = plain[4:] + plain[:4]
    return 15 <= len(plain) <= 34 and int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def phone(number: str) -> bool:
    """Whether a number has as many digits as a phone number (ITU-T E.164), is grouped or begins
    like one, and is no date: bare digits may be anything."""
    if re.fullmatch(r"\d{4}-\d\d?-\d\d?|\d\d?[./-]\d\d?[./-]\d{4}", number):
        return False
    digits = sum(c.isdigit() for c in number)
    return 8 <= digits <= 15 and (number[0] in "+(" or len(re.findall(r"[ .()/-]+", number)) >= 2)


# {kind: (pattern, whether a match is of that kind)}. The first kind that matches takes precedence:
# a card number would match a phone number as well.
KINDS = {
    "email": (r"[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}\b", lambda match: True),
    "account": (r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", iban),
    "card": (r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d.]\d)", luhn),
    "phone": (r"(?<![\w.])(?:\+|\()?\d(?:[ .()/-]{0,2}\d){7,14}(?![\w])", phone),
}
# {kind that is found in other ways, in their order: the word in its place}
WORDS = {"address": "[ADDRESS]", "people": "[NAME]", "name": "[NAME]"}
ALL_KINDS = (*KINDS, *WORDS)


def redact_text(
    text: str, kinds: Iterable[str], counts: Counter, people: Sequence[str] = (),
    model: str = finders.MODEL,
) -> str:  # fmt: skip
    """The text with personal data of `kinds` replaced and counted.

    Args:
      people: the names of the people of the conversation. model: a pipeline of spaCy.
    """
    for kind, (pattern, is_valid) in KINDS.items():
        if kind not in kinds:
            continue

        def replace(match, kind=kind, is_valid=is_valid):
            if not is_valid(match[0]):
                return match[0]
            counts[kind] += 1
            return f"[{kind.upper()}]"

        text = re.sub(pattern, replace, text)
    for kind, word in WORDS.items():
        if kind in kinds:
            spans = (
                finders.addresses(text) if kind == "address"
                else finders.known_names(text, people) if kind == "people"
                else finders.found_names(text, model)
            )  # fmt: skip
            text, count = finders.replace(text, spans, word)
            counts.update({kind: count} if count else {})
    return text


# Fields of messages (data/schemas/messages.py) that hold free text.
_TEXT_FIELDS = {"content", *ANSWER_FIELDS}


def redact(
    example: dict, kinds: Iterable[str], counts: Counter, model: str = finders.MODEL
) -> dict:
    """An example of any schema (data/schemas) with all its texts redacted, and without `people`."""
    out = dict(example)
    people = out.pop("people", ())
    if not kinds:
        return out

    def redacted(value):
        """A JSON value with all its texts redacted."""
        if isinstance(value, str):
            return redact_text(value, kinds, counts, people, model)
        if isinstance(value, dict):
            return {key: redacted(item) for key, item in value.items()}
        return [redacted(item) for item in value] if isinstance(value, list) else value

    for name in {"text", "answer", "responses"} & out.keys():
        out[name] = redacted(out[name])
    if "messages" in out:
        out["messages"] = [
            message | {key: redacted(message[key]) for key in _TEXT_FIELDS & message.keys()}
            for message in out["messages"]
        ]
    if "passages" in out:
        out["passages"] = [
            passage | {key: redacted(passage[key]) for key in {"text", "title"} & passage.keys()}
            for passage in out["passages"]
        ]
    return out
