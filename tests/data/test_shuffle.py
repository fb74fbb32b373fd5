"""The order of an epoch: a permutation for every size, seed and epoch, and like a random one."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data.shuffle import permute


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**64 - 1), st.integers(0, 10**9))
def test_every_epoch_is_a_permutation(size, seed, epoch):
    order = permute(epoch * size + np.arange(size), size, seed)
    np.testing.assert_array_equal(np.sort(order), np.arange(size))


def test_any_place_may_be_asked_for_alone():
    whole = permute(np.arange(5000), 700, 3)
    index = np.random.default_rng(0).integers(0, 5000, 300)
    np.testing.assert_array_equal(permute(index, 700, 3), whole[index])
    assert [int(permute([i], 700, 3)[0]) for i in index[:5]] == whole[index[:5]].tolist()
    assert permute([], 700, 3).shape == (0,)


def test_large_sizes_stay_inside():
    for size in (2**31 + 11, 2**40 + 1, 10**15 + 3):
        numbers = np.random.default_rng(1).integers(0, 2**62, 20_000)
        order = permute(numbers, size, 5)
        assert order.min() >= 0 and order.max() < size
        assert abs(order.mean() / size - 0.5) < 0.01  # 5 deviations of a uniform mean


def test_epochs_and_seeds_differ():
    rows = np.arange(100)
    orders = [permute(e * 100 + rows, 100, s).tolist() for e in range(10) for s in range(10)]
    assert len(set(map(tuple, orders))) == 100
    # Not the order of another seed one epoch later, as with seed + epoch.
    assert permute(100 + rows, 100, 3).tolist() != permute(rows, 100, 4).tolist()


def test_rows_come_anywhere_and_neighbours_part():
    """6 rows over 2,000 epochs: each is at each place, and before each other, as often as
    chance would have it (chi-square, 5 standard deviations)."""
    size, epochs = 6, 2000
    order = permute(np.arange(size * epochs), size, 11).reshape(epochs, size)
    places = np.zeros((size, size))
    np.add.at(places, (np.broadcast_to(np.arange(size), order.shape), order), 1)
    expected = epochs / size
    chi = np.sum((places - expected) ** 2 / expected)
    freedom = (size - 1) ** 2
    assert abs(chi - freedom) < 5 * np.sqrt(2 * freedom)
    pairs = np.zeros((size, size))
    np.add.at(pairs, (order[:, :-1], order[:, 1:]), 1)
    off = pairs[~np.eye(size, dtype=bool)]
    expected = epochs * (size - 1) / len(off)
    chi = np.sum((off - expected) ** 2 / expected)
    assert abs(chi - len(off)) < 5 * np.sqrt(2 * len(off))


def test_the_order_is_this_one():
    """A change of this order would change the batches of a resumed run."""
    assert permute(np.arange(12), 6, 0).tolist() == [2, 1, 3, 4, 0, 5, 1, 4, 3, 0, 2, 5]
