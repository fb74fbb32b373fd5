"""Results become JSON, a printed table and the sections of docs/benchmarks.md."""

import json
import sys
from types import SimpleNamespace

import pytest

from benchmarks import machine, pages, results, write

RESULT = results.Result(
    "sample",
    [results.Table(("", "ours, tokens/s", "ratio"), [["10M", "1,623", "**1.86**"]])],
    {"ours": [1623.4, float("nan")], "model": "/b/c/x.gguf"},
    options={"rows": 32, "dtype": ["float32", "bfloat16"]},
    sides={"ours": {"threads": 2}, "PyTorch": {"threads": 2, "compiled": "no"}},
    versions={"torch": "2.13.0"},
    notes=["Compilation is not counted."],
)


@pytest.fixture
def typed(monkeypatch):
    """A command line as typed, with paths of a machine."""
    words = ["python", "-m", "benchmarks.sample", "--other_python=/a/env/bin/python",
             "--model=/b/c/x.gguf", "--json=/b/out.json", "--batch=4"]  # fmt: skip
    monkeypatch.setattr(sys, "orig_argv", words)
    return "python -m benchmarks.sample --other_python=python --model=x.gguf --batch=4"


def test_a_result_is_printed_and_written(tmp_path, typed, monkeypatch, capsys):
    path = tmp_path / "docs" / "sample.json"
    monkeypatch.setattr(results.flags, "FLAGS", SimpleNamespace(json=str(path)))
    results.report(RESULT)
    printed = capsys.readouterr().out
    assert "10M" in printed and "1.86" in printed and "*" not in printed
    content = json.loads(path.read_text())
    assert content["command"] == typed
    assert content["figures"] == {"ours": [1623.4, None], "model": "x.gguf"}
    assert content["versions"]["torch"] == "2.13.0" and "jax" in content["versions"]
    made = content["machine"]
    assert made["cores"] >= 1 and made["memory_gib"] >= 1 and made["processor"]
    assert len(content["date"]) == 10


def test_results_stand_between_their_marks_by_name_of_file(tmp_path, typed):
    for name in ("b", "a"):
        content = results.record(RESULT) | {"notes": [f"Note {name}."]}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    page = "# Page\n<!-- benchmarks.sample -->\nold\n<!-- /benchmarks.sample -->\nend\n"
    text = results.written(page, tmp_path)
    assert text.startswith("# Page\n<!-- benchmarks.sample -->\n\n`python -m benchmarks.sample ")
    assert text.index("Note a.") < text.index("Note b.") and "old" not in text
    assert "| | ours | PyTorch |\n|---|---|---|\n| threads | 2 | 2 |\n| compiled | | no |" in text
    assert "| 10M | 1,623 | **1.86** |" in text and text.endswith("benchmarks.sample -->\nend\n")
    assert "Options: rows 32, dtype float32, bfloat16." in text
    with pytest.raises(ValueError, match=r"no <!-- benchmarks\.sample -->"):
        results.written("# Page\n", tmp_path)


def test_no_committed_result_names_a_folder_of_a_machine():
    for contents in results.kept().values():
        assert machine.shortened(contents) == contents


def test_the_page_shows_the_committed_results():
    assert results.written(write.PAGE.read_text()) == write.PAGE.read_text()
    assert write.PAGE == pages.DOCS / "benchmarks.md"


def test_the_memory_of_this_process_is_within_the_machines():
    assert 1e6 < machine.resident_bytes() < machine.memory_bytes()
