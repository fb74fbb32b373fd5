"""Every format: what it holds, parts of it, what is broken; and object stores."""

import bz2
import csv
import gzip
import json
import lzma
import os
import tracemalloc
from collections import Counter

import pyarrow
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from data.errors import DataError
from data.read import columns, json_records, lines, sources
from data.read.sources import read

ROWS = [{"text": f"text {i} ü", "n": i} for i in range(7)]


def write_dataset(folder, rows, parts=2):
    """As Hugging Face `datasets` saves one."""
    folder.mkdir(parents=True)
    size, names = -(-len(rows) // parts), []
    for k in range(parts):
        names.append({"filename": f"data-{k:05}-of-{parts:05}.arrow"})
        table = rows[k * size : (k + 1) * size]
        table = pyarrow.Table.from_pylist(table) if isinstance(rows, list) else table
        with pyarrow.ipc.new_stream(folder / names[-1]["filename"], table.schema) as out:
            out.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": names, "_split": "train"}))
    return str(folder)


def write(path, rows):
    """The rows in the format that the path's ending names."""
    ending = "".join(path.suffixes).removesuffix(".gz")
    if ending == "":
        return write_dataset(path, rows)
    if ending == ".parquet":
        table = pyarrow.Table.from_pylist(rows) if isinstance(rows, list) else rows
        path.parent.mkdir(exist_ok=True)
        parquet.write_table(table, path, row_group_size=3)
        return str(path)
    separator, quote = ("\t", "") if ending == ".tsv" else (",", '"')
    text = {
        ".txt": lambda: "".join(row["text"] + "\n" for row in rows),
        ".jsonl": lambda: "".join(json.dumps(row) + "\n" for row in rows),
        ".json": lambda: json.dumps(rows, indent=1),
    }.get(ending, lambda: separator.join(rows[0]) + "\n" + "".join(
        f"{quote}{row['text']}{quote}{separator}{row['n']}\r\n" for row in rows
    ))()  # fmt: skip
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


NAMES = ["a.txt", "a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "dataset"]
NAMES += ["a.txt.gz", "a.jsonl.gz", "a.json.gz", "a.csv.gz"]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_same_texts_whole_and_in_parts(tmp_path, name, monkeypatch):
    monkeypatch.setattr(lines, "SPAN_BYTES", 40)
    monkeypatch.setattr(columns, "SPAN_RECORDS", 3)
    path = write(tmp_path / name, ROWS)
    examples = read(path, "text").examples
    assert [e["text"] for e in examples] == [row["text"] for row in ROWS]
    assert len({e["where"] for e in examples}) == len(ROWS)
    (item,) = sources.inputs_of(path, "text")
    spans = item.spans()
    assert (len(spans) > 1) == (name in ("a.txt", "a.jsonl", "a.parquet"))
    assert [e for span in spans for e in read(path, "text", span=span).examples] == examples


def test_a_line_longer_than_a_part_is_in_one(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "SPAN_BYTES", 8)
    path = write(tmp_path / "a.txt", [{"text": "x" * 50}, {"text": "y"}, {"text": "z" * 9}])
    spans = sources.inputs_of(path, "text")[0].spans()
    assert [len(read(path, "text", span=span).examples) for span in spans] == [1, 1, 1] or sum(
        len(read(path, "text", span=span).examples) for span in spans
    ) == 3
    assert spans[0].stop == 51 and spans[-1].line in (2, 3)
    found = [read(path, "text", span=s, max_record_bytes=20, on_bad="skip") for s in spans]
    assert [e["where"] for part in found for e in part.examples] == [f"{path}:2", f"{path}:3"]
    assert sum((part.skipped for part in found), Counter()) == {"too_large": 1}


def test_a_cell_may_hold_the_separator_a_quote_and_a_line_end(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,x\n"one, ""two""\nthree",1\nfour,2\n\n')
    found = read(str(path), "text").examples
    assert [e["text"] for e in found] == ['one, "two"\nthree', "four"]
    assert [e["where"] for e in found] == [f"{path}:2", f"{path}:4"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'[{"text": "a"}', "a.json: not JSON"),
        ("a.json", b'{"text": "a"}', "a JSON dict.*name it .*a.jsonl"),
        ("a.json", b"[\xff]", "a.json: not UTF-8"),
        ("a.json", b"[3]", r"a.json\[0\]: a JSON int where an object"),
        ("a.json", b"  ", "holds no record"),
        ("a.csv", b"text,n\na\n", "a.csv:2: 1 cells in a table of 2 columns"),
        ("a.json", b'[{"text": "a"},\n]', "a.json: not JSON: .* line 2, column 1"),
        ("a.json", b'[{"text": "a"} {}]', "a.json: not JSON: .* line 1, column 16"),
        ("a.json", b"[]\n3", "a.json: not JSON: Extra data at line 2, column 1"),
        ("a.json", b'[{"text": "a", "text": "b"}]', r"a.json\[0\]: the key 'text' is there twice"),
        ("a.csv", b'text\n"a\n', "a.csv:2: not a row of a table: unexpected end"),
        ("a.csv", b'text,n\na,1\n"b,2\nc,3\n', "a.csv:3: not a table: .* on line 4"),
        ("a.csv", b"text,n,text\na,1,b\n", "a.csv:1: two columns are named 'text'"),
        ("a.csv", b"\xff,text\n1,a\n", "a.csv:1: the name of column 1 is not UTF-8"),
        ("a.tsv", b"n\ttext\tn\n1\ta\t2\n", "a.tsv:1: two columns are named 'n'"),
        ("a.tsv", b"text\tn\n\xff\t1\n", "a.tsv:2: not UTF-8"),
        ("a.csv", b"text\n", "a.csv: holds no record"),
        ("a.csv", b"txt\na\n", "a.csv:2: no field 'text'"),
        ("a.parquet", b"PAR1 and no more", "a.parquet: cannot be read"),
        ("a.parquet", b"", "a.parquet: cannot be read"),
        ("a.md", b"a", r"read from \.txt, \.jsonl, .*by the name's ending"),
    ],
)
def test_a_broken_file_says_where(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"(?s){message}"):
        read(str(path), "text")


def test_a_broken_record_of_a_table_can_be_skipped(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,n\na,1\nb\n\xff,2\nc,3\n")
    found = read(str(path), "text", on_bad="skip")
    assert [e["text"] for e in found.examples] == ["a", "c"]
    assert found.skipped == {"bad_row": 1, "invalid_utf8": 1}


def texts(path, **options):
    """(texts, what was skipped) of a file."""
    found = read(str(path), "text", on_bad="skip", **options)
    return [example["text"] for example in found.examples], dict(found.skipped)


def test_rows_that_are_none_are_skipped_in_the_middle_of_a_table(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'text,n\na,1\n"b"b,2\n"c ""\n"" d",3\n"e"",4\n')
    assert texts(path) == (["a", 'c "\n" d'], {"bad_row": 2})


def test_a_tsv_has_no_quoting(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('text\tn\n"a\t1\nb"\t2\n""\t3\nd \\t, \'e"\t4\r\n\nf\n')
    assert texts(path) == (['"a', 'b"', '""', "d \\t, 'e\""], {"bad_row": 1})


def test_a_cell_has_any_length_and_the_limit_of_others_stays(tmp_path):
    path, limit = tmp_path / "a.csv", csv.field_size_limit()
    path.write_text('text\n"' + "x" * 200_000 + '"\n')
    assert [len(text) for text in texts(path)[0]] == [200_000]
    rows = sources.iterate(str(path), "text")
    next(rows)
    assert csv.field_size_limit() == limit


def test_csv_cells_are_text_as_they_are_written(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text\nnan\nNULL\n1.50\n")
    assert texts(path)[0] == ["nan", "NULL", "1.50"]


def test_each_object_of_a_list_is_found_and_skipped_alone(tmp_path, monkeypatch):
    items = ['{"text": "a"}', '{"text": "b", "text": "c"}', '{"text": "d", "n": 1e999}']
    items += ['{"text": "e\\u00fc", "n": NaN}', '{"n": ' + "1" * 5000 + "}", '{"text": "\xff"}']
    items += ["3", '{"text": "' + "x" * 5200 + '"}', '{"n": [[{"k": 1, "k": 2}]], "text": "f"}']
    items += [json.dumps({"text": "ü𝄞" * 400}, ensure_ascii=False), '{"text": "last"}']
    path = tmp_path / "a.json"
    data = "\ufeff \n[" + " ,\n ".join(items) + " ]\n "
    path.write_bytes(data.encode().replace("\xff".encode(), b"\xff"))
    wanted = ["a", "eü", "ü𝄞" * 400, "last"]
    reasons = {"duplicate_key": 2, "not_finite": 1, "bad_json": 1, "invalid_utf8": 1}
    reasons |= {"not_an_object": 1, "too_large": 1}
    for chunk in (1, 7, 1 << 20):  # parted anywhere, and read at once
        monkeypatch.setattr(json_records, "_CHUNK", chunk)
        assert texts(path, max_record_bytes=5100) == (wanted, reasons)


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
    fields = {"text": "at {when}"}  # no text is made of a time, nor of one that is missing
    assert texts(path, fields=fields) == (["at"], {"wrong_type": 1, "bad_cell": 2})


@pytest.mark.parametrize("name", ["a.parquet", "dataset"])
def test_columns_and_fields_of_one_name(tmp_path, name):
    one = pyarrow.array(["a"])
    path = write(tmp_path / name, pyarrow.Table.from_arrays([one, one], names=["n", "n"]))
    with pytest.raises(DataError, match="two columns are named 'n'"):
        read(path, "text", on_bad="skip")
    twice = pyarrow.StructArray.from_arrays([one, one], names=["k", "k"])
    path = write(tmp_path / "more" / name, pyarrow.table({"text": one, "other": twice}))
    assert texts(path)[0] == ["a"]
    with pytest.raises(DataError, match="column 'other': two fields are named 'k'"):
        read(path, "text", fields={"text": "{other.k}"})


# What a file is, and how large.


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", gzip.compress(b"{}", mtime=0), "is a gzip: add .gz to its name"),
        ("a.txt", gzip.compress(b"a", mtime=0), "is a gzip"),
        ("a.parquet", gzip.compress(b"a", mtime=0), "is a gzip"),
        ("a.csv", bz2.compress(b"a"), "is a bzip2 file: unpack it with bunzip2"),
        ("a.json", lzma.compress(b"a"), "is a xz file"),
        ("a.txt", b"\x28\xb5\x2f\xfd\0", "is a zstd file: unpack it with unzstd"),
        ("a.txt", b"PK\x03\x04\0", "is a zip archive"),
        ("a.txt", b"PAR1\x15\0", "is a Parquet file: rename it"),
        ("a.txt", b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
        ("a.txt.gz", b"line\n", "is a plain file and no gzip.*: rename it to .*a.txt$"),
        ("a.txt.gz", bz2.compress(b"a"), "is a bzip2 file and no gzip"),
        (
            "a.txt.gz",
            gzip.compress(gzip.compress(b"a", mtime=0), mtime=0),
            "holds a gzip inside of its gzip",
        ),
    ],
)
def test_a_file_that_is_another_than_its_name_says(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} {message}"):
        read(str(path), "text", on_bad="skip")


LARGE = [{"text": "a", "n": 0}, {"text": "x" * 300, "n": 1}, {"text": "c", "n": 2}]


@pytest.mark.parametrize("name", NAMES)
def test_a_record_that_is_too_large(tmp_path, name):
    path = write(tmp_path / name, LARGE)
    with pytest.raises(DataError, match=r"of more than 200 bytes.*data\.max_record_bytes") as error:
        read(path, "text", max_record_bytes=200)
    assert str(error.value).startswith(path)
    if ".csv" in name:  # a quotation mark may have been forgotten: the rows behind it are unknown
        assert f"{path}:3: " in str(error.value) and not error.value.reason
    else:
        assert texts(path, max_record_bytes=200) == (["a", "c"], {"too_large": 1})
    assert len(texts(path, max_record_bytes=330)[0]) == 3


def test_a_quotation_mark_that_is_never_closed_ends_at_the_limit(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,n\na,1\n"b,2\n' + "c,3\n" * 1000)
    with pytest.raises(DataError, match=r"a\.csv:3: .*a quotation mark in it may never be closed"):
        read(str(path), "text", on_bad="skip", max_record_bytes=400)


def test_a_whole_file_and_a_row_group_that_are_too_large(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n" * 20)
    assert len(texts(path, documents="file", max_record_bytes=160)[0]) == 1
    with pytest.raises(DataError, match=r"a\.txt:1: a record of more than 159 bytes"):
        read(str(path), "text", documents="file", max_record_bytes=159)
    path = write(tmp_path / "a.parquet", LARGE)
    monkeypatch.setattr(columns, "_BATCH_BYTES", 50)  # more than that is not read to be looked at
    with pytest.raises(DataError, match=r"a\.parquet\[0\]: .* of row group 0 have \d+ on average"):
        read(path, "text", on_bad="skip", max_record_bytes=50)


def test_a_line_that_is_too_large_is_not_held(tmp_path):
    path = tmp_path / "a.jsonl"
    with open(path, "wb") as file:  # most of it is a hole on the disk
        file.write(b'{"text": "a"}\n{"text": "')
        file.seek(40 << 20, os.SEEK_CUR)
        file.write(b'"}\n{"text": "c"}\n')
    tracemalloc.start()
    try:
        assert texts(path, max_record_bytes=1 << 20) == (["a", "c"], {"too_large": 1})
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "first", "rest"),
    [("a.txt.gz", b"", b"\0"), ("a.json.gz", b"[", b" "), ("a.csv.gz", b'text\n"', b"xx")],
)
def test_a_gzip_that_unpacks_to_too_much(tmp_path, name, first, rest):
    path = tmp_path / name
    path.write_bytes(gzip.compress(first + rest * (6 << 20)))
    with pytest.raises(DataError, match=r"unpacks to more than 200 times.*gunzip"):
        read(str(path), "text", on_bad="skip")


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
    for broken, said in (("{", unreadable), ("[1]", other), ("[" * 100_000, unreadable)):
        (tmp_path / "one/state.json").write_text(broken)
        with pytest.raises(DataError, match=rf"state\.json {said}"):
            read(path, "text")
    (tmp_path / "one/state.json").write_text('{"_data_files": [{"filename": "a\\u0000\\ud800"}]}')
    with pytest.raises(DataError, match="is no name of a file"):
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


def test_an_object_store_reads_as_a_disk(bucket, tmp_path):
    for name in ("a.jsonl", "b.jsonl.gz", "deep/er/c.jsonl"):
        here = tmp_path / name.replace("/", "_")
        write(here, ROWS)
        bucket.pipe(f"gs://bucket/corpus/{name}", here.read_bytes())
    wanted = [row["text"] for row in ROWS]
    assert [e["text"] for e in read("gs://bucket/corpus/a.jsonl", "text").examples] == wanted
    found = read(["gs://bucket/corpus/*.jsonl*", "gs://bucket/corpus/*/er/*"], "text").examples
    assert [e["text"] for e in found] == wanted * 3
    assert found[0]["where"] == "gs://bucket/corpus/a.jsonl:1"
    write(tmp_path / "d.parquet", ROWS)
    bucket.pipe("gs://bucket/d.parquet", (tmp_path / "d.parquet").read_bytes())
    assert [e["text"] for e in read("gs://bucket/*.parquet", "text").examples] == wanted
    with pytest.raises(DataError, match="name its folders"):
        read("gs://bucket/**", "text")
    for missing in ("gs://bucket/none.txt", "gs://bucket/*.txt"):
        with pytest.raises(DataError, match="no file"):
            read(missing, "text")


CSV = st.text(st.sampled_from('text,"\n\r\tü\0'), max_size=60).map(lambda t: b"text\n" + t.encode())
BYTES = st.binary(max_size=200) | CSV


@settings(
    max_examples=150, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=BYTES,
    name=st.sampled_from(["a.txt", "a.txt.gz", "a.json", "a.csv", "a.tsv.gz", "a.parquet"]),
    on_bad=st.sampled_from(["error", "skip"]),
    zipped=st.booleans(),
)
def test_any_bytes_give_texts_or_an_error_that_names_the_file(tmp_path, data, name, on_bad, zipped):
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if zipped and name.endswith(".gz") else data)
    try:
        found = read(str(path), "text", on_bad=on_bad)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert found.examples == read(str(path), "text", on_bad=on_bad).examples
        json.dumps(found.examples, ensure_ascii=False).encode()


@settings(
    max_examples=60, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(at=st.integers(0, 400), byte=st.integers(0, 255), cut=st.integers(0, 400))
@example(at=356, byte=0, cut=0)  # of the first row group's three rows pyarrow gives none
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
        found = read(str(path), "text", on_bad="skip")
        assert len(found.examples) + found.skipped.total() == len(ROWS)
    except DataError as error:
        assert str(path) in str(error)
    finally:
        file.write_bytes(whole)
