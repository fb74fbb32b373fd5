"""Retrievers: the passages that fit a question, best first. To add one, register a row in a plugin:

from data.passages.retrievers import RETRIEVERS

@RETRIEVERS.register("mine")
def mine(passages, folder): ...
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from data.passages.documents import Passage
from ranges import ConfigError
from registry import Registry
from suggestions import did_you_mean, nearest

_WORD = re.compile(r"\w+")


class Retriever(Protocol):
    """An index of passages."""

    def rank(self, query: str, count: int) -> Sequence[int]:
        """The numbers of `count` passages, best first; the same for the same query every time."""


# A row: (passages, folder) -> Retriever, with a keyword `settings` if it has settings. `folder` is
# where the index may be kept; its name is a hash of the passages and of all settings.
RETRIEVERS: Registry[Callable[..., Retriever]] = Registry("retriever", "data.passages.retriever")


@dataclasses.dataclass(frozen=True)
class BM25Settings:
    """Settings of BM25.

    Attributes:
      language: of the Snowball stemmer, such as `german`; empty compares words as they are written.
    """

    language: str = "english"

    def __post_init__(self):
        if self.language:
            import Stemmer

            if self.language not in (known := Stemmer.algorithms()):
                raise ConfigError(
                    f"data.passages.language={self.language!r:.40}; choose {', '.join(known)}"
                    + did_you_mean(nearest(self.language, known))
                )


@RETRIEVERS.register("bm25", settings=BM25Settings)
class BM25:
    """BM25 over titles and texts, Lucene's variant with k1 = 1.5 and b = 0.75 (Robertson and
    Zaragoza 2009; Lù 2024, arXiv:2407.03618)."""

    def __init__(self, passages: Sequence[Passage], folder: str, settings: BM25Settings):
        bm25s = _bm25s()
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it logs each index
        if settings.language:
            import Stemmer

            self._stem = Stemmer.Stemmer(settings.language).stemWords
        else:
            self._stem = list
        try:
            self._index = bm25s.BM25.load(folder)
        except (OSError, ValueError, LookupError):  # it is not there, or is damaged
            self._index = bm25s.BM25()
            words = [self._words(f"{passage.title}\n{passage.text}") for passage in passages]
            self._index.index(words, show_progress=False)
            _save(self._index, folder)

    def _words(self, text: str) -> list[str]:
        return self._stem(_WORD.findall(text.lower()))

    def rank(self, query: str, count: int) -> Sequence[int]:
        words = [word for word in self._words(query) if word in self._index.vocab_dict]
        if not words:
            return range(min(count, self._index.scores["num_docs"]))
        scores = np.asarray(self._index.get_scores(words))
        return np.argsort(-scores, kind="stable")[:count].tolist()


def _bm25s() -> ModuleType:
    """The package without its use of JAX, whose accelerators it would initialize when it is
    imported: in each process that reads data, while another one trains on them."""
    loaded = sys.modules.get("jax.lax")
    sys.modules["jax.lax"] = None  # type: ignore[assignment]  # its import fails
    try:
        import bm25s
    finally:
        del sys.modules["jax.lax"]
        if loaded is not None:
            sys.modules["jax.lax"] = loaded
    return bm25s


def _save(index: Any, folder: str) -> None:
    """Saves an index whole or not at all, in place of a damaged one; another process may do the
    same."""
    os.makedirs(parent := os.path.dirname(folder), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as temporary:
        index.save(written := os.path.join(temporary, "index"), show_progress=False)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            os.rename(written, folder)
        except OSError:  # the other process was faster
            if not os.path.isdir(folder):
                raise
