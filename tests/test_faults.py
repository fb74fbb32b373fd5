"""A short form of tests/faults.py: a run is killed, and its newest checkpoint damaged."""

import functools

import pytest
from fault_injection import damage, table
from fault_injection.lab import EVERY, STEPS, Lab, Row, newest, resumed_at, same
from local_runs import last_step

from benchmarks import reliability


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(tmp_path_factory.mktemp("faults"))


def test_a_killed_run_and_one_with_a_damaged_checkpoint_end_as_the_uninterrupted(lab):
    whole, killed = lab.directory / "whole", lab.directory / "killed"
    first, other = lab.start(whole, "pretrain"), lab.start(killed, "pretrain")
    assert other.until(lambda: last_step(killed) >= 3 * EVERY)
    other.kill()
    assert other.wait() == 137
    lab.finish(first)
    resumed = lab.start(killed, "pretrain")
    assert resumed_at(lab.finish(resumed)) >= EVERY
    assert same(killed, whole)

    damage.truncate(killed / "checkpoints" / str(STEPS) / "policy", lab.rng)
    output = lab.finish(lab.start(killed, "pretrain"))
    assert f"checkpoint {STEPS} is rejected" in output and resumed_at(output) == STEPS - EVERY
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
        table.markdown([row]).splitlines()[-1]
        == "| 4 | a bit | 2 | 2 | 1 | ≤ 5 | 2.0, at most 2.0 |"
    )


def test_a_measurement_has_its_place_in_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- soak -->\nold\n<!-- /soak -->\nb\n")
    reliability.write(str(page), "soak", "new")
    assert page.read_text() == "a\n<!-- soak -->\n\nnew\n\n<!-- /soak -->\nb\n"
    with pytest.raises(ValueError, match="no <!-- cost -->"):
        reliability.write(str(page), "cost", "new")
