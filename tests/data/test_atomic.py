"""Atomic writes (data/atomic.py)."""

import pytest
from etils import epath

from data.atomic import write_atomically


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "ü")
    assert path.read_bytes() == "ü".encode()
    write_atomically(str(path), b"\xff")
    assert path.read_bytes() == b"\xff"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["write_bytes", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch, failing):
    path = epath.Path(tmp_path / "file")
    write_atomically(path, "old")

    def fail(self, *args):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(path), failing, fail)
        with pytest.raises(OSError, match="no space"):
            write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_object_is_written(bucket):
    write_atomically("gs://bucket/file", "content")
    assert epath.Path("gs://bucket/file").read_text() == "content"
