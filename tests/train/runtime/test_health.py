"""Updates without a finite gradient."""

import pytest

from train.runtime.health import MAX_SKIPPED, SkippedUpdates, check_skipped


def test_many_in_a_row_end_a_run_and_one_that_counts_begins_anew():
    skipped = SkippedUpdates(3, 10)  # resumed
    skipped.record(3 + MAX_SKIPPED - 1, 10 + MAX_SKIPPED - 1)
    skipped.record(3 + MAX_SKIPPED - 1, 10 + MAX_SKIPPED)
    skipped.record(3 + 2 * MAX_SKIPPED - 2, 10 + 2 * MAX_SKIPPED - 1)
    with pytest.raises(FloatingPointError, match=f"{MAX_SKIPPED} updates up to step 50"):
        skipped.record(3 + 2 * MAX_SKIPPED - 1, 50)


def test_a_large_share_ends_it_too():
    check_skipped(10, 100)
    with pytest.raises(FloatingPointError, match="11 of 100 updates"):
        check_skipped(11, 100)
