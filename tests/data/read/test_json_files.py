"""JSON files of Seedpod: the error for a damaged one names the file and the place in one line."""

from typing import NotRequired, TypedDict

import pytest
from etils import epath

from data.errors import DataError
from data.read import json_files


class Kind(TypedDict):
    name: str
    sizes: list[int]
    note: NotRequired[str]


def test_a_value_is_read_as_it_is(tmp_path):
    path = epath.Path(tmp_path / "a.json")
    path.write_text('{"name": "x", "sizes": [1, 2], "beside": NaN}')
    value = json_files.read(path, Kind)
    assert value["sizes"] == [1, 2] and "beside" in value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"a\.json is not readable JSON"),
        (b"\xff", r"a\.json is not readable JSON.*utf-8"),
        (b"[" * 100_000, r"a\.json is not readable JSON"),
        (b"[1]", r"a\.json is not of the form.*object"),
        (b'{"name": "x"}', r"missing required field `sizes`"),
        (b'{"name": "x", "sizes": [1, "2"]}', r"\$\.sizes\[1\]"),
        (b'{"name": null, "sizes": []}', r"\$\.name"),
    ],
)
def test_what_is_damaged_is_named(tmp_path, content, message):
    path = epath.Path(tmp_path / "a.json")
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        json_files.read(path, Kind)


def test_a_damaged_line_is_named(tmp_path):
    path = epath.Path(tmp_path / "a.jsonl")
    path.write_bytes(b'{"name": "x", "sizes": []}\n\n{"name": 1}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:3 is not"):
        json_files.read_lines(path, Kind)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a\.json cannot be read: No such file"):
        json_files.read(epath.Path(tmp_path / "a.json"))
