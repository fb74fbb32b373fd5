"""The race on the CPU, of two processes that write metrics as fast as they sleep."""

import sys

import pytest

from benchmarks import pages
from benchmarks.train_cpu import race
from benchmarks.train_cpu.__main__ import section

SCRIPT = """
import json, sys, time
pause, folder, loss = float(sys.argv[1]), sys.argv[2], sys.argv[3]
with open(folder + "/metrics.jsonl", "w", buffering=1) as file:
    for step in (1, 3, 5):
        time.sleep(pause)
        file.write(json.dumps({"step": step, "kind": "train", "loss": 9.0}) + "\\n")
    file.write(json.dumps({"step": 5, "kind": "eval", "loss": float(loss)}) + "\\n")
"""


def command(pause, loss):
    return lambda folder: [sys.executable, "-c", SCRIPT, str(pause), str(folder), str(loss)]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    commands = {"torch": command(0.2, 1.9), "ours": command(0.05, 1.8)}
    measured = race.race(commands, tmp_path_factory.mktemp("race"), tokens_a_step=10, turns=1)
    # Processes that sleep may use no tick of the processor.
    return {side: [turn | {"processor_seconds": 0.5}] for side, (turn,) in measured.items()}


def test_a_turn_counts_from_the_first_record_to_the_last(results):
    (ours,), (theirs,) = results["ours"], results["torch"]
    assert ours["tokens"] == theirs["tokens"] == 40 and ours["loss"] == 1.8
    assert 0.35 < theirs["seconds"] < theirs["whole"]
    assert race.ratios(results, "seconds") == pytest.approx([theirs["seconds"] / ours["seconds"]])


def test_the_tables_are_written_into_the_page(results, tmp_path):
    result = {
        "machine": "an abacus",
        "torch": {"torch": "2.0", "threads": 2},
        "speed": {"4x128": results},
        "loss": results,
    }
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- race -->\n\nold\n\n<!-- /race -->\n")
    pages.write("race", section(result), page)
    text = page.read_text()
    assert "old" not in text and text.endswith("|\n\n<!-- /race -->\n")
    assert "| 4×128, 12 rows of 64 |" in text and "| 5 | 1.800 |" in text
    with pytest.raises(ValueError, match="no part <!-- sprint -->"):
        pages.write("sprint", "", page)


def test_a_process_that_fails_is_quoted(tmp_path):
    words = [sys.executable, "-c", "raise SystemExit('no such coffee')"]
    with pytest.raises(RuntimeError, match=r"ended with 1:\n.*no such coffee"):
        race.measure(words, tmp_path / "a", 1)
