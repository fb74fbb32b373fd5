"""Agreement and consensus, against values computed otherwise."""

import math

import pytest

from data.ranking.agreement import agreement, ratings_of
from data.ranking.consensus import consensus
from data.ranking.questions import Answer, Recorded


def recorded(name, question, rank):
    return Recorded(f"{name}{question}", question, name, "", Answer(rank=rank))


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ([[0, 1]], ([0, 1], 1.0)),
        ([[0, 1], [0, 1], [1, 0]], ([0, 1], 2 / 3)),
        ([[0, 1], [0, 0]], ([0, 1], 0.75)),  # a tie is half a vote
        ([[0, 1], [1, 0]], ([0, 0], 1.0)),
        ([[0, 1, 1]], ([0, 1, 1], 1.0)),
        # Scores 2, 0 and -2: of pairs 0>1 and 1>2 half agree, of 0>2 all.
        ([[0, 1, 2], [1, 0, 2], [0, 2, 1]], ([0, 1, 2], (2 / 3 + 1 + 2 / 3) / 3)),
    ],
)
def test_consensus(ranks, expected):
    rank, confidence = consensus(ranks)
    assert rank == expected[0] and confidence == pytest.approx(expected[1])


def cohen(table, n):
    """Kappa from its definition: (observed - chance) / (1 - chance)."""
    observed = sum(table[i][i] for i in range(3)) / n
    chance = sum(sum(table[i]) * sum(row[i] for row in table) for i in range(3)) / n**2
    return (observed - chance) / (1 - chance)


def test_kappas_and_alpha():
    ana = [[0, 1]] * 5 + [[1, 0]] * 4 + [[0, 0]]
    ben = [[0, 1]] * 4 + [[1, 0]] * 5 + [[0, 1]]
    answers = [recorded("ana", i, rank) for i, rank in enumerate(ana)]
    answers += [recorded("ben", i, rank) for i, rank in enumerate(ben)]
    result = agreement(answers)
    assert (result.pairs, result.share, result.raters) == (10, 0.8, 2)
    units = list(ratings_of(answers).values())
    table = [[0] * 3 for _ in range(3)]
    for unit in units:
        table[unit["ana"] + 1][unit["ben"] + 1] += 1
    assert result.cohen["ana", "ben"] == pytest.approx(cohen(table, 10))
    # Fleiss with two raters is Scott's pi: chance from the pooled shares.
    pooled = [sum(table[i]) + sum(row[i] for row in table) for i in range(3)]
    chance = sum((count / 20) ** 2 for count in pooled)
    assert result.fleiss == pytest.approx((0.8 - chance) / (1 - chance))
    assert result.alpha == pytest.approx(ordinal_alpha(units))


def ordinal_alpha(units):
    """Alpha of two raters from its definition: 1 - observed / expected disagreement."""
    values = [value for unit in units for value in unit.values()]
    counts = {value: values.count(value) for value in (-1, 0, 1)}

    def distance(a, b):
        low, high = sorted((a, b))
        between = sum(counts[v] for v in range(low, high + 1)) - (counts[low] + counts[high]) / 2
        return between**2

    observed = sum(distance(unit["ana"], unit["ben"]) for unit in units) / len(units)
    n = len(values)
    expected = sum(distance(a, b) for a in values for b in values) / (n * (n - 1))
    return 1 - observed / expected


def test_the_first_of_a_pair_is_not_always_the_first_candidate():
    same = [recorded("ana", i, [0, 1]) for i in range(50)]
    ratings = [unit["ana"] for unit in ratings_of(same).values()]
    assert 10 < ratings.count(-1) < 40


def test_without_two_people_or_with_equal_ratings():
    assert agreement([recorded("ana", 1, [0, 1])]) is None
    ties = [recorded(name, i, [0, 0]) for name in ("ana", "ben") for i in range(3)]
    result = agreement(ties)
    assert result.share == 1 and math.isnan(result.alpha) and math.isnan(result.fleiss)
    constant = [recorded("ana", i, [0, 0]) for i in range(3)]
    constant += [recorded("ben", i, [0, 1]) for i in range(3)]
    assert agreement(constant).cohen["ana", "ben"] == 0  # chance, and defined
    three = [recorded(n, 1, [0, 1, 2]) for n in ("ana", "ben")] + [recorded("eve", 1, [0, 0, 1])]
    assert agreement(three).pairs == 3
