"""Every format: what it holds, parts of it, what is broken; and object stores."""

import gzip
import json

import pyarrow
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from data import files, sources
from data.sources import DataError, read

ROWS = [{"text": f"text {i} ü", "n": i} for i in range(7)]


def write_dataset(folder, rows, parts=2):
    """As Hugging Face `datasets` saves one."""
    folder.mkdir(parents=True)
    size, names = -(-len(rows) // parts), []
    for k in range(parts):
        names.append({"filename": f"data-{k:05}-of-{parts:05}.arrow"})
        table = pyarrow.Table.from_pylist(rows[k * size : (k + 1) * size])
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
        parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=3)
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
    monkeypatch.setattr(files, "SPAN_BYTES", 40)
    monkeypatch.setattr(files, "SPAN_RECORDS", 3)
    path = write(tmp_path / name, ROWS)
    examples = read(path, "text").examples
    assert [e["text"] for e in examples] == [row["text"] for row in ROWS]
    assert len({e["where"] for e in examples}) == len(ROWS)
    (part,) = sources.parts_of(path, "text")
    spans = part.spans()
    assert (len(spans) > 1) == (name in ("a.txt", "a.jsonl", "a.parquet"))
    assert [e for span in spans for e in read(path, "text", span=span).examples] == examples


def test_a_line_longer_than_a_part_is_in_one(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SPAN_BYTES", 8)
    path = write(tmp_path / "a.txt", [{"text": "x" * 50}, {"text": "y"}, {"text": "z" * 9}])
    spans = sources.parts_of(path, "text")[0].spans()
    assert [len(read(path, "text", span=span).examples) for span in spans] == [1, 1, 1] or sum(
        len(read(path, "text", span=span).examples) for span in spans
    ) == 3
    assert spans[0].stop == 51 and spans[-1].line in (2, 3)


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
        ("a.csv", b'text\n"a\n', "a.csv:2: not a row of a table: unexpected end"),
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


def test_folders_of_datasets_that_are_broken(tmp_path):
    path = write_dataset(tmp_path / "one", ROWS)
    arrow = sorted((tmp_path / "one").glob("*.arrow"))
    arrow[1].write_bytes(arrow[1].read_bytes()[:-40])
    with pytest.raises(DataError, match=r"00001-of-00002\.arrow: cannot be read"):
        read(path, "text", on_bad="skip")
    arrow[1].unlink()
    with pytest.raises(DataError, match=r"00001-of-00002\.arrow: cannot be read: No such"):
        read(path, "text")
    (tmp_path / "one/state.json").write_text("{")
    with pytest.raises(DataError, match=r"state\.json is not readable"):
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
