"""Records inside a JSON document, by `data.records`, read one by one."""

import json
import tracemalloc

import pytest

from data.config import DataConfig
from data.errors import DataError
from data.read.reading import ReadOptions
from data.read.sources import read

DOCUMENT = {
    "count": 2,
    "users": [{"name": "a,]}"}, [1, {"b": []}]],
    "result": {"note": {"deep": {}}, "tickets": [{"text": "one"}, {"text": "two ü"}]},
    "next": None,
}


def texts(path, records, **options):
    return [e["text"] for e in read(str(path), "text", records=records, **options).examples]


def test_a_place_in_a_document(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(DOCUMENT, indent=1, ensure_ascii=False))
    result = read(str(path), "text", records="result.tickets")
    assert [e["text"] for e in result.examples] == ["one", "two ü"]
    assert result.examples[1]["where"] == f"{path}: result.tickets[1]"
    pages = [DOCUMENT, DOCUMENT]
    path.write_text(json.dumps(pages))
    assert texts(path, "[].result.tickets") == ["one", "two ü"] * 2
    path.write_text(json.dumps({"pages": pages}))
    assert texts(path, "pages[].result.tickets") == ["one", "two ü"] * 2


@pytest.mark.parametrize(
    ("content", "records", "message"),
    [
        (
            DOCUMENT,
            "tikets",
            r"records=tikets: there is no key 'tikets'; the keys there: 'count', ",
        ),
        (
            DOCUMENT,
            "result.ticket",
            r"no key 'ticket'; .*'note', 'tickets'; did you mean tickets\?",
        ),
        (DOCUMENT, "count", r"a.json:1: data.records=count: a single value where a list should be"),
        (DOCUMENT, "result", r"an object where a list should be"),
        (
            [DOCUMENT],
            "result.tickets",
            r"a list where an object .*; for a list of pages begin with",
        ),
        (DOCUMENT, "", r"inside it, type --config\.data\.records=users$"),
        ({"a": []}, "a", r"no record|no example|holds no record"),
    ],
)
def test_a_place_that_is_not_there(tmp_path, content, records, message):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read(str(tmp_path / "a.json"), "text", records=records)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": [{"text": "b"}]', r"not JSON: Expecting ',' delimiter at line 1, column 22"),
        ('{"b": [1, 2, "a": [{"text": "b"}]}', r"Expecting ',' delimiter at line 1"),
        ('{"a": [{"text": "b"}], "a": []}', r"the key 'a' is there twice"),
        ('{"a": [{"text": "b"}]} {}', r"Extra data"),
        ('{"b": ' * 5000 + "1" + "}" * 5000, r"not readable JSON"),
        ("{'a': []}", r"Expecting property name enclosed in double quotes at line 1, column 2"),
    ],
)
def test_a_malformed_document_is_refused(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read(str(tmp_path / "a.json"), "text", records="a")


def test_a_bad_record_is_counted_with_its_number(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [{"text": "x"}, 3, {"text": "y", "text": "z"}]}')
    result = read(str(tmp_path / "a.json"), "text", records="a", on_bad="skip")
    assert result.skipped == {"not_an_object": 1, "duplicate_key": 1}
    with pytest.raises(DataError, match=r"a.json: a\[1\]: a JSON int"):
        read(str(tmp_path / "a.json"), "text", records="a")


def test_a_document_larger_than_a_record_is_never_in_memory(tmp_path):
    path, item = tmp_path / "a.json", json.dumps({"text": "x" * 1000})
    with path.open("w") as file:
        file.write('{"users": [' + ",".join([item] * 8000) + '], "a": [')
        file.write(",".join([item] * 8000) + "]}")
    from data.read import json_records

    tracemalloc.start()
    count = sum(1 for _ in json_records.read_list(str(path), None, ReadOptions(records="a")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 8000
    assert peak < 8e6 < path.stat().st_size


@pytest.mark.parametrize("records", ["a..b", "[", "a]b", ".a"])
def test_what_is_no_place_is_refused(records):
    with pytest.raises(DataError, match="is no path into a document"):
        DataConfig(source="a.json", records=records)


def test_a_place_without_a_document_is_refused():
    with pytest.raises(
        DataError, match=r"data\.records='a' is a place in a .json, and data\.source"
    ):
        DataConfig(source="a.jsonl", records="a")
    DataConfig(source="", mixture={"b": {"source": "b.json", "records": "a"}})
