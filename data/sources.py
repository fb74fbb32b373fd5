"""Read user data: files, globs and TFDS data sets, as normalised examples in a fixed order.

What an example of each schema looks like is in data/schemas.py. Here every example also gets
`where` it was read ("path:line", or "tfds:name/config:split[17]"), for the errors further on.
"""

import contextlib
import difflib
import glob
import gzip
import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from data import schemas
from data.schemas import DataError

_TEXT = (".txt", ".txt.gz")
_JSON = (".jsonl", ".jsonl.gz")


class Examples(NamedTuple):
    examples: list[dict]
    skipped: Counter  # bad records by reason; empty unless on_bad="skip"


def read(source, schema, **options) -> Examples:
    """All examples of `source`, and what was skipped. Arguments and errors: see `iterate`."""
    skipped = Counter()
    return Examples(list(iterate(source, schema, skipped=skipped, **options)), skipped)


def iterate(
    source,
    schema: str,
    *,
    fields=(),
    documents: str = "line",
    tfds_dir: str = "",
    on_bad: str = "error",
    max_bad: int = 100,
    skipped: Counter | None = None,
) -> Iterator[dict]:
    """Examples one at a time, in the same order every time, for a source too large for a list.

    source: a path, a glob (`**` included; its matches sorted), "tfds:name/config:split", or a
        list of those. A file that several of them match is read once.
    schema: "text", "chat", "preference" or "prompt"; `fields` are its templates
        (schemas.normaliser).
    documents: whether a .txt holds a document a "line" or is one "file". Blank lines are passed
        over, in .jsonl as well.
    tfds_dir: where TFDS keeps prepared data sets; "" is its default.
    on_bad: "error" raises at the first bad record; "skip" counts it in `skipped` by reason, and
        raises once there are more than `max_bad`. A missing or broken file, or a gzip that ends
        early, is always raised: nobody could say how many examples went with it.

    Raises DataError, also when there is no example at all.
    """
    normalise = schemas.normaliser(schema, fields)
    schemas.one_of("value of documents", documents, dict.fromkeys(("line", "file")))
    schemas.one_of("value of on_bad", on_bad, dict.fromkeys(("error", "skip")))
    skipped = Counter() if skipped is None else skipped
    first_bad, found = [], 0

    def bad(where, error):
        if not error.reason:
            raise DataError(f"{where}: {error}") from None
        if on_bad == "error":
            hint = "Mend it, or set --config.data.on_bad=skip to leave such records out, counted."
            raise DataError(f"{where}: {error}\n{hint}", error.reason) from None
        skipped[error.reason] += 1
        if len(first_bad) < 3:
            first_bad.append(f"{where}: {error}")
        if skipped.total() > max_bad:
            raise DataError(
                f"more than max_bad={max_bad} bad records{_summary(skipped, first_bad)}\n"
                "Mend the data, or raise max_bad if so many are to be left out."
            ) from None

    for name, parse, raws in _parts(source, schema, documents, tfds_dir):
        holds_records = False
        for where, raw in raws:
            try:
                record = parse(raw)
                if record is None:
                    continue
                example = normalise(record)
            except DataError as error:
                bad(where, error)
            else:
                found += 1
                yield {**example, "where": where}
            holds_records = True
        if not holds_records:
            bad(name, DataError("holds no record, only blank space if anything", "empty_file"))
    if not found:
        raise DataError(
            f"no example of schema {schema!r} in {source!r}{_summary(skipped, first_bad)}"
        )


def _summary(skipped, first_bad):
    if not skipped:
        return ""
    counts = ", ".join(f"{reason}: {n}" for reason, n in sorted(skipped.items()))
    return "\n  ".join([f" ({counts}). The first:", *first_bad])


def _parts(source, schema, documents, tfds_dir):
    """(name, parse, iterator of (where, raw)) for each file and data set, in order.

    parse(raw) is a record, None for a blank line, or raises DataError with a reason.
    """
    entries = list(source) if isinstance(source, list | tuple) else [source]
    if not entries or not all(entries):
        raise DataError("no source: give a path, a glob, tfds:name/config:split, or a list")
    parts = {}  # by name, so that a file is read once; a dict keeps the order
    for entry in entries:
        if isinstance(entry, str) and entry.startswith("tfds:"):
            parts[entry] = None
        else:
            parts.update(dict.fromkeys(_expand(entry)))
    for path in parts:
        if not path.startswith("tfds:"):
            _check_suffix(path, schema)  # all of them, before an hour goes into the first
    for name in parts:
        if name.startswith("tfds:"):
            yield name, _parse_tfds, _tfds_records(name, tfds_dir)
        elif name.endswith(_JSON):
            yield name, _parse_json, _lines(name)
        else:
            yield name, _parse_text, _lines(name) if documents == "line" else _whole(name)


# Files.


def _expand(pattern):
    """The files that a path or a glob stands for, sorted. Raises DataError if there are none."""
    path = os.path.expanduser(os.fspath(pattern))
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        raise DataError(
            f"{path} is a directory. Name the files in it: {os.path.join(path, '**', '*.jsonl')}"
        )
    if glob.escape(path) != path:
        found = sorted(p for p in glob.glob(path, recursive=True) if os.path.isfile(p))
        if found:
            return found
        what = f"no file matches {path}"
    else:
        what = f"there is no file {path}"
    folder, name = os.path.split(path)
    while not os.path.isdir(folder or "."):
        folder, name = os.path.split(folder)
    try:
        near = schemas.nearest(name, os.listdir(folder or "."))
    except OSError as error:
        raise DataError(f"{what}; {folder} cannot be listed: {error.strerror}") from error
    if not near:
        raise DataError(f"{what}; {folder or 'the current directory'} is empty")
    raise DataError(f"{what}; the nearest there is is {os.path.join(folder, near)}")


