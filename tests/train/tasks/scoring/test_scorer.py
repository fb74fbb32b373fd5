"""Requests of all kinds in one call."""

import jax
import numpy as np
import pytest
from scoring import fixture_models
from scoring.fixture_models import CHARACTERS

from data.errors import DataError
from train.tasks.base import Continuation, Generation, Likelihoods, Rolling

TEXT = (
    "The end of a text that is longer than what the model reads at once, by a factor of two. " * 2
)
REQUESTS = [
    Likelihoods((Continuation("Is it so?", " yes"), Continuation("Is it so?", " no"))),
    Generation("Is it so?", 4),
    Rolling(TEXT),
    Rolling(TEXT, 32),
    Rolling(""),
    Likelihoods((Continuation("A", " B"),)),
]


def test_responses_to_all_kinds_in_any_order_and_part(model):
    scorer, params, config = model
    done = []
    whole = dict(scorer.answer(params, REQUESTS, done.append))
    assert done == [1, 2, 3, 4, 5, 6] and sorted(whole) == list(range(6))
    part = dict(scorer.answer(params, REQUESTS, done={0, 2, 4}))
    assert part.keys() == {1, 3, 5} and part.items() <= whole.items()
    assert whole[4][0] == (0.0, True, 0, 0)


def test_a_text_in_windows_is_a_loop_over_them(model):
    """Windows of `max_length`, 128; each scores 32 tokens more than the one before it."""
    scorer, params, config = model
    ids = np.array([*CHARACTERS.prefix, *CHARACTERS.encode(TEXT)])
    most = config.max_length
    logprobs = fixture_models.plain(config, params, most + 1)
    total, begin, end = 0.0, 0, most
    while begin < len(ids) - 1:
        end = min(end, len(ids) - 1)
        values, _ = logprobs(ids[max(end - most, 0) : end + 1])
        total += sum(values[begin - end :])
        begin, end = end, end + 32
    ((_, (scored,)),) = scorer.answer(params, [Rolling(TEXT, 32)])
    assert scored.tokens == len(ids) - 1 == len(TEXT)
    np.testing.assert_allclose(scored.logprob, total, rtol=1e-5)


def test_what_is_not_finite_or_does_not_fit_is_named(model):
    scorer, params, config = model
    broken = jax.tree.map(lambda x: x * np.nan, params)
    with pytest.raises(FloatingPointError, match="request 5: the log-probability of ' B' after"):
        list(scorer.answer(broken, REQUESTS, done=range(5)))
    with pytest.raises(FloatingPointError, match="request 1"):
        list(scorer.answer(broken, REQUESTS[:2], done=[0]))
    long = Likelihoods((Continuation("A", "b" * 200),))
    with pytest.raises(DataError, match="request 1: a continuation has 200 tokens"):
        list(scorer.answer(params, [REQUESTS[0], long]))
