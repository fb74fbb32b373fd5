"""Reading a source: files, globs and named data sets as normalised examples in a fixed order.

Examples are described in data/schemas. Each also gets `where` it was read ("path:line", or
"tfds:name/config:split[17]"), for later errors.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from data.errors import DataError
from data.read import paths
from data.read.bad_records import BadRecords
from data.read.readers import named_reader, reader_of
from data.read.reading import MAX_RECORD_BYTES, ReadOptions, Span
from data.schemas.normaliser import fields_used, normaliser
from data.schemas.templates import one_of


class SourceExamples(NamedTuple):
    """The examples of a source.

    Attributes:
      skipped: {reason: number of bad records}; empty unless on_bad="skip".
      unused: {field: number of records in which it holds something and is not read}.
    """

    examples: list[dict]
    skipped: Counter
    unused: Counter


def read(source: str | tuple[str, ...], schema: str, **options) -> SourceExamples:
    """All examples of `source`, and what was skipped. Arguments and errors are those of
    `iterate`."""
    counts = {"skipped": Counter(), "unused": Counter()} | options
    examples = list(iterate(source, schema, **counts))
    return SourceExamples(examples, counts["skipped"], counts["unused"])


def iterate(
    source: str | tuple[str, ...], schema: str,
    *, fields: Mapping[str, Any] = {}, documents: str = "line", tfds_dir: str = "",
    on_bad: str = "error", max_bad: int = 100, max_record_bytes: int = MAX_RECORD_BYTES,
    skipped: Counter | None = None, unused: Counter | None = None, span: Span | None = None,
    settings: Any = None,
) -> Iterator[dict]:  # fmt: skip
    """Examples one at a time, in the same order every time, for a source too large for a list.

    Args:
      source: a path or a glob (`**` included; matches are sorted), local or gs://…, the folder of a
        data set of Hugging Face `datasets`, a data set by name ("tfds:name/config:split",
        "hf:owner/name:split"), or a list of those. A file that several of them match is read once.
        Formats and names: data/read/readers.py.
      schema: "text", "chat", "preference" or "prompt"; `fields` are its templates
        (data/schemas/normaliser.py).
      documents: whether a document of a .txt is a "line" or the whole "file". Blank lines are
        skipped, also in a .jsonl.
      tfds_dir: where TFDS keeps prepared data sets; "" is its default.
      on_bad: "error" raises at the first bad record; "skip" counts it in `skipped` by reason, and
        raises once there are more than `max_bad`. A missing or damaged file, or a gzip that ends
        early, always raises: the number of lost examples would be unknown.
      max_record_bytes: a larger record is bad, and is not held in memory.
      unused: counts the fields of records, and of their messages ("messages[].id"), that hold
        something and are not read.
      settings: those of readers, as of data/read/readers.py's `reader_of`.
      span: read this part of the one file that `source` names (Input.spans); it may be empty.

    Raises:
      DataError: a source cannot be read, a record is bad, or there is no example at all.
    """
    normalise = normaliser(schema, fields, unused)
    one_of("value of documents", documents, dict.fromkeys(("line", "file")))
    one_of("value of on_bad", on_bad, dict.fromkeys(("error", "skip")))
    options = ReadOptions(fields_used(schema, fields), max_record_bytes)
    bad, count = BadRecords(on_bad, max_bad, skipped), 0
    for item in inputs_of(source, schema, documents, tfds_dir, settings):
        has_records = False
        for location, record in item.read(span, options):
            has_records = True
            try:
                if isinstance(record, DataError):
                    raise record
                example = normalise(record)
            except DataError as error:
                bad.add(location, error)
            else:
                count += 1
                yield {**example, "where": location}
        if not has_records and not span:
            error = DataError("holds no record, only blank space if anything", "empty_file")
            bad.add(item.name, error)
    if not count and not span:
        raise DataError(f"no example of schema {schema!r} in {source!r}{bad.summary()}")


class Input(NamedTuple):
    """A file or a data set to read.

    Attributes:
      read: (span, options) -> (location, record) pairs, as of data/read/readers.py's Reader.
      spans: () -> parts that can be read separately.
    """

    name: str
    read: Callable
    spans: Callable


def inputs_of(
    source: str | tuple[str, ...], schema: str, documents: str = "line", tfds_dir: str = "",
    settings: Any = None,
) -> list[Input]:  # fmt: skip
    """The files and data sets of `source`, each once, in order. Arguments are those of `iterate`.

    Raises:
      DataError: one of them does not exist, or cannot be read as `schema`.
    """
    entries = list(source) if isinstance(source, list | tuple) else [source]
    if not entries or not all(entries):
        raise DataError(
            "no source: give a path, a glob, tfds:name/config:split, hf:owner/name:split, or a list"
        )
    names = {}  # a dict, to keep the order
    for entry in entries:
        named = named_reader(entry)
        names.update(dict.fromkeys([named.pin(entry)] if named else paths.expand(entry)))
    inputs = []
    for name in names:  # check all of them before reading the first, which may take an hour
        if named := named_reader(name):
            read_input = functools.partial(named.read, name, tfds_dir)
            spans = functools.partial(named.spans, name, tfds_dir)
        else:
            reader = reader_of(name, schema, documents, settings)
            read_input = functools.partial(reader.read, name)
            spans = functools.partial(reader.spans, name)
        inputs.append(Input(name, read_input, spans))
    return inputs
