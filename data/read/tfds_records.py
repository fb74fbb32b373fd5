"""Records of TFDS data sets, without TensorFlow: those stored as ArrayRecord, and pydocs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from data.errors import DataError
from data.read import paths
from data.read.reading import SPAN_RECORDS, ReadOptions, Span, parse_each, plain
from data.schemas.templates import UNREAD
from suggestions import nearest

PREFIX = "tfds:"
_AT_ONCE = 256  # records that are read by one call


def open_records(name: str, tfds_dir: str) -> tuple[Any, set[str]]:
    """(random access to the records of "tfds:name/config:split", the names of its features that
    are lists of dicts, which TFDS gives as dicts of lists).

    Raises:
      DataError: there is no such data set, or it has no random access.
    """
    import tensorflow_datasets as tfds  # slow to import, and most sources are files

    dataset, _, split = name.removeprefix(PREFIX).partition(":")
    if not dataset or not split:
        raise DataError(f"{name!r} lacks a split: write tfds:NAME/CONFIG:SPLIT, as in {name}:train")
    folder = os.path.expanduser(tfds_dir or tfds.core.constants.DATA_DIR)
    builder, _, config = dataset.partition("/")
    try:
        if builder == "pydocs":
            from data import pydocs

            records = pydocs.build_dataset(config, folder).as_data_source(split)
        else:
            array_record = {"file_format": "array_record"}  # the default needs TensorFlow
            records = tfds.data_source(
                dataset, split=split, data_dir=folder, builder_kwargs=array_record
            )
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        near = nearest(builder, known)
        hint = f"did you mean {near!r}? " if near not in ("", builder) else ""
        raise DataError(
            f"{name}: TFDS knows no data set {dataset!r}. {hint}It looked among its own and in "
            f"{os.path.join(folder, builder)}; name another folder with tfds_dir."
        ) from error
    except (ValueError, ImportError, OSError, AssertionError, RuntimeError) as error:
        hint = ""
        if "file format" in str(error).lower():
            hint = (
                "\nIt was prepared in a format without random access. Delete it there, or set "
                "tfds_dir to another folder; it is then prepared again as ArrayRecord."
            )
        raise DataError(f"{name}: TFDS cannot open it in {folder}: {error}{hint}") from error
    features = records.dataset_info.features
    lists = {
        key
        for key, feature in features.items()
        if isinstance(feature, tfds.features.Sequence)
        and isinstance(feature.feature, tfds.features.FeaturesDict)
    }
    return records, lists


def read(
    name: str, tfds_dir: str, span: Span | None, options: ReadOptions
) -> Iterator[tuple[str, dict | DataError]]:
    """(location, record) pairs; features that are not used are not decoded."""
    import tensorflow_datasets as tfds

    records, lists = open_records(name, tfds_dir)
    features = records.dataset_info.features
    used = {key: feature for key, feature in features.items() if options.uses(key)}
    used = tfds.features.FeaturesDict(used)
    records.deserialize_method = tfds.decode.DeserializeMethod.RAW_BYTES
    start, stop = (span.start, span.stop) if span else (0, len(records))

    def raw():
        for first in range(start, stop, _AT_ONCE):
            numbers = range(first, min(first + _AT_ONCE, stop))
            for i, raw in zip(numbers, records.__getitems__(numbers), strict=True):
                yield f"{name}[{i}]", options.too_large() if len(raw) > options.max_bytes else raw

    def parse(raw: bytes) -> dict:
        record = dict.fromkeys(features, UNREAD) | used.deserialize_example_np(raw)
        record = {key: plain(value) for key, value in record.items()}
        for key in lists & used.keys():
            columns = record[key]
            rows = zip(*columns.values(), strict=True)
            record[key] = [dict(zip(columns, row, strict=True)) for row in rows]
        return record

    yield from parse_each(raw(), parse)


def spans(name: str, tfds_dir: str) -> list[Span | None]:
    """Spans of SPAN_RECORDS records."""
    size = len(open_records(name, tfds_dir)[0])
    starts = range(0, size, SPAN_RECORDS)
    return [Span(start, min(start + SPAN_RECORDS, size)) for start in starts]


def identity(name: str, tfds_dir: str) -> list:
    """The files of the data set; [] in a folder that only TFDS knows."""
    data_set = name.removeprefix(PREFIX).partition(":")[0].partition("/")[0]
    return paths.identity(epath.Path(os.path.expanduser(tfds_dir)) / data_set) if tfds_dir else []
