"""Evaluations that fail: what is counted, what is printed, what passes through."""

import pytest

from train.evals import outcomes
from train.evals.outcomes import Outcomes
from train.evals.registry import Scheduled
from train.rl.rewards import RewardError
from train.runtime import processes


def raising(error):
    def evaluate(trainable, frozen):
        raise error

    return evaluate


def returning(*result):
    return lambda trainable, frozen: result


@pytest.mark.parametrize(
    ("evaluate", "reason"),
    [
        (raising(KeyError("a")), "KeyError: 'a'"),
        (raising(RewardError("no number\nmore")), "RewardError: no number"),
        (raising(MemoryError()), "MemoryError: MemoryError()"),
        (raising(RuntimeError("RESOURCE_EXHAUSTED: out of memory")), "RuntimeError: RESOURCE_EXH"),
        (raising(OSError(28, "No space left on device")), "OSError: No space left on device"),
        (raising(AssertionError()), "AssertionError: AssertionError()"),
        (returning({"loss": "low"}, []), "ValueError: could not convert string to float"),
        (returning({"loss": 1.0}, [{"text": object()}]), "TypeError: Object of type object"),
        (returning({"loss": 1.0}), "ValueError: not enough values"),
        (returning(None, None), "AttributeError: 'NoneType'"),
    ],
)  # fmt: skip
def test_whatever_an_evaluation_raises_is_a_reason_and_others_are_made(evaluate, reason):
    due = [Scheduled("", evaluate, 2), Scheduled("wiki", returning({"loss": 2}, [{"a": 1}]), 2)]
    values, samples, failed = outcomes.make(due, {}, {})
    assert values == {"wiki/loss": 2} and samples == [{"eval": "wiki", "a": 1}]
    assert failed.keys() == {""} and failed[""].startswith(reason)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), processes.Stopped("saved"), SystemExit(1)])
def test_what_must_end_a_run_passes(error):
    with pytest.raises(type(error)):
        outcomes.make([Scheduled("", raising(error), 2)], {}, {})


def test_a_lost_peer_is_no_failure(monkeypatch):
    monkeypatch.setattr(processes, "joined", lambda: True)
    with pytest.raises(RuntimeError, match="heartbeat"):
        outcomes.make([Scheduled("", raising(RuntimeError("no heartbeat")), 2)], {}, {})


def test_failures_are_printed_once_and_counted_at_the_end_over_all_attempts():
    evaluations = [Scheduled("", returning(), 2), Scheduled("wiki", returning(), 4)]
    records = [{"step": 2}, {"step": 4, "failed": {"wiki": "KeyError: 'a'"}}]
    counts = Outcomes(evaluations, 10, records)
    (warning,) = counts.record(6, {"": "OSError: full"})
    assert warning.startswith("  warning: evaluation heldout failed at step 6 and is tried again")
    assert counts.record(8, {"": "OSError: fuller"}) == []
    assert counts.record(10, {}) == []
    assert counts.summary() == [
        "  warning: evaluation wiki failed 1 of 3 times, the last at step 4: KeyError: 'a'",
        "  warning: evaluation heldout failed 2 of 5 times, the last at step 8: OSError: fuller",
    ]
    assert Outcomes(evaluations, 10, []).summary() == []
    counts.restart(records)  # gone back to step 4
    assert len(counts.summary()) == 1 and counts.record(6, {"": "OSError: full"}) == []
    assert "evaluation heldout failed 1 of 3 times" in counts.summary()[1]


def test_a_run_that_nothing_measured_says_so():
    counts = Outcomes([Scheduled("", returning(), 2)], 4, [])
    for step in (2, 4):
        counts.record(step, {"": "KeyError: 'a'"})
    assert counts.summary()[-1].endswith("so nothing has measured what this run learned")
