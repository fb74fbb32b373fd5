"""The annotator of docs/people.md that is a script, run in an empty folder."""

import json

import documentation
from documentation import ROOT


def test_a_scripted_annotator(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = documentation.blocks((ROOT / "docs/people.md").read_text())
    (block,) = (b for b in blocks if b.language == "python" and "data.ranking" in b.text)
    exec(compile(block.text, "people.md", "exec"), {})
    (record,) = map(json.loads, (tmp_path / "prefs.jsonl").read_text().splitlines())
    assert record["responses"][0] == "It counts the items." and record["rank"] == [0, 1]
