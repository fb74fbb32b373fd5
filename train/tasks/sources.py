"""The documents of a benchmark: from a folder of files, or from the task's own source."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from etils import epath

from data.errors import DataError
from data.read.readers import READERS
from data.read.reading import ReadOptions
from data.read.sources import inputs_of
from ranges import ConfigError
from suggestions import did_you_mean, nearest
from train.tasks.base import Document, Task

POOL_SHARE, MOST_OF_POOL = 10, 100  # the pool of a task without one: a tenth, at most 100
_OPTIONS = ReadOptions()


class Documents(NamedTuple):
    """The documents of a task, as its `prepare` returns them, each with `where` it was read.

    Attributes:
      scored: those that are scored. pool: those of which examples are drawn; never scored.
      source, pool_source: where they were read; `pool_source` is "" for a pool out of `source`.
      taken: the number of documents of `source` that are the pool, and so not scored.
      left_out: the number of records that cannot be scored.
    """

    scored: list[Document]
    pool: list[Document]
    source: str
    pool_source: str
    taken: int = 0
    left_out: int = 0


def load(
    task: Task, data: Sequence[str] = (), shots: int = 0, seed: int = 0, tfds_dir: str = ""
) -> Documents:
    """The documents of a task, in the order of the source.

    Args:
      data: folders that are searched, in order, for the task's files: NAME.jsonl or
        NAME/SPLIT.jsonl, of any format that is read, also as .gz; the pool's is NAME/SPLIT.jsonl by
        the pool's split, or NAME.pool.jsonl. A file that is there replaces the task's source.
        An entry NAME=SOURCE names the source itself, as `data.source`, and NAME.pool=SOURCE the
        pool's.
      shots: the most examples that will be drawn; 0 reads no pool. A task without a pool gives up a
        seeded tenth of its documents for it, the same for any number of shots.

    Raises:
      DataError: a file cannot be read, or a record is not one of the task's.
    """
    source = _file(task, task.source, data) or task.source
    if not source:
        folders = ", ".join(data) or "no folder"
        raise DataError(
            f"task {task.name} has no data: no {' or '.join(_names(task))}.jsonl in {folders}; put "
            "one into a folder FOLDER, and type --data=FOLDER"
        )
    try:
        scored, left_out = _read(task, source, tfds_dir)
    except DataError as error:
        if source != task.source or not data:
            raise
        names = " or ".join(_names(task))
        raise DataError(f"{error}\nThere is no {names}.jsonl in {', '.join(data)}") from None
    if not shots or task.examples:
        return Documents(scored, [], source, "", 0, left_out)
    pool_source = _pool(task, source, data)
    if pool_source:
        pool, _ = _read(task, pool_source, tfds_dir)
        return Documents(scored, pool, source, pool_source, 0, left_out)
    count = min(MOST_OF_POOL, len(scored) // POOL_SHARE)
    taken = set(random.Random(f"{seed} pool").sample(range(len(scored)), count))
    pool = [document for i, document in enumerate(scored) if i in taken]
    scored = [document for i, document in enumerate(scored) if i not in taken]
    return Documents(scored, pool, source, "", len(pool), left_out)


def _names(task: Task) -> tuple[str, ...]:
    return (task.name, *task.files)


def _split(source: str) -> str:
    """The split of a named source; "" of a path."""
    return source.partition("[")[0].rpartition(":")[2] if ":" in source else ""


def check(data: Sequence[str], names: Collection[str]) -> None:
    """Raises ConfigError for an entry of `data` that is no folder, or names a task that is none of
    `names`."""
    for entry in data:
        name, equals, source = entry.partition("=")
        if not equals and not epath.Path(os.path.expanduser(entry)).is_dir():
            stem = os.path.basename(entry).partition(".")[0]
            named = f"--data={stem}={entry:.80}" if stem in names else "NAME=SOURCE"
            raise ConfigError(f"data={entry:.80} is no folder; type a folder, or {named}")
        if equals and name.removesuffix(".pool") not in names:
            raise ConfigError(
                f"data={entry:.80}: {name.removesuffix('.pool')} is none of the tasks "
                f"{', '.join(names)}{did_you_mean(nearest(name, names))}"
            )
        if equals and not source:
            raise ConfigError(f"data={entry:.80} names no source; type --data={entry}PATH")


def _find(stems: Sequence[str], data: Sequence[str]) -> str:
    """The source that `data` gives one of the names, or the first file of a folder that has it,
    with any ending that is read; "" if there is none."""
    for entry in data:
        name, equals, source = entry.partition("=")
        if equals and name in stems:
            return source
    for folder in (entry for entry in data if "=" not in entry):
        for stem in stems:
            for ending in READERS:
                for packed in ("", ".gz"):
                    path = os.path.join(os.path.expanduser(folder), stem + ending + packed)
                    if epath.Path(path).exists():
                        return path
    return ""


def _file(task: Task, source: str, data: Sequence[str]) -> str:
    stems = list(_names(task))
    if split := _split(source):
        stems += [os.path.join(name, split) for name in _names(task)]
    return _find(stems, data)


def _pool(task: Task, source: str, data: Sequence[str]) -> str:
    """The source of a task's pool; "" for documents of `source`. A file for the documents goes with
    a file for the pool: the hub's may hold the same documents."""
    if named := _find([f"{name}.pool" for name in _names(task)], data):
        return named
    if source == task.source:
        return task.pool
    split = _split(task.pool)
    return _find([os.path.join(name, split) for name in _names(task)], data) if split else ""


def _read(task: Task, source: str, tfds_dir: str) -> tuple[list[Document], int]:
    """(documents, number of records without one)."""
    documents: list[Document] = []
    left_out = 0
    for location, record in _records(task, source, tfds_dir):
        try:
            if isinstance(record, DataError):
                raise record
            prepared = task.prepare(record)
            json.dumps(prepared, ensure_ascii=False, default=str).encode()
        except DataError as error:
            raise _located(task, location, str(error), error.reason) from None
        except UnicodeEncodeError:  # JSON's \ud800 alone: no tokenizer could take it
            message = "half a surrogate pair, which is no Unicode text; drop that character"
            raise _located(task, location, message, "invalid_utf8") from None
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            # Of a field whose value is of another type.
            message = f"{type(error).__name__}: {error}"
            raise _located(task, location, message, "wrong_type") from None
        left_out += not prepared
        documents += [{**document, "where": location} for document in prepared]
    if not documents:
        unfit = f": none of {left_out} records can be scored" if left_out else ""
        raise DataError(f"{source}: no document of task {task.name}{unfit}")
    return documents, left_out


def _located(task: Task, location: str, message: str, reason: str) -> DataError:
    return DataError(f"{location}: {message}\n(task {task.name}: {task.description})", reason)


def _records(task: Task, source: str, tfds_dir: str) -> Iterator[tuple[str, Document | DataError]]:
    if task.records and source == task.source:
        yield from task.records()
        return
    for item in inputs_of(source, "text", task.documents, tfds_dir):
        yield from item.read(None, _OPTIONS)
