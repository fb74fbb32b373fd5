"""Fill in the middle: a document's middle is moved to its end, so that a model learns to predict it
from both sides (Bavarian et al. 2022, arXiv:2207.14255).

    <bos> <fim_prefix> prefix <fim_suffix> suffix <fim_middle> middle <eos>
    <bos> <fim_prefix> <fim_suffix> suffix <fim_middle> prefix middle <eos>

The first order is prefix-suffix-middle; the second is suffix-prefix-middle in the paper's second
variant, which begins like the first (StarCoder and Megatron-LM use the same). Cuts fall between
characters, uniformly, so that a word may be split as it is by a cursor. Each part is tokenized
alone, without the space that some tokenizers put before a text. The loss counts all three parts and
<eos>, but not the <fim_…> markers, which a model is never asked to write.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

from data.text.base import Tokenizer


class FimDocument(NamedTuple):
    """A document cut in three. `suffix_first`: whether its order is suffix-prefix-middle."""

    prefix: str
    middle: str
    suffix: str
    suffix_first: bool


def cut(text: str, rate: float, suffix_first: float) -> FimDocument | None:
    """A document cut in three, or None to leave it unchanged. Both the choice and the cuts depend
    on the text alone.

    Args:
      rate: the share of documents that are cut. suffix_first: the share of those in
        suffix-prefix-middle order.
    """
    digest = hashlib.sha256(b"fim\0" + text.encode("utf-8", "surrogatepass")).digest()
    whether, order, *places = struct.unpack("<4Q", digest)
    if whether >= rate * 2**64:
        return None
    i, j = sorted(place % (len(text) + 1) for place in places)
    return FimDocument(text[:i], text[i:j], text[j:], order < suffix_first * 2**64)


def encode(document: FimDocument, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """(ids between <bos> and <eos>, positions of the markers among them)."""
    pre, suf, mid = tokenizer.fim_ids
    prefix = tokenizer.encode(document.prefix)
    middle = tokenizer.encode_further(document.middle)
    suffix = tokenizer.encode_further(document.suffix)
    if document.suffix_first:
        ids = [pre, suf, *suffix, mid, *prefix, *middle]
        return ids, [0, 1, 2 + len(suffix)]
    ids = [pre, *prefix, suf, *suffix, mid, *middle]
    return ids, [0, 1 + len(prefix), 2 + len(prefix) + len(suffix)]
