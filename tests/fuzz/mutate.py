"""Damaged copies of good inputs: bytes, JSON values and command-line text."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any

# Fragments that are known to break parsers.
FRAGMENTS = (
    b"", b"\0", b"\n", b"\r\n", b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\u",
    b"NaN",
    b"Infinity", b"-Infinity", b"1e999", b"-1", b"0", b"null", b"true", b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xed\xa0\x80", b"\\ud800", b"9" * 400, b"[" * 3000, b'{"a":' * 500, b"\t", b" " * 64,
    b"\x1f\x8b", b"PK\x03\x04", "é‏ࠀ𝕏".encode(), b"<|im_end|>", b"{%", b"{{", b"%}", b"}}", b"../",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 2**31, 2**32, 2**63, 2**64, 10**30, 0.0, -0.5, 0.5, 1e-300,
    1e20, 1e300, float("nan"), float("inf"), float("-inf"), "", " ", "a", "0", "-1", "nan", "null",
    "../x", "a/b", "\0", "\ud800", "é" * 40, "x" * 5000, [], {}, [[]], [None], [1, "a"],
    {"a": {"b": [1]}}, {"": ""}, [0] * 300,
)  # fmt: skip


def damaged_bytes(rng: Random, data: bytes, others: tuple[bytes, ...] = ()) -> bytes:
    """`data` with one to four random changes; `others` are inputs to splice with."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        size = len(data)
        at = rng.randrange(size + 1)
        # Half of the changes are at the start, where headers are.
        if rng.random() < 0.5:
            at = rng.randrange(min(size, 256) + 1)
        end = min(size, at + rng.choice((1, 1, 2, 4, 8, 64, 1024)))
        kind = rng.randrange(8)
        if kind == 0 and size:  # flip a bit
            at = min(at, size - 1)
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif kind == 1:  # truncate
            data = data[:at]
        elif kind == 2:  # remove
            data = data[:at] + data[end:]
        elif kind == 3:  # repeat
            data = data[:end] + data[at:end] * rng.choice((1, 2, 50)) + data[end:]
        elif kind == 4:  # insert or overwrite
            fragment = rng.choice(FRAGMENTS)
            data = data[:at] + fragment + data[rng.choice((at, min(size, at + len(fragment)))) :]
        elif kind == 5:  # an integer, little endian
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice((0, 1, 2**31 - 1, 2**31, 2**63 - 1, 2**64 - 1, rng.getrandbits(64)))
            data = data[:at] + (value % 256**width).to_bytes(width, "little") + data[at + width :]
        elif kind == 6:  # random bytes
            data = data[:at] + rng.randbytes(end - at) + data[end:]
        elif others:  # splice
            other = rng.choice(others)
            data = data[:at] + other[rng.randrange(len(other) + 1) :]
    return data


def _paths(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Every path into a JSON value."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from _paths(value[key], (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value[:20]):
            yield from _paths(item, (*path, i))


def damaged_value(rng: Random, value: Any) -> Any:
    """A JSON value with one to three of its parts replaced, removed, renamed, nested or
    repeated."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        *path, last = rng.choice(list(_paths(value))) or (None,)
        if last is None:
            if rng.random() < 0.1:
                return rng.choice(VALUES)
            continue
        inner = value
        for key in path:
            inner = inner[key]
        kind = rng.randrange(6)
        if kind == 0:
            del inner[last]
        elif kind == 1 and isinstance(inner, dict):
            inner[rng.choice(("", "x", str(last) + "_", str(last).upper(), "weight", "tools"))] = (
                inner.pop(last)
            )
        elif kind == 2:
            inner[last] = rng.choice(([inner[last]], {"a": inner[last]}, str(inner[last])))
        elif kind == 3 and isinstance(inner, list):
            inner += [inner[last]] * rng.choice((1, 3, 40))
        elif kind == 3 and isinstance(inner[last], int | float):
            inner[last] = inner[last] * rng.choice((-1, 0, 2, 1000, 0.5, 10**12))
        else:
            inner[last] = copy.deepcopy(rng.choice(VALUES))
    return value


def json_bytes(rng: Random, value: Any) -> bytes:
    """The content of a JSON file, one time in ten with a key twice."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.1 and text.startswith("{") and len(text) > 2:
        text = text[:-1] + ", " + text[1:]
    return text.encode("utf-8", "surrogatepass")


def damaged_json(rng: Random, data: bytes) -> bytes:
    """A JSON file with its value or, one time in three, its bytes damaged."""
    if rng.random() < 1 / 3:
        return damaged_bytes(rng, data)
    return json_bytes(rng, damaged_value(rng, json.loads(data)))


def damaged_lines(rng: Random, data: bytes) -> bytes:
    """A file of JSON lines with some of its records or its bytes damaged."""
    if rng.random() < 1 / 3:
        return damaged_bytes(rng, data)
    lines = data.splitlines()
    for _ in range(rng.choice((1, 2, 5))):
        at = rng.randrange(len(lines))
        lines[at] = json_bytes(rng, damaged_value(rng, json.loads(data.splitlines()[at])))
    return b"\n".join(lines)


def text(rng: Random, length: int = 60) -> str:
    """Random text of numbers, marks, several scripts and control characters."""
    pieces = (
        "a", "B", "é", "é", "हिन्दी", "กำ", "中文", "العَرَبِيَّة", "👩‍👩‍👧", "\u200b", "\u202e",
        "\0", "\t", "\n", "\r", " ",
        "####", "-", "−", "1,234", "0.5", "1e9", "٣", "½", "10-3", "$5", "%", "a@b.co",
        "+1 555 010 9999",
        "4111 1111 1111 1111", "DE89370400440532013000", "<|im_end|>", "<think>", "</think>",
        "▁", "\ufffe",
        "x" * 50, "{a}", "{{", "}", "\\",
    )  # fmt: skip
    return "".join(rng.choice(pieces) for _ in range(rng.randrange(length)))
