"""Races turn about: order, rounds that do not count, ratios within a round."""

from benchmarks import turns


def test_sides_alternate_and_the_first_rounds_do_not_count():
    ran = []

    def side(name, figure):
        def run(number):
            ran.append((number, name))
            return figure * (number + 1)

        return run

    figures = turns.race({"ours": side("ours", 6), "theirs": side("theirs", 3)}, rounds=3)
    assert ran == [
        (0, "ours"), (0, "theirs"), (1, "theirs"), (1, "ours"),
        (2, "ours"), (2, "theirs"), (3, "theirs"), (3, "ours"),
    ]  # fmt: skip
    assert figures == {"ours": [12, 18, 24], "theirs": [6, 9, 12]}
    assert turns.ratios(figures, "ours", "theirs") == [2, 2, 2]


def test_a_ratio_is_the_median_of_those_within_a_round():
    figures = {"ours": [10.0, 30.0, 20.0], "theirs": [1.0, 30.0, 10.0]}
    assert turns.ratio(figures, "ours", "theirs") == 2  # of 10, 1 and 2
    assert turns.spread([1000.0, 3471.4, 5104.0]) == "3,471 (1,000 to 5,104)"
    assert turns.spread([1.234], 2) == "1.23"


def test_a_clock_counts_both_times():
    with turns.clock() as took:
        sum(range(100_000))
    assert took.seconds > 0 and took.processor > 0
