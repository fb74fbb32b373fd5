"""Reading a source: files, globs and named data sets as normalised examples in a fixed order.

Examples are described in data/schemas. Each also gets `where` it was read ("path:line", or
"tfds:name/config:split[17]"), for later errors, and with `heldout_by` its `group`.
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
from data.schemas.messages import is_empty
from data.schemas.normaliser import fields_used, normaliser
from data.schemas.templates import one_of
from data.transforms.registry import Change, root, value_at


class SourceExamples(NamedTuple):
    """The examples of a source.

    Attributes:
      skipped: {reason: number of bad records}; empty unless on_bad="skip".
      unused: {field: number of records in which it holds something and is not read}.
      changes: {change of a transform: count}, and what readers of exports left out.
    """

    examples: list[dict]
    skipped: Counter
    unused: Counter
    changes: Counter


def read(source: str | tuple[str, ...], schema: str, **options) -> SourceExamples:
    """All examples of `source`, and what was skipped. Arguments and errors are those of
    `iterate`."""
    counts = {"skipped": Counter(), "unused": Counter(), "changes": Counter()} | options
    examples = list(iterate(source, schema, **counts))
    return SourceExamples(examples, counts["skipped"], counts["unused"], counts["changes"])


def iterate(
    source: str | tuple[str, ...], schema: str,
    *, fields: Mapping[str, Any] = {}, documents: str = "line", tfds_dir: str = "",
    on_bad: str = "error", max_bad: int = 100, max_record_bytes: int = MAX_RECORD_BYTES,
    records: str = "", transforms: Mapping[str, Any] = {}, heldout_by: str = "",
    skipped: Counter | None = None, unused: Counter | None = None,
    changes: Counter | None = None, span: Span | None = None, settings: Any = None,
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
      records: the place of the list of records in a .json, such as "tickets".
      transforms: changes of records before the schema (data/transforms); `changes` counts them.
      heldout_by: the field whose value becomes `group` in each example, as text.
      unused: counts the fields of records, and of their messages ("messages[].id"), that hold
        something and are not read.
      settings: those of readers, as of data/read/readers.py's `reader_of`.
      span: read this part of the one file that `source` names (Input.spans); it may be empty.

    Raises:
      DataError: a source cannot be read, a record is bad, or there is no example at all.
    """
    one_of("value of documents", documents, dict.fromkeys(("line", "file")))
    one_of("value of on_bad", on_bad, dict.fromkeys(("error", "skip")))
    changes = Counter() if changes is None else changes
    used = None if transforms else fields_used(schema, fields) | {root(heldout_by)}
    options = ReadOptions(used, max_record_bytes, records, changes)
    bad, count = BadRecords(on_bad, max_bad, skipped), 0
    for item in inputs_of(source, schema, documents, tfds_dir, settings):
        change = Change(transforms, item.is_export)
        normalise = normaliser(schema, fields, unused, change.reads | {root(heldout_by)})
        has_records = False
        for location, record in item.read(span, options):
            has_records = True
            try:
                if isinstance(record, DataError):
                    raise record
                group = group_of(record, heldout_by)
                if (changed := change(record, changes)) is None:
                    continue
                example = normalise(changed.fields)
                if changed.people:  # for redaction
                    example["people"] = changed.people
            except DataError as error:
                bad.add(location, error)
            else:
                count += 1
                yield {**example, **group, "where": location}
        for name in [name for name, number in changes.items() if not number]:
            del changes[name]
        if not has_records and not span:
            error = DataError("holds no record, only blank space if anything", "empty_file")
            bad.add(item.name, error)
    if not count and not span:
        left_out = "".join(f"\n  {name}: {number:,}" for name, number in sorted(changes.items()))
        raise DataError(f"no example of schema {schema!r} in {source!r}{bad.summary()}{left_out}")


def changed_records(
    source: str | tuple[str, ...], schema: str, records: str = "",
    transforms: Mapping[str, Any] = {}, changes: Counter | None = None,
) -> Iterator[tuple[str, dict]]:  # fmt: skip
    """Yields (location, record) after transforms, before it is one of a schema. Arguments are those
    of `iterate`.

    Raises:
      DataError: a record cannot be read or changed.
    """
    changes = Counter() if changes is None else changes
    for item in inputs_of(source, schema):
        change = Change(transforms, item.is_export)
        for location, record in item.read(None, ReadOptions(records=records, counts=changes)):
            try:
                if isinstance(record, DataError):
                    raise record
                changed = change(record, changes)
            except DataError as error:
                raise DataError(f"{location}: {error}", error.reason) from None
            if changed is not None:
                yield location, changed.fields


def group_of(record: Mapping, heldout_by: str) -> dict[str, str]:
    """{"group": the value of the field `heldout_by`}; {} where that names none.

    Raises:
      DataError: the record does not have the field, or it is empty, or neither text nor a number.
    """
    if not heldout_by:
        return {}
    value = value_at(record, heldout_by, "data.heldout_by")
    if isinstance(value, dict | list | bytes) or is_empty(value):
        raise DataError(
            f"data.heldout_by: {heldout_by!r} is {value!r:.60}, and should be a text or a number: "
            "records are held out by it",
            "no_group",
        )
    return {"group": str(value)}


class Input(NamedTuple):
    """A file or a data set to read.

    Attributes:
      read: (span, options) -> (location, record) pairs, as of data/read/readers.py's Reader.
      spans: () -> parts that can be read separately.
      is_export: whether the records are conversations of an export (data/read/exports).
    """

    name: str
    read: Callable
    spans: Callable
    is_export: bool = False


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
            is_export = named.is_export
        else:
            reader = reader_of(name, schema, documents, settings)
            read_input = functools.partial(reader.read, name)
            spans = functools.partial(reader.spans, name)
            is_export = reader.is_export
        inputs.append(Input(name, read_input, spans, is_export))
    return inputs
