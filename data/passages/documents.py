"""Passages: documents of a source, split where they are long."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from data.errors import DataError
from data.read import sources
from data.read.readers import READERS
from data.read.reading import ReadOptions
from data.schemas.templates import is_number, parse, required_text, value_of, wrong_type

_HEADING = re.compile(r"#{1,6}\s+(.+?)\s*#*\s*(?:\n|$)")
_BLOCK = re.compile(r"\n[ \t]*\n\s*")


class Passage(NamedTuple):
    """A text that may answer questions.

    Attributes:
      id: its name: the record's, else of its file, with `#2` for the second part of a document.
      page: the id of the document of which it is a part.
    """

    id: str
    page: str
    title: str
    text: str

    def is_of(self, names: Any) -> bool:
        """Whether its own id or that of its document is among `names`."""
        return self.id in names or self.page in names


def files_of(source: str | tuple[str, ...], skipped: Counter | None = None) -> list[str]:
    """The files and data sets of a source: as `data.source` names them, or all files of a folder
    and its subfolders that have a reader.

    Args:
      skipped: counts the other files of a folder.

    Raises:
      DataError: a folder has none.
    """
    files: list[str] = []
    for entry in [source] if isinstance(source, str) else source:
        folder = os.path.expanduser(entry)
        if not os.path.isdir(folder) or os.path.exists(os.path.join(folder, "state.json")):
            files.append(entry)
            continue
        inside = sorted(_files_in(folder))
        read = [path for path in inside if _ending(path) in READERS]
        if not read:
            other = f"; its {len(inside)} files have other endings" if inside else ""
            raise DataError(
                f"data.passages.source={entry} is a folder without documents{other}. Name one with "
                f"files that end in {', '.join(READERS)}"
            )
        files += read
        if skipped is not None:
            others = (_ending(path) or "no ending" for path in inside if path not in read)
            skipped.update(f"files of {entry} that have no reader ({kind})" for kind in others)
    return files


def _files_in(folder: str) -> Iterator[str]:
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(where, name) for name in names if not name.startswith("."))


def _ending(path: str) -> str:
    return os.path.splitext(path.removesuffix(".gz"))[1]


def read(
    source: str | tuple[str, ...], fields: Mapping[str, str], words: int, tfds_dir: str = "",
    skipped: Counter | None = None,
) -> list[Passage]:  # fmt: skip
    """The passages of a source.

    A record has a `text` and may have a `title` and an `id`. A whole file has the title of its
    first heading, and its path without the ending, from the folder on, as its id; the nth of
    several records without an id has `FILE:n`.

    Args:
      fields: templates of `text`, `title` and `id`. words: the most of a passage; 0 for no limit.
      skipped: as of `files_of`.

    Raises:
      DataError: there is no document, one cannot be read, or two have one id.
    """
    templates = {name: parse(name, template) for name, template in fields.items()}
    entries = (source,) if isinstance(source, str) else source
    passages = dict[str, Passage]()
    for entry in entries:
        names = tuple(files_of(entry, skipped))
        inputs = sources.inputs_of(names, "text", "file", tfds_dir)
        root = _root(entry, [item.name for item in inputs])
        for item in inputs:
            records = list(item.read(None, ReadOptions()))
            for number, (location, record) in enumerate(records, 1):
                if isinstance(record, DataError):
                    raise DataError(f"{location}: {record}")
                name = _name(item.name, root) + (f":{number}" if len(records) > 1 else "")
                try:
                    page = _passage(record, templates, name)
                except DataError as error:
                    text = str(error).replace("data.fields.", "data.passages.fields.")
                    raise DataError(f"{location}: {text} (data.passages.source)") from None
                for passage in split(page, words):
                    if passage.id in passages:
                        raise DataError(f"{location}: a second passage has the id {passage.id!r}")
                    passages[passage.id] = passage
    if not passages:
        raise DataError(f"data.passages.source={source} holds no document, only blank files")
    return list(passages.values())


def _root(entry: str, names: list[str]) -> str:
    """The folder from which the ids of files begin."""
    folder = os.path.expanduser(entry)
    if os.path.isdir(folder):
        return folder
    return os.path.commonpath([os.path.dirname(name) for name in names] or [""])


def _name(path: str, root: str) -> str:
    name = os.path.relpath(path, root) if root and path.startswith(root) else path
    return os.path.splitext(name.removesuffix(".gz"))[0].replace(os.sep, "/")


def _passage(record: Mapping[str, Any], templates: Mapping[str, Any], name: str) -> Passage:
    text = required_text(value_of(record, templates, "text"), "text").strip()
    title, own = _optional(record, templates, "title"), _optional(record, templates, "id")
    if not title and (heading := _HEADING.match(text)) and text[heading.end() :].strip():
        title, text = heading[1], text[heading.end() :].strip()
    return Passage(own or name, own or name, title, text)


def _optional(record: Mapping[str, Any], templates: Mapping[str, Any], name: str) -> str:
    if name not in templates and record.get(name) is None:
        return ""
    value = value_of(record, templates, name)
    if value is not None and not isinstance(value, str) and not is_number(value):
        raise wrong_type(name, "a string", value)
    return " ".join(str("" if value is None else value).split())


def split(page: Passage, words: int) -> list[Passage]:
    """The parts of a document with at most `words` words, headings not counted, in order: they
    begin at headings and paragraphs, and within a paragraph only where it is longer."""
    if not words or len(page.text.split()) <= words:
        return [page]
    texts, part, size = list[str](), list[str](), 0
    for block in _blocks(page.text, words):
        heading = _HEADING.fullmatch(block) is not None
        count = 0 if heading else len(block.split())
        if size and (heading or size + count > words):
            texts.append("\n\n".join(part))
            part, size = [], 0
        part.append(block)
        size += count
    texts.append("\n\n".join(part))
    return [
        page._replace(id=f"{page.id}#{number}", text=text) for number, text in enumerate(texts, 1)
    ]


def _blocks(text: str, words: int) -> Iterator[str]:
    """The paragraphs of a text; a longer one in pieces of `words` words."""
    for block in _BLOCK.split(text.strip()):
        pieces = re.findall(r"\S+\s*", block)
        for start in range(0, len(pieces), words):
            yield "".join(pieces[start : start + words]).strip()
