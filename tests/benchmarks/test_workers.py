"""Sides in other processes."""

import sys

import pytest

from benchmarks import workers

ECHO = """
import json, os, sys
print(json.dumps({"threads": os.environ["OMP_NUM_THREADS"]}), flush=True)
for line in sys.stdin:
    print(json.dumps({"twice": 2 * json.loads(line)["value"]}), flush=True)
"""


def test_a_worker_answers_until_it_is_closed(tmp_path):
    script = tmp_path / "side.py"
    script.write_text(ECHO)
    worker = workers.Worker([sys.executable, script], threads=3)
    assert worker.read() == {"threads": "3"}
    assert [worker.ask(value=value) for value in (1, 2)] == [{"twice": 2}, {"twice": 4}]
    worker.close()
    assert worker.process.returncode == 0
    with pytest.raises(RuntimeError, match=r"side\.py ended with 0.*other_env\.sh"):
        worker.read()


def test_a_side_that_fails_ends_with_its_message(tmp_path):
    script = tmp_path / "side.py"
    script.write_text("print('notice'); print('[1, 2]')")
    assert workers.run([sys.executable, script]) == [1, 2]
    script.write_text("import nowhere")
    with pytest.raises(RuntimeError, match=r"(?s)side\.py ended with 1.*No module named"):
        workers.run([sys.executable, script])
