"""The race on the CPU, of two processes that write metrics as fast as they sleep."""

import sys

import pytest

from benchmarks.train_cpu import __main__ as train_cpu
from benchmarks.train_cpu import race

SCRIPT = """
import json, sys, time
pause, folder, loss = float(sys.argv[1]), sys.argv[2], sys.argv[3]
with open(folder + "/metrics.jsonl", "w", buffering=1) as file:
    for step in (1, 3, 5):
        time.sleep(pause)
        file.write(json.dumps({"step": step, "kind": "train", "loss": 9.0}) + "\\n")
    file.write(json.dumps({"step": 5, "kind": "eval", "loss": float(loss)}) + "\\n")
"""


def test_a_turn_counts_from_the_first_record_to_the_last(tmp_path):
    def command(pause, loss):
        return lambda folder: [sys.executable, "-c", SCRIPT, str(pause), str(folder), str(loss)]

    commands = {"PyTorch": command(0.2, 1.9), "ours": command(0.05, 1.8)}
    results = train_cpu.measured(commands, tmp_path, tokens=10, rounds=1)
    (ours,), (theirs,) = results["ours"], results["PyTorch"]
    assert ours.tokens == theirs.tokens == 40 and (ours.loss, theirs.loss) == (1.8, 1.9)
    assert 0.35 < theirs.seconds < theirs.whole and ours.last_step == 5


def test_the_rows_have_ratios_within_a_turn():
    def turn(seconds):
        return race.Turn(seconds, 2 * seconds, 60, 3 * seconds, 4 * seconds, 5, 1.875)

    turns = {"PyTorch": [turn(2.0), turn(6.0)], "ours": [turn(1.0), turn(2.0)]}
    speed = train_cpu.speed_row("4×128", turns)
    assert speed[0] == "4×128" and speed[1] == "20 (10 to 30)" and "2.50 (2.00 to 3.00)" in speed[3]
    theirs, ours, share = train_cpu.loss_rows(turns)
    assert theirs[1:3] == ours[1:3] == ["5", "1.875 (1.875 to 1.875)"]
    assert share[3] == share[4] == "0.42 (0.33 to 0.50)"


def test_a_process_that_fails_is_quoted(tmp_path):
    words = [sys.executable, "-c", "raise SystemExit('no such coffee')"]
    with pytest.raises(RuntimeError, match=r"ended with 1:\n.*no such coffee"):
        race.measure(words, tmp_path / "a", 1)
