"""A short form of tests/faults.py: a run is killed, and its newest checkpoint damaged."""

import functools
import json
import os

import pytest
from fault_injection import table
from fault_injection.files import largest
from fault_injection.lab import EVERY, STEPS, Lab, Row, newest, resumed_at, same
from local_runs import ROOT

from benchmarks import pages


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(tmp_path_factory.mktemp("faults"))


def test_a_killed_run_whose_newest_checkpoint_is_damaged_ends_as_the_uninterrupted(lab):
    whole, killed = lab.directory / "whole", lab.directory / "killed"
    first, other = lab.start(whole, "pretrain"), lab.start(killed, "pretrain")
    assert other.until(lambda: newest(killed) >= 2 * EVERY)
    other.kill()
    assert other.wait() == 137
    step = newest(killed)
    file = largest(killed / "checkpoints" / str(step) / "policy")
    os.truncate(file, file.stat().st_size // 2)
    output = lab.finish(lab.start(killed, "pretrain"))
    assert f"checkpoint {step} is rejected" in output and resumed_at(output) == step - EVERY
    lab.finish(first)
    assert newest(killed) == STEPS and same(killed, whole)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_row_holds(lab):
    rows = table.measure(lab, 1, [], functools.partial(print, flush=True))
    assert {row.number for row in rows} == {str(n) for n in range(1, 16)}
    assert [row.fault for row in rows if not row.held] == []


def test_a_row_holds_if_every_trial_does():
    row = Row("4", "a bit")
    assert not row.held  # not tried
    row.add(True, True, 3, 1.0)
    row.add(True, False, 5, 2.0, "another loss")
    assert not row.held and row.notes == ["another loss"]
    assert (
        table.markdown([table.cells(row)]).splitlines()[-1]
        == "| 4 | a bit | 2 | 2 | 1 | ≤ 5 | 2.0, at most 2.0 |"
    )


def test_the_page_shows_the_rows_that_are_kept():
    kept = json.loads((ROOT / "docs/faults.json").read_text())
    assert table.markdown(kept) in (ROOT / "docs/reliability.md").read_text()
    assert {cell[0] for cell in kept} == {str(number) for number in range(1, 16)}


def test_rows_of_an_earlier_run_stay_or_are_replaced():
    kept = [("1", "a", "5"), ("2", "b", "5")]
    row = Row("1", "a")
    row.add(True)
    assert [cell[2] for cell in table.merged(kept, [row])] == ["1", "5"]


def test_a_measurement_has_its_place_in_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- soak -->\nold\n<!-- /soak -->\nb\n")
    pages.write(str(page), "soak", "new")
    assert page.read_text() == "a\n<!-- soak -->\n\nnew\n\n<!-- /soak -->\nb\n"
    with pytest.raises(ValueError, match="no <!-- cost -->"):
        pages.write(str(page), "cost", "new")
