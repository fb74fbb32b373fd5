"""Language modelling: LAMBADA and wikitext, with the prompts of lm-evaluation-harness."""

from __future__ import annotations

import re

from train.tasks.base import Document
from train.tasks.rows import fields
from train.tasks.rows.forms import last_word, perplexity


def lambada(record: Document) -> list[Document]:
    """Paperno et al. 2016: the last word of a passage."""
    if fields.has(record, "context", "continuation"):
        context, word = fields.text(record, "context"), fields.text(record, "continuation")
    else:
        name = "passage" if "passage" in record else "text"  # of TFDS, and of the hub
        context, _, word = fields.text(record, name).rpartition(" ")
    return [{"context": context, "continuation": f" {word.removeprefix(' ')}"}]


_ARTICLE = re.compile(r"^(?= = [^=\n]+ = *$)", re.MULTILINE)


def wikitext(record: Document) -> list[Document]:
    """Merity et al. 2016: articles. A file of the corpus is split at its titles."""
    if "page" in record:
        return [_wikitext(fields.text(record, "page"))]
    return [_wikitext(page) for page in _ARTICLE.split(fields.text(record, "text")) if page.strip()]


# (pattern, replacement) in order; those of one text are literal in it.
_SPACED = (
    (r"s '", "s'"),
    (r"/' [0-9]/", r"/'[0-9]/"),
    (r" @([-,.])@ ", r"\1"),
    (r" ([:;.!?,]) ", r"\1 "),
    (r"\(\s*([^\)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"{\s*([^}]*?)\s*}", r"{\1}"),
    (r"\"\s*([^\"]*?)\s*\"", r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" ° ", "°"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)


def _wikitext(page: str) -> Document:
    """`text` with the spaces of plain text; words and bytes are those of `original`."""
    text = page
    for pattern, replacement in _SPACED:
        text = re.sub(pattern, replacement, text)
    return {"text": text, "original": page}


TASKS = (
    last_word(
        "lambada", "The last word of a passage (Paperno et al. 2016, arXiv:1606.06031)",
        "hf:EleutherAI/lambada_openai/default:test", lambada, files=("lambada_openai",),
    ),
    perplexity(
        "wikitext", "WikiText-2, by article (Merity et al. 2016, arXiv:1609.07843)",
        "hf:EleutherAI/wikitext_document_level/wikitext-2-raw-v1:test", wikitext,
        files=("wikitext-2",), documents="file",
    ),
)  # fmt: skip
