"""Parquet files and Arrow streams: columns, cells without a value in Python, damage."""

import importlib.util
import json
from collections import Counter

import pyarrow
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from record_files import ROWS, texts, write, write_dataset

from data.errors import DataError
from data.read.sources import read


@pytest.mark.parametrize("name", ["a.parquet", "dataset"])
def test_only_the_columns_that_are_used_are_read(tmp_path, name):
    rows = [
        {
            "text": f"text {i}",
            "image": {"bytes": b"\xff\xd8", "path": f"{i}.png"},
            "score": score,
            "n": float("inf"),
        }
        for i, score in enumerate([1.5, float("nan"), None, float("-inf")])
    ]
    path = write(tmp_path / name, rows)
    assert texts(path)[0] == [row["text"] for row in rows]
    assert read(path, "text").unused == {"image": 4, "score": 4, "n": 4}
    assert texts(path, fields={"text": "{image.path}"})[0][0] == "0.png"
    fields = {"text": "{text}: {score}"}
    wanted = ["text 0: 1.5", "text 1:", "text 2:"]
    assert texts(path, fields=fields) == (wanted, {"not_finite": 1})
    for template in ("{image.bytes}", "An {image.bytes}"):
        with pytest.raises(DataError, match=r"\[0\]: .* 2 bytes that are not UTF-8") as error:
            read(path, "text", fields={"text": template})
        assert error.value.reason == "invalid_utf8"
    with pytest.raises(DataError, match="the record has 'text', 'image', 'score', 'n'"):
        read(path, "text", fields={"text": "{txt}"})


@pytest.mark.parametrize("name", ["a.parquet", "dataset"])
def test_cells_that_are_no_text_are_errors_of_their_record(tmp_path, name):
    bad = pyarrow.array([b"a", b"\xff", b"c", b"d"]).view(pyarrow.string())
    kind = pyarrow.list_(pyarrow.struct([("text", pyarrow.string())]))
    nested = [[{"text": b"a"}], [{"text": b"b"}], [], [{"text": b"\xff"}]]
    nested = pyarrow.array(nested, pyarrow.list_(pyarrow.struct([("text", pyarrow.binary())])))
    twice = pyarrow.array([[("k", "a")], [("k", "b")], [("k", "c")], [("k", "d"), ("k", "e")]],
                          pyarrow.map_(pyarrow.string(), pyarrow.string()))  # fmt: skip
    when = pyarrow.array([0, 1, 2, None], pyarrow.timestamp("ns"))
    columns = {"text": bad, "turns": nested.view(kind), "map": twice, "when": when}
    path = write(tmp_path / name, pyarrow.table(columns))
    assert texts(path) == (["a", "c", "d"], {"invalid_utf8": 1})
    fields = {"text": "{turns[0].text}"}
    assert texts(path, fields=fields) == (["a", "b"], {"missing_field": 1, "invalid_utf8": 1})
    fields = {"text": "{map.k}"}
    assert texts(path, fields=fields) == (["a", "b", "c"], {"duplicate_key": 1})
    fields = {"text": "at {when}"}  # neither a time nor a missing one becomes text
    # Nanoseconds are a pandas.Timestamp where that is installed, and cannot be read elsewhere.
    reason = "wrong_type" if importlib.util.find_spec("pandas") else "bad_cell"
    assert texts(path, fields=fields) == (["at"], Counter(wrong_type=1) + Counter({reason: 2}))


@pytest.mark.parametrize("name", ["a.parquet", "dataset"])
def test_columns_and_fields_of_one_name(tmp_path, name):
    column = pyarrow.array(["a"])
    path = write(tmp_path / name, pyarrow.Table.from_arrays([column, column], names=["n", "n"]))
    with pytest.raises(DataError, match="two columns are named 'n'") as error:
        read(path, "text", on_bad="skip")
    assert error.value.__cause__ is None  # its own cause would be a chain without an end
    twice = pyarrow.StructArray.from_arrays([column, column], names=["k", "k"])
    path = write(tmp_path / "more" / name, pyarrow.table({"text": column, "other": twice}))
    assert texts(path)[0] == ["a"]
    with pytest.raises(DataError, match="column 'other': two fields are named 'k'"):
        read(path, "text", fields={"text": "{other.k}"})


def test_folders_of_datasets_that_are_broken(tmp_path):
    path = write_dataset(tmp_path / "one", ROWS)
    arrow = sorted((tmp_path / "one").glob("*.arrow"))
    arrow[1].write_bytes(arrow[1].read_bytes()[:-40])
    with pytest.raises(DataError, match=r"00001-of-00002\.arrow: cannot be read"):
        read(path, "text", on_bad="skip")
    arrow[1].unlink()
    with pytest.raises(DataError, match=r"00001-of-00002\.arrow: cannot be read: No such"):
        read(path, "text")
    unreadable, other = "is not readable JSON", "is not of the form that it should have"
    for broken, message in (("{", unreadable), ("[1]", other), ("[" * 100_000, unreadable)):
        (tmp_path / "one/state.json").write_text(broken)
        with pytest.raises(DataError, match=rf"state\.json {message}"):
            read(path, "text")
    (tmp_path / "secret.arrow").write_bytes(arrow[0].read_bytes())
    (tmp_path / "one/link.arrow").symlink_to(tmp_path / "secret.arrow")
    for name in ("a\0\ud800", "../secret.arrow", str(tmp_path / "secret.arrow"), "gs://b/a", "."):
        (tmp_path / "one/state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
        with pytest.raises(DataError, match=r"state\.json names .*, which is no file of its"):
            read(path, "text")
    (tmp_path / "one/state.json").write_text('{"_data_files": [{"filename": "link.arrow"}]}')
    with pytest.raises(DataError, match=r"link\.arrow, .*, is a link to .*/secret\.arrow, outside"):
        read(path, "text")
    for broken in ("{}", '{"_data_files": 3}', '{"_data_files": ["a"]}', '{"_data_files": [{}]}'):
        (tmp_path / "one/state.json").write_text(broken)
        with pytest.raises(DataError, match=r"state\.json names no data files"):
            read(path, "text")
    both = tmp_path / "both"
    write_dataset(both / "train", ROWS)
    (both / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(DataError, match=f"name one: {both}/train, {both}/test"):
        read(str(both), "text")


@settings(
    max_examples=60, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(at=st.integers(0, 400), byte=st.integers(0, 255), cut=st.integers(0, 400))
@example(at=120, byte=0, cut=0)  # no column of the data set has a name
@example(at=356, byte=0, cut=0)  # pyarrow reads none of the first row group's three rows
@pytest.mark.parametrize("name", ["a.parquet", "dataset"])
def test_a_damaged_arrow_file_is_read_whole_or_refused(tmp_path, name, at, byte, cut):
    path = tmp_path / name
    if not path.exists():
        write(path, ROWS)
    file = path if path.is_file() else sorted(path.glob("*.arrow"))[0]
    whole = file.read_bytes()
    damaged = bytearray(whole[: len(whole) - cut % 7])
    damaged[at % len(damaged)] = byte
    file.write_bytes(damaged)
    try:
        result = read(str(path), "text", on_bad="skip")
        assert len(result.examples) + result.skipped.total() == len(ROWS)
    except DataError as error:
        assert str(path) in str(error)
    finally:
        file.write_bytes(whole)
