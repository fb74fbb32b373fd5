"""Records of the Hugging Face hub's data sets, by the `datasets` library.

    hf:OWNER/NAME[/CONFIG][@REVISION]:SPLIT          downloaded once, into the library's cache
    hf-stream:OWNER/NAME[/CONFIG][@REVISION]:SPLIT   read over the network, and not kept

SPLIT may be cut, as in `train[:1000]`; of a stream no more is read than that and the file after it.
The library (5 and later) runs no code of a data set.
"""

from __future__ import annotations

import functools
import http.client
import logging
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, NamedTuple

from data.errors import DataError
from data.read.columns import records_of, used_columns
from data.read.reading import SPAN_RECORDS, ReadOptions, Span, parse_each, plain
from suggestions import did_you_mean, nearest

DOWNLOAD, STREAM = "hf:", "hf-stream:"
_FORM = "OWNER/NAME[/CONFIG][@REVISION]:SPLIT"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CUT = re.compile(r"([^\[\]+]+)(?:\[(\d*):(\d*)\])?")  # of a stream
_BATCH_ROWS = 256
_WAIT = 5.0  # seconds for the hub's first answer


class HubName(NamedTuple):
    """The parts of a name; `config` and `revision` may be empty."""

    prefix: str
    repository: str
    config: str
    revision: str
    split: str

    def __str__(self) -> str:
        config = self.config and f"/{self.config}"
        revision = self.revision and f"@{self.revision}"
        return f"{self.prefix}{self.repository}{config}{revision}:{self.split}"


def parse(name: str) -> HubName:
    """The parts of `hf:…` or `hf-stream:…`.

    Raises:
      DataError: one is missing.
    """
    prefix = STREAM if name.startswith(STREAM) else DOWNLOAD
    data_set, _, split = name.removeprefix(prefix).partition(":")
    data_set, at, revision = data_set.partition("@")
    owner, _, rest = data_set.partition("/")
    repository, slash, config = rest.partition("/")
    if not owner or not repository or (slash and not config) or (at and not revision):
        raise DataError(f"{name!r} names no data set of the hub: write {prefix}{_FORM}")
    if not split:
        raise DataError(f"{name!r} lacks a split: write {prefix}{_FORM}, as in {name}:train")
    if prefix == STREAM and not _CUT.fullmatch(split):
        raise DataError(f"{name!r}: a stream is cut by records, as in train[:1000]")
    return HubName(prefix, f"{owner}/{repository}", config, revision, split)


def pin(name: str) -> str:
    """The name with the commit that its revision is now.

    Raises:
      DataError: there is no such data set, configuration, revision or split.
    """
    hub = parse(name)
    if _COMMIT.fullmatch(hub.revision):
        return name
    return str(hub._replace(revision=_builder(name).hash))


def read(
    name: str, tfds_dir: str, span: Span | None, options: ReadOptions
) -> Iterator[tuple[str, dict | DataError]]:
    """(location, record) pairs; a span of a stream counts its files."""
    del tfds_dir
    hub, records = parse(name), _open(name)
    number, location = 0, name
    if span and hub.prefix == STREAM:
        records = records.shard(records.num_shards, span.start)
        location = f"{name}, file {span.start}"
    elif span:
        records, number = records.select(range(span.start, span.stop)), span.start
    return parse_each(_rows(hub, records, location, number, options), plain)


def spans(name: str, tfds_dir: str) -> list[Span | None]:
    """Spans of SPAN_RECORDS records; of a stream its files, or the whole if it is cut."""
    del tfds_dir
    hub, records = parse(name), _open(name)
    if hub.prefix == DOWNLOAD:
        starts = range(0, len(records), SPAN_RECORDS)
        return [Span(start, min(start + SPAN_RECORDS, len(records))) for start in starts]
    return [None] if "[" in hub.split else [Span(i, i + 1) for i in range(records.num_shards)]


def identity(name: str, tfds_dir: str) -> list:
    """The pinned name."""
    del tfds_dir
    return [pin(name)]


def _rows(hub, records, location, number, options: ReadOptions) -> Iterator[tuple]:
    try:
        for table in records.with_format("arrow").iter(_BATCH_ROWS):
            names, used = used_columns(location, table.schema, options)
            for record in records_of(table.select(used), names, options):
                yield f"{location}[{number}]", record
                number += 1
    except DataError:
        raise
    except _errors() as error:
        raise _as_data_error(hub, error) from error


def _open(name: str) -> Any:
    """The split of a data set: a `Dataset`, or of a stream an `IterableDataset`.

    Raises:
      DataError: it cannot be downloaded or read.
    """
    hub, builder = parse(name), _builder(name)
    try:
        if hub.prefix == DOWNLOAD:
            builder.download_and_prepare()
            return builder.as_dataset(hub.split)
        cut = _CUT.fullmatch(hub.split)
        assert cut  # `parse` takes no other
        split, start, stop = cut.groups()
        records = builder.as_streaming_dataset(split)
        records = records.take(int(stop)) if stop else records
        return records.skip(int(start)) if start else records
    except _errors() as error:
        raise _as_data_error(hub, error) from error


