"""Agreement of annotators beyond chance: Cohen's and Fleiss' kappa, Krippendorff's alpha.

What is rated is a pair of candidates of one question: the first is better (-1), neither (0), or the
second (1). Which is first is random, so that chance is even. A ranking of three is three pairs.
"""

from __future__ import annotations

import functools
import itertools
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from data.ranking.questions import Recorded

RATINGS = (-1, 0, 1)


class Agreement(NamedTuple):
    """Agreement over the pairs that at least two people rated.

    Attributes:
      pairs: their number. share: of equal ratings, among all two ratings of a pair.
      cohen: {(annotator, annotator): kappa} (Cohen 1960), of the pairs that both rated.
      fleiss: kappa (Fleiss 1971), of the pairs that most people rated: as many as `raters`.
      alpha: ordinal alpha (Krippendorff 2011), of all pairs.
      A number is NaN where it is not defined: too few ratings, or all are the same.
    """

    pairs: int
    share: float
    cohen: dict[tuple[str, str], float]
    fleiss: float
    raters: int
    alpha: float


def ratings_of(answers: Iterable[Recorded]) -> dict[tuple[int, int, int], dict[str, int]]:
    """{(question, candidate, candidate): {annotator: rating}} of the answers with a rank."""
    ratings: dict[tuple[int, int, int], dict[str, int]] = {}
    for answer in answers:
        rank = answer.answer.rank or []
        for i, j in itertools.combinations(range(len(rank)), 2):
            sign = 1 if zlib.crc32(f"{answer.question}/{i}/{j}".encode()) % 2 else -1
            rating = sign * ((rank[i] > rank[j]) - (rank[i] < rank[j]))
            ratings.setdefault((answer.question, i, j), {})[answer.annotator] = rating
    return ratings


def agreement(answers: Iterable[Recorded]) -> Agreement | None:
    """The agreement of answers; None if no two people answered one question.

    Raises:
      ValueError: the packages that compute it are not installed.
    """
    units = [unit for unit in ratings_of(answers).values() if len(unit) > 1]
    if not units:
        return None
    try:
        import krippendorff
        from statsmodels.stats.inter_rater import cohens_kappa, fleiss_kappa
    except ImportError as error:
        raise ValueError(f"agreement needs {error.name}; type: pip install '.[ranking]'") from None
    pairwise = functools.partial(cohens_kappa, return_results=False)
    names = sorted({name for unit in units for name in unit})
    cohen = {}
    for a, b in itertools.combinations(names, 2):
        both = Counter((unit[a], unit[b]) for unit in units if a in unit and b in unit)
        if both:
            table = np.array([[both[x, y] for y in RATINGS] for x in RATINGS])
            cohen[a, b] = _defined(pairwise, table, table.sum(0) + table.sum(1))
    raters, _ = Counter(map(len, units)).most_common(1)[0]
    counts = [Counter(unit.values()) for unit in units if len(unit) == raters]
    table = np.array([[count[x] for x in RATINGS] for count in counts])
    matrix = np.array([[unit.get(name, np.nan) for unit in units] for name in names])
    equal = [x == y for u in units for x, y in itertools.combinations(u.values(), 2)]
    alpha = math.nan
    if len({rating for unit in units for rating in unit.values()}) > 1:
        alpha = float(krippendorff.alpha(matrix, level_of_measurement="ordinal"))
    fleiss = _defined(fleiss_kappa, table, table.sum(0))
    return Agreement(len(units), float(np.mean(equal)), cohen, fleiss, raters, alpha)


def _defined(kappa: Callable[..., Any], table: np.ndarray, used: np.ndarray) -> float:
    """A kappa of a table; NaN where all ratings are the same, so that chance explains them.

    Args:
      used: how often each rating is given.
    """
    return float(kappa(table)) if np.count_nonzero(used) > 1 else math.nan
