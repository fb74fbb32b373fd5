"""The passages of a source with their retriever, opened once a process."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import plugins
import registry
from data.clean.redact import redact_text
from data.errors import DataError
from data.passages import documents
from data.passages.config import PassagesConfig
from data.passages.documents import Passage
from data.passages.retrievers import RETRIEVERS, Retriever
from data.read import paths
from data.read.readers import named_reader
from suggestions import did_you_mean, nearest

FORMAT = 1  # of the indices; another one where they would be others


class Library:
    """Passages that can be searched and looked up.

    Attributes:
      passages. skipped: {reason: count} of files that were not read. redacted: {kind: count} of
        replaced personal data.
    """

    def __init__(
        self, passages: Sequence[Passage], retriever: Retriever, skipped: Counter, redacted: Counter
    ):
        self.passages, self.skipped, self.redacted = passages, skipped, redacted
        self._retriever = retriever
        self._by_name = dict[str, list[int]]()  # of a passage, and of a document of several
        for number, passage in enumerate(passages):
            for name in {passage.id, passage.page}:
                self._by_name.setdefault(name, []).append(number)

    def search(self, question: str, count: int) -> list[Passage]:
        """At most `count` passages, best first."""
        ranked = self._retriever.rank(question, min(count, len(self.passages)))
        return [self.passages[number] for number in ranked]

    def numbers(self, names: Iterable[str]) -> set[int]:
        """The numbers of the passages that are, or are of, one of `names`."""
        return {number for name in names for number in self._by_name.get(name, ())}

    def best(self, name: str, query: str) -> Passage:
        """The passage of that name; of a document with several the best for a query.

        Raises:
          DataError: there is none.
        """
        numbers = self._by_name.get(name)
        if not numbers:
            near = did_you_mean(nearest(name, self._by_name))
            raise DataError(f"'sources' names {name!r:.80}, and no passage has that id{near}",
                            "missing_passage")  # fmt: skip
        if len(numbers) == 1:
            return self.passages[numbers[0]]
        ranked = self._retriever.rank(query, len(self.passages))
        return self.passages[next((n for n in ranked if n in numbers), numbers[0])]


def identity(config: PassagesConfig, tfds_dir: str) -> list:
    """JSON values that are others where the passages of a source may be; [] if that is not known.

    Raises:
      DataError: a folder has no document.
    """
    found = []
    for entry in documents.files_of(config.source):
        named = named_reader(entry)
        files = [entry] if named else paths.expand(entry)
        found += [named.identity(entry, tfds_dir) if named else paths.identity(f) for f in files]
    return found if all(found) else []


def open_library(
    config: PassagesConfig, tfds_dir: str = "", kinds: Collection[str] = (), model: str = ""
) -> Library:
    """The library of `config.source`. Its index is read from `config.cache_dir`, or is built and
    kept there.

    Args:
      kinds: of personal data to replace. model: as `data.redact_model`.

    Raises:
      DataError: there is no document, or one cannot be read; the index cannot be kept.
    """
    key = json.dumps(config.values(), sort_keys=True)
    known = json.dumps(identity(config, tfds_dir))
    return _open(key, tfds_dir, tuple(kinds), model, known)


@functools.lru_cache(maxsize=2)
def _open(key: str, tfds_dir: str, kinds: tuple[str, ...], model: str, known: str) -> Library:
    del known
    config = registry.current(PassagesConfig)(**json.loads(key))
    skipped, redacted = Counter(), Counter()
    source = config.source if isinstance(config.source, str) else tuple(config.source)
    passages = documents.read(source, config.fields, config.words, tfds_dir, skipped)
    if kinds:
        passages = [
            p._replace(text=redact_text(p.text, kinds, redacted, (), model),
                       title=redact_text(p.title, kinds, redacted, (), model))
            for p in passages
        ]  # fmt: skip
    return Library(passages, _retriever(config, passages), skipped, redacted)


def _retriever(config: PassagesConfig, passages: Sequence[Passage]) -> Retriever:
    names = sorted(RETRIEVERS.fields_of(config.retriever))
    parts = [
        FORMAT, config.retriever, [getattr(config, name) for name in names], passages,
        [plugins.fingerprint(name) for name in plugins.loaded()],
        importlib.metadata.version("bm25s"),
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]
    folder = os.path.join(os.path.expanduser(config.cache_dir), f"{config.retriever}-{digest}")
    arguments = RETRIEVERS.arguments(config.retriever, config)
    try:
        return RETRIEVERS[config.retriever](passages, folder, **arguments)
    except OSError as error:
        raise DataError(
            f"the index of data.passages cannot be kept in {folder}: {error.strerror or error}; "
            "name another folder: --config.data.passages.cache_dir=FOLDER"
        ) from error