def _builder(name: str) -> Any:
    """The library's builder of a data set that has the split.

    Raises:
      DataError: there is none, or it cannot be reached.
    """
    builder = _attempt(name)
    if isinstance(builder, DataError):
        raise builder
    return builder


@functools.lru_cache(maxsize=64)
def _attempt(name: str) -> Any:
    """The builder, or the error in its place. Both are kept: a process reads one revision, whatever
    the hub has meanwhile."""
    try:
        return _find(parse(name))
    except DataError as error:
        return error


def _find(hub: HubName) -> Any:
    """The builder, found on the hub or in the library's cache."""
    name = str(hub)
    try:
        import datasets  # an extra, and slow to import
    except ImportError as error:
        raise DataError(
            f"{name}: reading the hub needs the package `datasets`: pip install 'seedpod[hf]'"
        ) from error
    for library in ("httpx", "httpx2"):  # each request is a line of its log
        logging.getLogger(library).setLevel(logging.WARNING)
    if not hub_answers():
        datasets.config.HF_HUB_OFFLINE = True
    path, revision = f"hf://datasets/{hub.repository}", hub.revision or None
    try:
        builder = datasets.load_dataset_builder(path, hub.config or None, revision=revision)
    except ValueError as error:  # of the configuration's name
        try:
            configs = datasets.get_dataset_config_names(path, revision=revision)
        except _errors():
            configs = []
        if hub.config in configs or len(configs) < (1 if hub.config else 2):
            raise _as_data_error(hub, error) from error
        names = ", ".join(str(hub._replace(config=config)) for config in configs[:10])
        problem = f"no configuration {hub.config!r}" if hub.config else "several configurations"
        more = f" and {len(configs) - 10} more" if len(configs) > 10 else ""
        raise DataError(
            f"{name}: {hub.repository} has {problem}; name one: {names}{more}"
        ) from error
    except _errors() as error:
        raise _as_data_error(hub, error) from error
    # Without a network the library opens the latest copy in its cache, of whatever revision.
    if hub.revision and type(builder).__name__ == "Cache" and builder.hash != hub.revision:
        raise DataError(
            f"{name}: the hub cannot be reached, and the copy on this machine is of revision "
            f"{builder.hash}"
        )
    splits = list(map(str, builder.info.splits or builder.config.data_files or ()))
    for part in hub.split.split("+"):
        split = part.partition("[")[0].strip()
        if splits and split not in (*splits, "all"):
            hint = did_you_mean(nearest(split, splits, 0.5))
            raise DataError(f"{name}: no split {split!r}; there are {', '.join(splits)}{hint}")
    return builder


def hub_answers() -> bool:
    """Whether the hub can be reached. If not, its library reads only its cache from now on: it
    would try each request for half a minute."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and not _answers(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = True
    return not constants.HF_HUB_OFFLINE


def unreachable() -> str:
    """The reason why something of the hub cannot be read, where `hub_answers` says no."""
    from huggingface_hub import constants

    return (
        f"{constants.ENDPOINT} cannot be reached (or HF_HUB_OFFLINE is set), and the cache on this "
        "machine has no copy"
    )


def _answers(address: str) -> bool:
    """Whether a server, or the proxy in front of it, takes a connection."""
    request = urllib.request.Request(address, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_WAIT):
            return True
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:  # the hub's library may know other certificates
        return isinstance(error.reason, ssl.SSLError)
    except (TimeoutError, http.client.HTTPException):
        return False


def _errors() -> tuple[type[Exception], ...]:
    """The exceptions of the library; those of the network are OSErrors."""
    import datasets
    import pyarrow

    of_library = (datasets.exceptions.DatasetsError, pyarrow.ArrowException)
    return (*of_library, OSError, ValueError, RuntimeError, ImportError, NotImplementedError)


def _as_data_error(hub: HubName, error: Exception) -> DataError:
    """The error, with what to type."""
    import datasets

    text, page = str(error), f"https://huggingface.co/datasets/{hub.repository}"
    if "is a gated dataset" in text:
        hint = f"Ask for access on {page}, then log in: hf auth login"
    elif "scripts are no longer supported" in text:
        hint = "Its code is not run; the hub may have it as Parquet: " + str(
            hub._replace(revision="refs/convert/parquet")
        )
    elif isinstance(error, datasets.exceptions.DatasetNotFoundError):
        hint = f"Look for it on {page}; if it is private, log in: hf auth login"
    elif isinstance(error, ConnectionError | TimeoutError) or "outgoing traffic" in text:
        if datasets.config.HF_HUB_OFFLINE:
            text = unreachable()
        config = f", {hub.config!r}" if hub.config else ""
        split = hub.split.partition("[")[0]
        hint = (
            "Where there is a network, type\n"
            f'  python -c "from datasets import load_dataset as load; load({hub.repository!r}'
            f"{config}, split={split!r}).save_to_disk('FOLDER')\"\n"
            "bring FOLDER here, and set the source to it; or bring the Parquet or JSONL files of "
            f"{page}/tree/main, and name them: FOLDER/*.parquet"
        )
    else:
        hint = ""
    if error.__cause__ and not hint:
        text = f"{text.rstrip('.')}: {error.__cause__}"
    text = (text or repr(error)).strip().splitlines()[0]
    return DataError(f"{hub}: {text.rstrip('.')}. {hint}".rstrip())
