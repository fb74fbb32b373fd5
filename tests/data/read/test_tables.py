"""Tables: quoting, malformed rows, cells of any length."""

import csv

import pytest
from record_files import texts

from data.errors import DataError
from data.read import sources
from data.read.sources import read


def test_a_cell_may_hold_the_separator_a_quote_and_a_line_end(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,x\n"one, ""two""\nthree",1\nfour,2\n\n')
    examples = read(str(path), "text").examples
    assert [e["text"] for e in examples] == ['one, "two"\nthree', "four"]
    assert [e["where"] for e in examples] == [f"{path}:2", f"{path}:4"]


def test_a_broken_record_of_a_table_can_be_skipped(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,n\na,1\nb\n\xff,2\nc,3\n")
    result = read(str(path), "text", on_bad="skip")
    assert [e["text"] for e in result.examples] == ["a", "c"]
    assert result.skipped == {"bad_row": 1, "invalid_utf8": 1}


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


def test_a_quotation_mark_that_is_never_closed_ends_at_the_limit(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,n\na,1\n"b,2\n' + "c,3\n" * 1000)
    with pytest.raises(DataError, match=r"a\.csv:3: .*a quotation mark in it may never be closed"):
        read(str(path), "text", on_bad="skip", max_record_bytes=400)
