"""Slices by name, and the figures of chips that documentation shows."""

from pathlib import Path

import pytest

from tpu import chips
from tpu.slices import parse


def test_slices_by_name():
    assert parse("v5e-16") == parse("v5litepod-16")
    rows = {
        "v5e-16": ("4x4", "tpu-v5-lite-podslice", "ct5lp-hightpu-4t", 4, 16, "TPU v5 lite", 16),
        "v5p-128": ("4x4x4", "tpu-v5p-slice", "ct5p-hightpu-4t", 16, 64, "TPU v5", 64),
        "v6e-256": ("16x16", "tpu-v6e-slice", "ct6e-standard-4t", 64, 256, "TPU v6 lite", 256),
        "v4-32": ("2x2x4", "tpu-v4-podslice", "ct4p-hightpu-4t", 4, 16, "TPU v4", 16),
        "tpu7x-128": ("4x4x4", "tpu7x", "tpu7x-standard-4t", 16, 64, "TPU7x", 128),
        "tpu7x-2": ("1x1x1", "tpu7x", "tpu7x-standard-1t", 1, 1, "TPU7x", 2),
    }
    assert {name: parse(name)[2:] for name in rows} == rows
    assert (parse("v5p-8").topology, parse("v6e-8").hosts) == ("2x2x1", 1)
    with pytest.raises(ValueError, match="tpu7x comes with 2, 8, 16, 32, 64, 128"):
        parse("tpu7x-4")


def test_the_page_shows_the_figures_of_the_chips():
    page = (Path(__file__).parents[2] / "docs/tpu.md").read_text()
    head, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page[page.index("| | v4 |") :].split("\n\n")[0].splitlines()
    ]
    table = {cells[0]: dict(zip(head[1:], cells[1:], strict=True)) for cells in lines[1:]}
    for name, slice_ in (("v4", "v4-8"), ("v5e", "v5e-4"), ("v5p", "v5p-8"), ("v6e", "v6e-4"),
                         ("TPU7x", "tpu7x-8")):  # fmt: skip
        row = parse(slice_)
        devices = row.devices // row.chips
        figures = {
            "JAX devices a chip": devices,
            "bfloat16, TFLOP/s": chips.PEAK_FLOPS[row.device_kind] * devices / 1e12,
            "memory, GiB": chips.HBM_GIB[row.device_kind] * devices,
            "a link, GB/s one way": chips.LINK_GB[row.device_kind] * devices,
        }
        shown = {key: float(table[key][name].replace(",", "")) for key in figures}
        assert shown == figures, name
        assert table["GKE's machines"][name] == f"`{row.machine}`"
        assert table["runtime version"][name] == f"`{row.runtime}`"
