"""The manifest of a folder of prepared rows, and the held-out examples beside the shards."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal, NotRequired, TypedDict, TypeGuard

import msgspec
from etils import epath

from data.errors import DataError
from data.read import json_files
from interpreter import python

FORMAT = 1
MANIFEST, HELDOUT = "manifest.json", "heldout.jsonl"
# The beginning of the name of a file with the number of examples that begin in each row of a shard,
# <u4.
EXAMPLES = "examples-"

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 48)]


class Shard(TypedDict):
    """A file of rows."""

    file: Annotated[str, msgspec.Meta(max_length=255)]
    rows: Count
    tokens: Count
    bytes: Count
    sha256: NotRequired[str]


class TokenizerInfo(TypedDict):
    """The tokenizer of the rows."""

    fingerprint: str
    vocab_size: Annotated[int, msgspec.Meta(ge=1)]


class Splits(TypedDict):
    """The shards of each split."""

    train: list[Shard]
    heldout: list[Shard]


class Settings(TypedDict, total=False):
    """The settings of DataConfig that reading the rows depends on."""

    fim_rate: float


class Manifest(TypedDict):
    """The parts of manifest.json that are read (data/prepare/shards.py `finish` writes it)."""

    schema: str
    length: Annotated[int, msgspec.Meta(ge=1)]
    token_dtype: Literal["<u2", "<u4"]
    tokenizer: TokenizerInfo
    settings: Settings
    documents: dict[str, Count]
    splits: Splits


def is_prepared(source: Any) -> TypeGuard[str]:
    """Whether a source is a folder of prepared rows."""
    if not isinstance(source, str) or not source:
        return False
    return (epath.Path(os.path.expanduser(source)) / MANIFEST).exists()


def read_manifest(folder: epath.PathLike) -> dict:
    """The manifest of a folder, with the keys that `Manifest` does not name.

    Raises:
      DataError: there is none, it is damaged, or it is of another format.
    """
    path = epath.Path(os.path.expanduser(folder)) / MANIFEST
    version = json_files.read(path).get("format")
    if version != FORMAT:
        raise DataError(
            f"{path} is of format {str(version)[:40]}, and this Seedpod reads {FORMAT}; prepare "
            f"again: {python()} -m data.prepare"
        )
    return json_files.read(path, Manifest)


def heldout_examples(folder: epath.PathLike) -> list[dict]:
    """The few held-out documents that a folder holds as text, for people to read."""
    return json_files.read_lines(epath.Path(os.path.expanduser(folder)) / HELDOUT)
