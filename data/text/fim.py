"""Fill in the middle: a document's middle moves behind what surrounds it, and so is learned from
both sides (Bavarian et al. 2022, arXiv:2207.14255).

    <bos> <fim_prefix> prefix <fim_suffix> suffix <fim_middle> middle <eos>
    <bos> <fim_prefix> <fim_suffix> suffix <fim_middle> prefix middle <eos>

The first is prefix-suffix-middle, the second suffix-prefix-middle in the paper's second variant,
which begins like the first (StarCoder and Megatron-LM write the same). Cuts are between characters,
each place as likely as another, so that a word may be cut in two as a cursor does; the parts are
tokenized alone, without the space that some tokenizers put before a text. The loss counts all three
parts and <eos>, but not the signs: nobody asks a model to write them.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple


class Parts(NamedTuple):
    """A document, cut in three. Attributes: suffix_first: whether it is suffix-prefix-middle."""

    prefix: str
    middle: str
    suffix: str
    suffix_first: bool


def cut(text: str, rate: float, suffix_first: float) -> Parts | None:
    """The parts of a document, or None if it stays as it is: a function of the text alone, whatever
    stands before it and whoever reads it.

    Args:
      rate: the share of documents that are cut; suffix_first: of those, in suffix-prefix-middle.
    """
    digest = hashlib.sha256(b"fim\0" + text.encode("utf-8", "surrogatepass")).digest()
    whether, order, *places = struct.unpack("<4Q", digest)
    if whether >= rate * 2**64:
        return None
    i, j = sorted(place % (len(text) + 1) for place in places)
    return Parts(text[:i], text[i:j], text[j:], order < suffix_first * 2**64)


def encode(parts: Parts, tokenizer) -> tuple[list[int], list[int]]:
    """(ids, those positions among them that are signs) of what stands between <bos> and <eos>."""
    pre, suf, mid = tokenizer.fim_ids
    prefix = tokenizer.encode(parts.prefix)
    middle, suffix = (tokenizer.encode_further(part) for part in (parts.middle, parts.suffix))
    if parts.suffix_first:
        ids = [pre, suf, *suffix, mid, *prefix, *middle]
        return ids, [0, 1, 2 + len(suffix)]
    ids = [pre, *prefix, suf, *suffix, mid, *middle]
    return ids, [0, 1 + len(prefix), 2 + len(prefix) + len(suffix)]
