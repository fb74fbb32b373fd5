"""Log-likelihoods of packed passages that share their beginning: those of each alone."""

import numpy as np
import open_weights as ow
import pytest
from scoring import fixture_models

from train.tasks.base import Scored
from train.tasks.scoring.likelihood import LogLikelihood
from train.tasks.scoring.tokens import Passage

# Meshes on which the same is computed: (axes, whether passages share their beginning).
MESHES = {
    "one": ({}, True),
    "eight": (dict(data=2, fsdp=4), True),
    "sequence": (dict(fsdp=4, sequence=2), False),
}


def some_groups() -> list[list[Passage]]:
    """Choices behind one context, of one token and of more, equal ones, one choice, other contexts
    with a choice in common, and none."""
    rng = np.random.default_rng(0)

    def ids(n):
        return rng.integers(1, ow.VOCAB, n).tolist()

    groups = []
    for context, *choices in [(9, 1, 1, 1), (30, 3, 8, 2, 5), (5, 40), (1, 7, 7), (20, 2)] * 3:
        start = ids(context)
        groups.append([Passage(start + ids(n), n, cut=context) for n in choices])
    start, end = ids(6), ids(4)
    groups.append([Passage(start + ids(1) + end, 4), Passage(start + ids(2) + end, 4)])
    groups.append([groups[0][0], groups[0][0]])
    groups.append([])
    return groups


def expected(config, params, groups):
    """The Scored of each passage, after a choice that is the likeliest was added to the first
    group."""
    logprobs, scored = fixture_models.plain(config, params), []
    start = groups[0][0].ids[:9]
    groups[0].append(Passage([*start, int(logprobs(np.array(start))[1][-1])], 1))
    for group in groups:
        scored.append([])
        for ids, count, cut in group:
            values, tops = logprobs(np.array(ids))
            greedy = (tops[-count - 1 : -1] == ids[-count:]).all()
            scored[-1].append(Scored(values[-count:].sum(), greedy, count, cut))
    assert any(s.greedy for s in scored[0]) and not all(s.greedy for s in scored[0])
    return scored


def compare(got, wanted):
    assert sorted(got) == list(range(len(wanted)))
    for index, scored in got.items():
        for one, other in zip(scored, wanted[index], strict=True):
            np.testing.assert_allclose(one.logprob, other.logprob, atol=1e-4)
            assert one[1:] == other[1:]


@pytest.mark.parametrize("name", MESHES)
def test_shared_and_packed_is_alone_on_every_mesh(name):
    axes, forks = MESHES[name]
    mesh = fixture_models.make_mesh(**axes)
    config, params, _ = fixture_models.load("smollm2", mesh)
    score = LogLikelihood(config, mesh, tokens=128)
    assert score.forks == forks
    groups = some_groups()
    wanted = expected(config, params, groups)
    compare(dict(score(params, groups)), wanted)


def test_a_sliding_window_is_scored_alone():
    mesh = fixture_models.make_mesh()
    config, params, _ = fixture_models.load("mistral", mesh)
    score = LogLikelihood(config, mesh, tokens=256)
    assert not score.forks
    groups = some_groups()[:4]
    wanted = expected(config, params, groups)
    compare(dict(score(params, groups)), wanted)


def test_log_probabilities_are_those_of_transformers():
    mesh = fixture_models.make_mesh()
    config, params, fixture = fixture_models.load("smollm2", mesh)
    ids = ow.inputs()["long"]
    logits = fixture["long"].astype(np.float64)
    logprobs = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
    values = logprobs[np.arange(len(ids) - 1), ids[1:]]
    # Two choices that part after 12 ids: theirs, and one of it with another end.
    other = 1 + ids[12] % (ow.VOCAB - 1)
    group = [Passage(ids.tolist(), 12), Passage([*ids[:12].tolist(), int(other)], 1)]
    ((_, scored),) = LogLikelihood(config, mesh, tokens=128)(params, [group])
    np.testing.assert_allclose(scored[0].logprob, values[-12:].sum(), atol=1e-3)
    np.testing.assert_allclose(scored[1].logprob, logprobs[11, other], atol=1e-4)


@pytest.mark.slow
def test_passages_that_are_too_long_to_share_are_scored_alone():
    mesh = fixture_models.make_mesh()
    config, params, _ = fixture_models.load("smollm2", mesh)
    ids = np.random.default_rng(0).integers(1, ow.VOCAB, 2400).tolist()
    groups = [[Passage(ids[:2301], 50), Passage([*ids[:2200], 5, 6], 1)], [Passage(ids[:900], 9)]]
    logprobs = fixture_models.plain(config, params, 2304)
    got = dict(LogLikelihood(config, mesh, tokens=512)(params, groups))
    for index, group in enumerate(groups):
        for passage, scored in zip(group, got[index], strict=True):
            values, _ = logprobs(np.array(passage.ids))
            np.testing.assert_allclose(scored.logprob, values[-passage.scored :].sum(), rtol=1e-5)