def _check_suffix(path, schema):
    wanted = _TEXT + _JSON if schema == "text" else _JSON
    if path.endswith(wanted):
        return
    how = ""
    if path.endswith(".json"):
        how = f"; if it is one JSON list, type: jq -c '.[]' {path} > {path}l"
    raise DataError(
        f"{path}: schema {schema!r} is read from {', '.join(wanted)}, by the name's ending{how}"
    )


@contextlib.contextmanager
def _opened(path):
    """The file in binary, unzipped; what goes wrong while reading it becomes a DataError."""
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: broken gzip ({error}); was the download cut short? "
            f"Fetch or compress it again, and check with: gzip -t {path}"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _lines(path):
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            yield f"{path}:{number}", line


def _whole(path):
    with _opened(path) as file:
        yield f"{path}:1", file.read()


def _decode(raw):
    """Bytes as text, without a byte order mark and with Unix line ends."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start)
        raise DataError(
            f"not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}"
            + (f", on line {line + 1}" if line else "")
            + ". Convert the file: iconv -f ENCODING -t UTF-8 FILE",
            "invalid_utf8",
        ) from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _parse_text(raw):
    text = _decode(raw).removesuffix("\n")
    return {"text": text} if text.strip() else None


def _parse_json(raw):
    line = _decode(raw).strip()
    if not line:
        return None
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"not JSON: {error.msg} at column {error.colno}; a .jsonl has one whole object a line",
            "bad_json",
        ) from None
    except (ValueError, RecursionError) as error:  # a number of 5000 digits; 2000 brackets
        raise DataError(f"not readable JSON: {error}", "bad_json") from None
    if not isinstance(record, dict):
        raise DataError(
            f"a JSON {type(record).__name__} where an object should be: {{...}}", "not_an_object"
        )
    return record


# TFDS.


def _tfds_records(name, tfds_dir):
    """(where, (record, features)) for each record of "tfds:name/config:split"."""
    import tensorflow_datasets as tfds  # slow to import, and most sources are files

    dataset, _, split = name.removeprefix("tfds:").partition(":")
    if not dataset or not split:
        raise DataError(f"{name!r} lacks a split: write tfds:NAME/CONFIG:SPLIT, as in {name}:train")
    folder = os.path.expanduser(tfds_dir or tfds.core.constants.DATA_DIR)
    builder, _, config = dataset.partition("/")
    try:
        if builder == "pydocs":
            from data import pydocs

            records = pydocs.prepare(config, folder).as_data_source(split)
        else:
            array_record = {"file_format": "array_record"}  # the default takes TensorFlow
            records = tfds.data_source(
                dataset, split=split, data_dir=folder, builder_kwargs=array_record
            )
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(builder, known, 1)
        hint = f"did you mean {near[0]!r}? " if near and near[0] != builder else ""
        raise DataError(
            f"{name}: TFDS knows no data set {dataset!r}. {hint}It looked among its own and in "
            f"{os.path.join(folder, builder)}; name another folder with tfds_dir."
        ) from error
    except (ValueError, ImportError, OSError, AssertionError, RuntimeError) as error:
        hint = ""
        if "file format" in str(error).lower():
            hint = (
                "\nIt was prepared in a format without random access. Delete it there, or set "
                "tfds_dir to another folder, and it is prepared anew as ArrayRecord."
            )
        raise DataError(f"{name}: TFDS cannot open it in {folder}: {error}{hint}") from error
    features = records.dataset_info.features
    lists = {  # TFDS gives a sequence of dicts as a dict of sequences
        key
        for key, feature in features.items()
        if isinstance(feature, tfds.features.Sequence)
        and isinstance(feature.feature, tfds.features.FeaturesDict)
    }
    for i in range(len(records)):
        yield f"{name}[{i}]", (records[i], lists)


def _parse_tfds(raw):
    record, lists = raw
    record = {key: _plain(value) for key, value in record.items()}
    for key in lists & set(record):
        columns = record[key]
        rows = zip(*columns.values(), strict=True)
        record[key] = [dict(zip(columns, row, strict=True)) for row in rows]
    return record


def _plain(value):
    """TFDS's bytes and NumPy values as Python's."""
    if isinstance(value, bytes):
        return _decode(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if not isinstance(value, bytes) else _decode(value)


# Held-out data.


def split_heldout(examples: list[dict], fraction: float) -> tuple[list[dict], list[dict]]:
    """(train, heldout), with the same document or prompt never in both.

    Examples with the same text, or the same messages before the answer, stay together (white
    space aside). Of n such groups the max(1, round(fraction * n)) with the lowest hash are held
    out, so the split does not depend on the order of the examples, and changes little when some
    are added. Raises DataError for a fraction outside (0, 1) or fewer than two groups.
    """
    if not 0 < fraction < 1:
        raise DataError(f"the held-out fraction is {fraction}, and should lie between 0 and 1")
    keys = [content_key(example) for example in examples]
    groups = sorted(set(keys))
    if len(groups) < 2:
        only = f"there is but one, at {examples[0]['where']}" if examples else "there is none"
        raise DataError(
            f"held-out data takes two different documents or prompts, and {only}. Add data, or "
            'name a held-out source of its own. (documents="line" makes each line of a .txt one.)'
        )
    k = min(max(1, round(fraction * len(groups))), len(groups) - 1)
    heldout = set(groups[:k])
    return (
        [example for example, key in zip(examples, keys, strict=True) if key not in heldout],
        [example for example, key in zip(examples, keys, strict=True) if key in heldout],
    )


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
