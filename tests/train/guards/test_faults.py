"""Faults on the host: found alike whenever they are looked at, and named with their rows."""

import numpy as np

from train.guards import faults
from train.guards.faults import Fault, Faults
from train.guards.numbers import CAUSES, RUINED, WINDOW
from train.guards.origins import BatchOrigin


def test_a_row_of_faults_ends_at_the_same_step_whenever_it_is_looked_at():
    codes = [0, 2, 2, 0, 1, 2, 4, 0, 2]
    for together in (1, 2, 3, 9):
        watch, seen = Faults(limit=3), []
        for step, code in enumerate(codes, 1):
            watch.add(np.int32(code), step, {"step": step})
            if step % together == 0:
                seen += watch.look()
        seen += watch.look()
        assert [fault.step for fault in seen] == [2, 3, 5, 6, 7]
        assert watch.last == seen[-1] == Fault(7, CAUSES[4], {"step": 7}) and watch.in_a_row == 3


def test_weights_that_are_ruined_are_left_at_once():
    watch = Faults(limit=3)
    for step, code in enumerate((0, RUINED, 1, 1), 1):
        watch.add(np.int32(code), step, {})
    assert [fault.step for fault in watch.look()] == [2] and watch.last.cause == CAUSES[RUINED]


def test_a_resumed_run_counts_the_faults_before_it():
    watch = Faults(limit=3, in_a_row=2)
    watch.add(np.int32(1), 11, {})
    assert watch.look() and watch.last.step == 11


def test_the_rows_of_a_fault_and_their_lines():
    origin = BatchOrigin("batch", 6, [4, 0, 7, 1, 2], [["a:1", "a:2"], ["b:3"], ["a:2"], [], []])
    fault = Fault(7, "loss not finite", {})
    assert " · ".join(faults.message(fault, [origin])) == (
        "  step 7: update not applied, loss not finite · batch 6 · rows 4, 0, 7 and 2 more · "
        "a:1, a:2, b:3"
    )
    unknown = origin._replace(sources=[[]] * 5)
    assert faults.message(fault, [unknown])[-1] == "rows 4, 0, 7 and 2 more"
    record = faults.record(fault, [origin])
    assert record == {"cause": "loss not finite", "data": [origin._asdict()]}
    many = origin._replace(sources=[["a"] * 800, ["b"] * 800, ["c"]])
    (data,) = faults.record(fault, [many])["data"]
    assert list(map(len, data["sources"])) == [800, 200, 0]


def test_the_losses_of_a_spike_are_the_same_after_a_resume():
    losses = np.full(WINDOW, np.nan, np.float32)
    losses[-3:] = 0.1, 1e-30, 7
    np.testing.assert_array_equal(faults.restored_losses(faults.saved_losses(losses)), losses)
    assert np.isnan(faults.restored_losses([])).all()
