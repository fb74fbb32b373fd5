"""One ranking from the rankings of several people, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence

from data.ranking.questions import dense, ordered_pairs


def consensus(ranks: Sequence[Sequence[int]]) -> tuple[list[int], float]:
    """(the rank of each candidate by Borda count, the confidence in it).

    A candidate scores the people who prefer it to another minus those who prefer the other, summed
    over the others; equal scores are a tie. The confidence is the share of people who agree with
    the order of a pair, a tie counting half, averaged over the pairs that the consensus orders; it
    is at least ½, and 1 for a tie of all.

    Args:
      ranks: the rank of each candidate, 0 best, by each person.
    """
    numbers = range(len(ranks[0]))
    votes = [
        [sum((rank[i] < rank[j]) - (rank[i] > rank[j]) for rank in ranks) for j in numbers]
        for i in numbers
    ]
    rank = dense([-sum(row) for row in votes])
    shares = [0.5 + votes[i][j] / (2 * len(ranks)) for i, j in ordered_pairs(rank)]
    confidence = sum(shares) / len(shares) if shares else 1.0
    return rank, max(confidence, 0.5)
