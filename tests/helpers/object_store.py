"""An object store in memory under names of gs://, for what reads and writes through epath."""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem


class Store(MemoryFileSystem):
    """An object store in memory, with names as those of gs://."""

    protocol = ("gs", "gcs")
    store, pseudo_dirs, cachable = {}, [""], False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("gs:/"))

    def glob(self, path: str, **options: Any) -> list[str]:
        return [found.removeprefix("/") for found in super().glob(path, **options)]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    registry = importlib.import_module("fsspec.registry")._registry
    for name in Store.protocol:
        monkeypatch.setitem(registry, name, Store)
    yield Store()
    Store.store.clear()
    Store.pseudo_dirs[:] = [""]
