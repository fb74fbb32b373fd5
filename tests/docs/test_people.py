"""The Python of docs/people.md, run in an empty folder."""

import json

import documentation
from documentation import ROOT


def test_a_scripted_annotator(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = documentation.blocks((ROOT / "docs/people.md").read_text())
    (block,) = (block for block in blocks if block.language == "python")
    exec(compile(block.text, "people.md", "exec"), {})
    (record,) = map(json.loads, (tmp_path / "prefs.jsonl").read_text().splitlines())
    assert record["responses"][0] == "It counts the items." and record["rank"] == [0, 1]
