"""The memory table is what the compiler's reports say."""

import json

from benchmarks import compiled, memory

REPORT = {
    "memory_gib": {"peak": 18.58, "state and batch": 1.41, "temporaries": 17.31, "host": 0.0},
    "collectives": {
        "all-gather": {"count": 3, "gib": 28.4},
        "all-reduce": {"count": 1, "gib": 2.0},
    },
    "kernels": {"splash_fwd": 64, "splash_dq": 32},
    "whole_parameter_gathers": [],
}


def test_a_row_shows_a_report():
    text = memory.document({"llama-full": REPORT, "llama-none": {"error": "out of memory: 9. Try"}})
    assert "| `full` | 18.6 | 1.4 | 17.3 | 0.0 | 30 | 96 |" in text
    assert "| `none` | out of memory: 9 |" in text
    assert "No step that fits gathers" in text


def test_a_gather_of_all_layers_is_said():
    bad = REPORT | {"whole_parameter_gathers": ["bf16[32, 4096, 14336]"]}
    text = memory.document({"llama-full": REPORT, "gemma": bad})
    assert "all layers at once: gemma" in text and "No step that fits gathers" not in text


def test_the_committed_table_is_of_the_committed_reports():
    reports = json.loads((compiled.DOCS / "memory.json").read_text())
    assert (compiled.DOCS / "memory.md").read_text() == memory.document(reports)
    assert set(reports) <= set(memory.RUNS)
