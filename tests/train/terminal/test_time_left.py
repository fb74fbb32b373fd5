"""The remaining time of a run, from made-up clocks."""

import pytest

from train.runtime.goodput import PARTS
from train.terminal.time_left import TimeLeft, multiples

ZERO = dict.fromkeys(PARTS, 0.0)


def remaining(steps, per_rollout, step, rollout, evaluate, checkpoint, every=0, log_every=1):
    """{done: (estimate, true rest)} of a run whose parts always take the same time."""
    evaluations, checkpoints = multiples([every], steps), multiples([10], steps)
    rollouts = [n for n in range(1, steps + 1) if per_rollout and n % per_rollout == 1]
    left = TimeLeft(0, steps, len(rollouts), evaluations, checkpoints)
    out, seconds = {}, dict(ZERO)
    for done in range(1, steps + 1):
        seconds["rollout"] += rollout * (done in rollouts)
        seconds["step" if done > 1 else "compile"] += step if done > 1 else 99.0
        if done % log_every == 0 or done in rollouts:
            to_come = sum(n > done for n in rollouts)
            rest = (steps - done) * step + to_come * rollout
            rest += sum(n >= done for n in evaluations) * evaluate
            rest += sum(n >= done for n in checkpoints) * checkpoint
            out[done] = left.record(done, to_come, seconds), rest
            seconds = dict(ZERO)
        seconds["evaluate"] += evaluate * (done in evaluations)
        seconds["checkpoint"] += checkpoint * (done in checkpoints)
    return out


def test_compilation_does_not_count():
    estimates = remaining(40, 0, 2.0, 0.0, 0.0, 0.0)
    assert estimates.pop(1)[0] is None
    assert all(left == pytest.approx(rest) for left, rest in estimates.values())


@pytest.mark.parametrize("log_every", [1, 3, 10])
def test_rollouts_evaluations_and_checkpoints_to_come_are_counted(log_every):
    """Once each was measured, the estimate is exact within a rollout and from one to the next."""
    settings = dict(step=0.5, rollout=20.0, evaluate=7.0, checkpoint=1.0, every=16)
    estimates = remaining(160, 8, **settings, log_every=log_every)
    measured = {done: pair for done, pair in estimates.items() if done > 30}
    assert all(left == pytest.approx(rest) for left, rest in measured.values())
    before = [left for done, (left, _) in estimates.items() if 1 < done <= 30]
    assert all(left > 0 for left in before)


def test_one_slow_stretch_does_not_move_the_estimate():
    left = TimeLeft(100, 1100, 0, [1100], [1100])
    assert left.record(101, 0, ZERO | {"compile": 60.0}) is None
    for done in range(111, 211, 10):
        seconds = ZERO | {"step": 10.0 if done != 171 else 600.0, "evaluate": 0.0}
        estimate = left.record(done, 0, seconds)
        if done > 151:
            assert estimate == pytest.approx((1100 - done) * 1.0)


def test_multiples():
    assert multiples([0], 7) == [7] and multiples([3, 2, 0], 9) == [2, 3, 4, 6, 8, 9]
