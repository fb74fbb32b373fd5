"""Redaction: personal data in texts is replaced by its kind, such as `[EMAIL]`. The kinds are those
that `data.redact` names; a new one is a function and a row.

Patterns match forms: a person's name or address is not found, and a number that happens to look
like a phone number is replaced. Card and account numbers are replaced only if their check digits
are valid.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

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


def redact_text(text: str, kinds: Iterable[str], counts: Counter) -> str:
    """The text with personal data of `kinds` replaced and counted."""
    for kind, (pattern, is_valid) in KINDS.items():
        if kind not in kinds:
            continue

        def replace(match, kind=kind, is_valid=is_valid):
            if not is_valid(match[0]):
                return match[0]
            counts[kind] += 1
            return f"[{kind.upper()}]"

        text = re.sub(pattern, replace, text)
    return text


# Fields of messages (data/schemas/messages.py) that hold free text.
_TEXT_FIELDS = {"content", *ANSWER_FIELDS}


def _redact_json(value, kinds: Iterable[str], counts: Counter):
    """A JSON value with all its texts redacted."""
    if isinstance(value, str):
        return redact_text(value, kinds, counts)
    if isinstance(value, dict):
        return {key: _redact_json(item, kinds, counts) for key, item in value.items()}
    if isinstance(value, list):
        return [_redact_json(item, kinds, counts) for item in value]
    return value


def redact(example: dict, kinds: Iterable[str], counts: Counter) -> dict:
    """An example of any schema (data/schemas) with all its texts redacted."""
    if not kinds:
        return example
    out = dict(example)
    for name in ("text", "answer"):
        if name in out:
            out[name] = redact_text(out[name], kinds, counts)
    if "messages" in out:
        out["messages"] = [
            message
            | _redact_json({k: message[k] for k in _TEXT_FIELDS & message.keys()}, kinds, counts)
            for message in out["messages"]
        ]
    if "passages" in out:
        out["passages"] = [
            passage | {"text": redact_text(passage["text"], kinds, counts)}
            for passage in out["passages"]
        ]
    if "responses" in out:
        out["responses"] = [redact_text(text, kinds, counts) for text in out["responses"]]
    return out
