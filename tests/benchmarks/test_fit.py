"""The table of predictions is what the reports say."""

import json

from benchmarks import compiled, fit

REPORT = {
    "fits": True,
    "seconds": {"compute": 3.0, "kernels": 0.5, "ici": 1.0, "dcn": 0.0},
    "memory_gib": {"peak": 18.58, "device has": 32},
    "predicted_step_seconds": 3.5,
    "serial_step_seconds": 4.5,
    "tokens_per_second_per_chip": 9362.3,
    "predicted_mfu": 0.5,
}


def test_a_row_shows_a_report():
    text = fit.document({"Llama 3.1 8B, v6e-256": REPORT})
    assert (
        "| Llama 3.1 8B, v6e-256 | 4 × 8,192, `offload` | **3.50** (4.50) | 3.00 + 0.50; 1.00 | "
        "9,362 | 50.0% | 18.6 of 32 | 4.10 | 4.546 (ours 0.77) |"
    ) in text
    assert "does not fit" in fit.row("Llama 2 7B, v5e-256", {"fits": False, "error": "x"})


def test_the_committed_table_is_of_the_committed_reports():
    reports = json.loads((compiled.DOCS / "fit.json").read_text())
    assert (compiled.DOCS / "fit.md").read_text() == fit.document(reports)
    assert set(reports) <= set(fit.RUNS)
