"""The page of predictions says what the reports say, and compares like with like."""

import json
from types import SimpleNamespace

from benchmarks import compiled
from benchmarks.train_tpu_aot import anchors
from benchmarks.train_tpu_aot import document as fit
from tpu import chips

REPORT = {
    "fits": True,
    "seconds": {"compute": 3.0, "kernels": 0.5, "ici": 1.0, "dcn": 0.0},
    "memory_gib": {"peak": 18.58, "temporaries": 16.38, "device has": 32},
    "predicted_step_seconds": 3.5,
    "serial_step_seconds": 4.5,
    "tokens_per_second_per_chip": 9362.3,
    "predicted_mfu": 0.5,
}


def test_a_row_shows_a_report():
    text = fit.document({"Llama 3.1 8B, v6e-256": REPORT})
    assert (
        "| Llama 3.1 8B, v6e-256 | 4 × 8,192, `offload` | **3.50** (4.50) | 3.00 + 0.50; 1.00 | "
        "9,362 | 50.0% | 18.6 of 32 |"
    ) in text
    assert "does not fit" in fit.row("Llama 2 7B, v5e-256", {"fits": False, "error": "x"})


def test_a_ratio_to_maxtext_is_of_the_same_compiler_options():
    line = fit.comparison("Llama 3.1 8B, v5p-128", REPORT)
    assert line == (
        "| Llama 3.1 8B, v5p-128 | 2.021, 3.000: **1.48** | 52.1, 16.4: **0.31** | "
        "3.10, 2.93: **0.95** |"
    )
    # MaxText's own recipe for v6e sets the option: there is no figure of its program without it.
    assert fit.comparison("Llama 3.1 8B, v6e-256", REPORT).endswith("| –, 5.13 |")
    refused = fit.comparison("Llama 2 7B, v5e-256", {"fits": False, "error": "x"})
    assert "| 2.360, does not fit | 9.9 | 3.05, 3.30: **1.08** |" in refused


def test_the_page_names_the_options_that_the_programs_are_compiled_with():
    text = fit.document({})
    for kind in ("TPU v5 lite", "TPU v5", "TPU v6 lite"):
        device = SimpleNamespace(platform="tpu", device_kind=kind)
        for option, value in chips.compiler_options(device).items():
            assert option in text and value in text


def test_a_published_time_stands_beside_both_estimates():
    text = fit.published("Llama 3.1 8B, v6e-256", REPORT)
    assert "3.90 s (0.86 of it)" in text and "3.50 s (0.77)" in text


def test_the_committed_table_is_of_the_committed_reports():
    reports = json.loads((compiled.DOCS / "fit.json").read_text())
    assert (compiled.DOCS / "fit.md").read_text() == fit.document(reports)
    assert set(reports) <= set(anchors.RUNS)


def test_both_programs_stand_with_their_figures_and_options():
    reports = {"Llama 2 7B, v5e-256": REPORT | {"device": "TPU v5 lite", "made": {"jax": "1"}},
               "Llama 2 7B, v5p-128": {"fits": False, "error": "x"}}  # fmt: skip
    result = fit.result(reports)
    (table,) = result.tables
    assert table.rows[0] == [
        "Llama 2 7B, v5e-256, 4 × 2,048", "MaxText, August 2026, jax 0.10.2, libtpu 0.0.52",
        "`save_qkv_proj`", "2.360 (2.037 + 0.323)", "", "9.9", "",
    ]  # fmt: skip
    assert table.rows[1] == [
        "",
        "ours, jax 1",
        "`projections`",
        "3.000",
        "**1.27**",
        "16.4",
        "**1.65**",
    ]
    assert table.rows[3][3] == "does not fit"
    assert {len(row) for row in table.rows} == {len(table.columns)}
    options = result.options["compiler options of TPU v5 lite"]
    assert "xla_tpu_scoped_vmem_limit_kib=65472" in options
