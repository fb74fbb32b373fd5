"""Read user data: files, globs and TFDS data sets, as normalised examples in a fixed order.

What an example of each schema looks like is in data/read/schemas.py. Here every example also gets
`where` it was read ("path:line", or "tfds:name/config:split[17]"), for the errors further on.
"""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from data.bad_records import BadRecords
from data.errors import DataError
from data.read import files, paths, schemas, tfds_records
from data.read.reading import MAX_RECORD_BYTES, Reading, Span
from data.read.templates import one_of


class Examples(NamedTuple):
    examples: list[dict]
    skipped: Counter  # bad records by reason; empty unless on_bad="skip"
    unused: Counter  # fields that hold something and are not read


def read(source, schema, **options) -> Examples:
    """All examples of `source`, and what was skipped. Arguments and errors: see `iterate`."""
    counts = {"skipped": Counter(), "unused": Counter()} | options
    examples = list(iterate(source, schema, **counts))
    return Examples(examples, counts["skipped"], counts["unused"])


def iterate(
    source,
    schema: str,
    *,
    fields=(),
    documents: str = "line",
    tfds_dir: str = "",
    on_bad: str = "error",
    max_bad: int = 100,
    max_record_bytes: int = MAX_RECORD_BYTES,
    skipped: Counter | None = None,
    unused: Counter | None = None,
    span: Span | None = None,
) -> Iterator[dict]:
    """Examples one at a time, in the same order every time, for a source too large for a list.

    source: a path or a glob (`**` included; its matches sorted), local or gs://…, the folder of a
        data set of Hugging Face `datasets`, "tfds:name/config:split", or a list of those. A file
        that several of them match is read once. Formats: data/read/files.py.
    schema: "text", "chat", "preference" or "prompt"; `fields` are its templates
        (schemas.normaliser).
    documents: whether a .txt holds a document a "line" or is one "file". Blank lines are passed
        over, in .jsonl as well.
    tfds_dir: where TFDS keeps prepared data sets; "" is its default.
    on_bad: "error" raises at the first bad record; "skip" counts it in `skipped` by reason, and
        raises once there are more than `max_bad`. A missing or broken file, or a gzip that ends
        early, is always raised: nobody could say how many examples went with it.
    max_record_bytes: a larger record is bad, and is not held in memory.
    unused: counts the fields of records, and of their messages ("messages[].id"), that hold
        something and are not read.
    span: of the one file that `source` is, read this part (Part.spans), which may be empty.

    Raises DataError, also when there is no example at all.
    """
    normalise = schemas.normaliser(schema, fields, unused)
    one_of("value of documents", documents, dict.fromkeys(("line", "file")))
    one_of("value of on_bad", on_bad, dict.fromkeys(("error", "skip")))
    reading = Reading(schemas.fields_used(schema, fields), max_record_bytes)
    bad, found = BadRecords(on_bad, max_bad, skipped), 0
    for part in parts_of(source, schema, documents, tfds_dir):
        holds_records = False
        for where, raw in part.records(span, reading):
            try:
                if isinstance(raw, DataError):
                    raise raw
                record = part.parse(raw)
                if record is None:
                    continue
                example = normalise(record)
            except DataError as error:
                bad.add(where, error)
            else:
                found += 1
                yield {**example, "where": where}
            holds_records = True
        if not holds_records and not span:
            error = DataError("holds no record, only blank space if anything", "empty_file")
            bad.add(part.name, error)
    if not found and not span:
        raise DataError(f"no example of schema {schema!r} in {source!r}{bad.summary()}")


class Part(NamedTuple):
    """A file or a TFDS data set.

    Attributes:
      records: (span, reading) -> (where, raw) pairs; a raw may be the DataError that it is. parse:
        raw -> a record, or None for a blank line, or DataError with a reason. spans: () -> parts
        that can be read apart.
    """

    name: str
    records: Callable
    parse: Callable
    spans: Callable


def parts_of(source, schema: str, documents: str = "line", tfds_dir: str = "") -> list[Part]:
    """The files and data sets of `source`, each once, in order. Arguments: see `iterate`.

    Raises:
      DataError: one of them is not there, or cannot be read as `schema`.
    """
    entries = list(source) if isinstance(source, list | tuple) else [source]
    if not entries or not all(entries):
        raise DataError("no source: give a path, a glob, tfds:name/config:split, or a list")
    names = {}  # a dict keeps the order
    for entry in entries:
        is_tfds = isinstance(entry, str) and entry.startswith("tfds:")
        names.update(dict.fromkeys([entry] if is_tfds else paths.expand(entry)))
    parts = []
    for name in names:
        if name.startswith("tfds:"):
            found = tfds_records.read, tfds_records.spans
            records, spans = (functools.partial(f, name, tfds_dir) for f in found)
            parts.append(Part(name, records, tfds_records.parse, spans))
        else:  # all of them, before an hour goes into the first
            format_ = files.format_of(name, schema, documents)
            records = functools.partial(format_.records, name)
            parts.append(Part(name, records, format_.parse, functools.partial(format_.spans, name)))
    return parts


# Held-out data.


def heldout_keys(keys: list[bytes], fraction: float, where: str = "") -> set[bytes]:
    """Those of the examples' `keys` (duplicates.copy_groups) that are held out.

    Examples of the same key stay together. Of n keys the max(1, round(fraction * n)) lowest are
    held out, so the split does not depend on the order of the examples, and changes little when
    some are added. `where`: of the first, for errors. Raises DataError for a fraction outside
    (0, 1) or fewer than two keys.
    """
    if not 0 < fraction < 1:
        raise DataError(f"the held-out fraction is {fraction}, and should lie between 0 and 1")
    groups = sorted(set(keys))
    if len(groups) < 2:
        only = f"there is but one, at {where}" if keys else "there is none"
        raise DataError(
            f"held-out data takes two different documents or prompts, and {only}. Add data, or "
            'name a held-out source of its own. (documents="line" makes each line of a .txt one.)'
        )
    return set(groups[: min(max(1, round(fraction * len(groups))), len(groups) - 1)])


def content_key(example: dict) -> bytes:
    """What makes an example the same as another: its text, or its messages before the answer."""
    if "text" in example:
        content = [["text", example["text"]]]
    else:
        content = [[message["role"], message["content"]] for message in example["messages"]]
        if content[-1][0] == "assistant":
            content.pop()
    content = [[kind, " ".join(text.split())] for kind, text in content]
    return hashlib.sha256(json.dumps(content).encode()).digest()
