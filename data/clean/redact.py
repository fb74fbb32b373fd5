"""Personal data in texts, replaced by its kind, as `[EMAIL]`: what `data.redact` names. A new kind
is a function and a row.

Patterns find forms, not persons: a name or an address stays, and a number that happens to have the
form of a phone's goes. Card and account numbers are replaced only where their check digits agree.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from data.read.messages import ANSWER_FIELDS


def luhn(number: str) -> bool:
    """Whether the check digit of a card number agrees (ISO/IEC 7812-1)."""
    digits = [int(c) for c in reversed(number) if c.isdigit()]
    doubled = [d * 2 - 9 * (d > 4) if i % 2 else d for i, d in enumerate(digits)]
    return 13 <= len(digits) <= 19 and sum(doubled) % 10 == 0


def iban(number: str) -> bool:
    """Whether the check digits of an account number agree (ISO 13616: the rest by 97 is 1)."""
    plain = re.sub(r"\s", "", number).upper()
    moved = plain[4:] + plain[:4]
    return 15 <= len(plain) <= 34 and int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def phone(number: str) -> bool:
    """Whether it has as many digits as a phone number (ITU-T E.164) and is grouped, or begins, as
    one, and is no date: bare digits may be anything."""
    if re.fullmatch(r"\d{4}-\d\d?-\d\d?|\d\d?[./-]\d\d?[./-]\d{4}", number):
        return False
    digits = sum(c.isdigit() for c in number)
    return 8 <= digits <= 15 and (number[0] in "+(" or len(re.findall(r"[ .()/-]+", number)) >= 2)


# The first that matches a place has it: a card number would be a phone's as well.
KINDS = {
    "email": (r"[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}\b", lambda found: True),
    "account": (r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", iban),
    "card": (r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d.]\d)", luhn),
    "phone": (r"(?<![\w.])(?:\+|\()?\d(?:[ .()/-]{0,2}\d){7,14}(?![\w])", phone),
}


def redact_text(text: str, kinds: Iterable[str], counts: Counter) -> str:
    """The text with what is of `kinds` replaced, and counted."""
    for kind, (pattern, is_one) in KINDS.items():
        if kind not in kinds:
            continue

        def replace(found, kind=kind, is_one=is_one):
            if not is_one(found[0]):
                return found[0]
            counts[kind] += 1
            return f"[{kind.upper()}]"

        text = re.sub(pattern, replace, text)
    return text


# Fields of messages (data/read/messages.py) in which people say something.
_SAID = {"content", *ANSWER_FIELDS}


def _inside(value, kinds, counts):
    """A value of JSON with all its texts redacted."""
    if isinstance(value, str):
        return redact_text(value, kinds, counts)
    if isinstance(value, dict):
        return {key: _inside(item, kinds, counts) for key, item in value.items()}
    return [_inside(item, kinds, counts) for item in value] if isinstance(value, list) else value


def redact(example: dict, kinds: Iterable[str], counts: Counter) -> dict:
    """A text, conversation, prompt or ranking (schemas.py) with all its texts redacted."""
    if not kinds:
        return example
    out = dict(example)
    for name in ("text", "answer"):
        if name in out:
            out[name] = redact_text(out[name], kinds, counts)
    if "messages" in out:
        out["messages"] = [
            message | _inside({k: message[k] for k in _SAID & message.keys()}, kinds, counts)
            for message in out["messages"]
        ]
    if "responses" in out:
        out["responses"] = [redact_text(text, kinds, counts) for text in out["responses"]]
    return out
