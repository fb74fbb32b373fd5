"""The files of a replay."""

import json

import numpy as np
import pytest
from etils import epath
from sample_runs.replays import REFUSAL, content, make

from train.replay import gates
from train.replay.report import files, rows, terminal

NASTY = "</script><script>alert(1)</script> <b>\u2028"


def write(tmp_path, whole):
    files.write(epath.Path(tmp_path) / "out.html", whole)
    return (tmp_path / "out.html").read_text()


def test_a_planted_regression_is_the_first_thing_on_the_page(tmp_path):
    page = write(tmp_path, content(make(40, wins=40, refused={17})))
    first = page[page.index("Worst regressions") :]
    assert first.index(REFUSAL) < first.index("Measures")
    assert "Where is it? 17" in first[: first.index("Measures")] and "1 × refusal" in first
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(lines) == 40 and lines[17]["fault"] == "refusal"
    assert lines[17]["answers"] == {
        "people": "It is here, number 17.", "new@2": REFUSAL, "old@1": "It is number 17."
    }  # fmt: skip
    numbers = json.loads((tmp_path / "out.json").read_text())
    assert numbers["checkpoints"]["new@2"]["win_rate"]["value"] == 1.0
    assert "win_rate" not in numbers["checkpoints"]["old@1"] and numbers["notes"] == ["a note"]


def test_an_answer_without_a_score_is_listed_all_the_same(tmp_path):
    replay = make(3)
    replay.people.values["reward"] = np.array([1.0, np.nan, 2.0])
    page = write(tmp_path, content(replay))
    data = json.loads(page.split('id="rows">')[1].split("</script>")[0], parse_constant=pytest.fail)
    assert ["s" in row["a"][-1] for row in sorted(data, key=lambda row: row["w"])] == [
        True, False, True
    ]  # fmt: skip


def test_texts_are_text_and_nothing_is_fetched(tmp_path):
    page = write(tmp_path, content(make(3, texts={0: NASTY}, question=NASTY)))
    assert "alert(1)</script>" not in page and page.count("<script") == 3
    assert "default-src 'none'" in page and "unsafe" not in page
    assert "http" not in page.replace("http-equiv", "")
    data = page.split('id="rows">')[1].split("</script>")[0]
    assert json.loads(data)[0]["q"].startswith(NASTY.strip())


@pytest.mark.parametrize("most, says", [(60_000, "Texts are cut at 1,200"), (20_000, "The worst ")])
def test_a_page_stays_small_and_says_what_was_cut(tmp_path, monkeypatch, most, says):
    monkeypatch.setattr(rows, "MOST_BYTES", most)
    page = write(tmp_path, content(make(40, texts=dict.fromkeys(range(40), "a word " * 400))))
    data = page.split('id="rows">')[1].split("</script>")[0]
    assert len(data) <= most and json.loads(data)
    assert says in page and "characters cut]" in data


def test_the_terminal_names_gates_and_who_answers(tmp_path, capsys):
    condition = gates.Condition("win_rate", "low", ">=", 0.5)
    terminal.show(content(make(80), gates.Gates([condition])), tmp_path / "out.html")
    out = capsys.readouterr().out
    assert "gate failed: win_rate.low >= 0.5: 0" in out and "people" in out and "a note" in out
    terminal.show(content(make(80)), tmp_path / "out.html", ["a note"])
    assert "a note" not in capsys.readouterr().out
