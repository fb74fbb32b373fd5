"""Every format: records, spans, damage and limits; and object stores."""

import bz2
import gzip
import json
import lzma
import os
import tracemalloc
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from record_files import NAMES, ROWS, texts, write

from data.errors import DataError
from data.read import columns, json_records, lines, readers, sources
from data.read.sources import read


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


def test_markdown_is_a_document_a_file(tmp_path):
    (tmp_path / "a.md").write_text("# One\n\ntext\n")
    path = str(tmp_path / "a.md")
    assert read(path, "text").examples == [{"text": "# One\n\ntext", "where": f"{path}:1"}]
    with pytest.raises(DataError, match=r"schema 'chat' is read from \.jsonl, \.json"):
        read(path, "chat")


def test_a_line_longer_than_a_part_is_in_one(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "SPAN_BYTES", 8)
    path = write(tmp_path / "a.txt", [{"text": "x" * 50}, {"text": "y"}, {"text": "z" * 9}])
    spans = sources.inputs_of(path, "text")[0].spans()
    assert [len(read(path, "text", span=span).examples) for span in spans] == [1, 1, 1] or sum(
        len(read(path, "text", span=span).examples) for span in spans
    ) == 3
    assert spans[0].stop == 51 and spans[-1].line in (2, 3)
    results = [read(path, "text", span=s, max_record_bytes=20, on_bad="skip") for s in spans]
    assert [e["where"] for part in results for e in part.examples] == [f"{path}:2", f"{path}:3"]
    assert sum((part.skipped for part in results), Counter()) == {"too_large": 1}


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
        ("a.rst", b"a", r"read from \.txt, \.md, \.jsonl, .*by the name's ending"),
    ],
)
def test_a_broken_file_says_where(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"(?s){message}"):
        read(str(path), "text")


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
    for chunk in (1, 7, 1 << 20):  # divided anywhere, and in one piece
        monkeypatch.setattr(json_records, "_CHUNK", chunk)
        assert texts(path, max_record_bytes=5100) == (wanted, reasons)


# Formats and sizes.


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
        ("a.txt.gz", b"line\n", "is a plain file and not a gzip.*: rename it to .*a.txt$"),
        ("a.txt.gz", bz2.compress(b"a"), "is a bzip2 file and not a gzip"),
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
    if ".csv" in name:  # a quotation mark may be missing: the rows after it are unknown
        assert f"{path}:3: " in str(error.value) and not error.value.reason
    else:
        assert texts(path, max_record_bytes=200) == (["a", "c"], {"too_large": 1})
    assert len(texts(path, max_record_bytes=330)[0]) == 3


def test_a_whole_file_and_a_row_group_that_are_too_large(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n" * 20)
    assert len(texts(path, documents="file", max_record_bytes=160)[0]) == 1
    with pytest.raises(DataError, match=r"a\.txt:1: a record of more than 159 bytes"):
        read(str(path), "text", documents="file", max_record_bytes=159)
    path = write(tmp_path / "a.parquet", LARGE)
    monkeypatch.setattr(columns, "_BATCH_BYTES", 50)  # larger row groups are not read
    with pytest.raises(DataError, match=r"a\.parquet\[0\]: .* of row group 0 have \d+ on average"):
        read(path, "text", on_bad="skip", max_record_bytes=50)


def test_a_line_that_is_too_large_is_not_held(tmp_path):
    path = tmp_path / "a.jsonl"
    with open(path, "wb") as file:  # most of it is a hole in a sparse file
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


def test_an_object_store_reads_as_a_disk(bucket, tmp_path):
    for name in ("a.jsonl", "b.jsonl.gz", "deep/er/c.jsonl"):
        here = tmp_path / name.replace("/", "_")
        write(here, ROWS)
        bucket.pipe(f"gs://bucket/corpus/{name}", here.read_bytes())
    wanted = [row["text"] for row in ROWS]
    assert [e["text"] for e in read("gs://bucket/corpus/a.jsonl", "text").examples] == wanted
    examples = read(["gs://bucket/corpus/*.jsonl*", "gs://bucket/corpus/*/er/*"], "text").examples
    assert [e["text"] for e in examples] == wanted * 3
    assert examples[0]["where"] == "gs://bucket/corpus/a.jsonl:1"
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
        result = read(str(path), "text", on_bad=on_bad)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert result.examples == read(str(path), "text", on_bad=on_bad).examples
        json.dumps(result.examples, ensure_ascii=False).encode()


def test_a_format_is_a_function_and_its_row(tmp_path, monkeypatch):
    def read_dots(path, span, options):
        del span
        for number, word in enumerate(open(path).read().split("."), 1):  # noqa: SIM115
            location = f"{path}[{number}]"
            yield location, {"text": word} if word else DataError("an empty word", "empty_word")

    monkeypatch.setitem(readers.READERS._rows, ".dots", readers.Reader(read_dots))
    path = tmp_path / "a.dots"
    path.write_text("one.two..four")
    assert texts(path) == (["one", "two", "four"], {"empty_word": 1})
    with pytest.raises(DataError, match=r"a\.dots\[3\]: an empty word"):
        read(str(path), "text")
