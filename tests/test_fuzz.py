"""Fuzzing distinguishes refusals from faults, and a few inputs of every target pass it.

`python -m tests.fuzz --inputs=20000` is the long form.
"""

import json
import subprocess
import sys
import time

import pytest

from data.errors import DataError
from tests.fuzz import engine, mutate
from tests.fuzz.engine import ROOT, Target

# These define flags or start processes, so they run in processes of their own.
APART = ("overrides", "commands")
INPUTS = 12


def targets():
    from tests.fuzz.targets import TARGETS

    return {t.name: t for t in TARGETS}


NAMES = sorted(targets())


def judge(run, tmp_path, seconds=5.0):
    target = Target("probe", None, lambda rng, good, folder: run(), seconds=seconds)
    return engine.attempt(target, 0, 0, None, tmp_path)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in APART])
def test_damaged_inputs_are_accepted_or_refused(name, tmp_path):
    target = targets()[name]
    good = target.prepare(tmp_path)
    for number in range(INPUTS):
        result = engine.attempt(target, number, 1, good, tmp_path)
        assert not isinstance(result, engine.Finding), f"--target={name} --only={number}\n{result}"


def test_command_lines_are_accepted_or_refused():
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--target=overrides", "--inputs=25", "--seed=1"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "25 inputs" in done.stdout


def test_a_fault_is_a_finding(tmp_path):
    from data.read import json_files

    def refusal():
        json_files.parse(b"{", "a.json")

    def fault():
        {}["missing"]

    def chatter():
        print("Traceback (most recent call last):")

    def hang():
        time.sleep(60)

    def left():
        raise SystemExit(3)

    assert judge(lambda: None, tmp_path) is True
    assert judge(refusal, tmp_path) is False
    assert judge(fault, tmp_path).fault.startswith("KeyError")
    assert judge(lambda: json.loads("{"), tmp_path).fault.startswith("JSONDecodeError")
    assert judge(chatter, tmp_path).fault == "prints a traceback"
    assert judge(hang, tmp_path, 0.1).fault.startswith("longer than")
    assert judge(left, tmp_path).fault == "exit 3"


def test_a_refusal_is_raised_by_seedpod_and_says_something(tmp_path):
    def in_a_test():
        raise DataError("raised by a test, which is no part of the product")

    assert judge(in_a_test, tmp_path).fault.startswith("DataError")


def test_an_input_is_a_function_of_its_number():
    first, second = (
        [mutate.damaged_value(engine.Random(f"1/{k}"), {"a": [1, 2]}) for k in range(50)]
        for _ in range(2)
    )
    assert repr(first) == repr(second) and len(set(map(repr, first))) > 20
