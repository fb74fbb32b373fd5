"""Answers: those of `model.generate`, whatever batch they are sampled in."""

import jax
import numpy as np
import pytest
from scoring import fixture_models
from scoring.fixture_models import CHARACTERS

from model.generate import Sampling, generate
from ranges import ConfigError
from train.tasks.base import Generation
from train.tasks.scoring import generation
from train.tasks.scoring.scorer import Scorer

PROMPTS = ["Is it so?", "a", "The end of a long prompt that is longer than others", "b: c"]


def answers(model, requests, **settings):
    scorer, params, _ = model
    return dict(scorer.answer(params, requests, **settings))


def reference(model, prompt, sampling, key):
    """The text of one answer of `generate`."""
    _, params, config = model
    ids = np.array([[*CHARACTERS.prefix, *CHARACTERS.encode(prompt)]], np.int32)
    fixed = dict(
        stop_ids=CHARACTERS.stop_ids, pad_id=CHARACTERS.pad_id, banned_ids=CHARACTERS.banned_ids
    )
    settings = Sampling(**sampling, **fixed)
    sample = jax.jit(generate, static_argnames=("config", "sampling"))(
        config, params, ids, np.ones_like(ids, bool), key[None], settings
    )
    return CHARACTERS.decode(np.asarray(sample.tokens)[0, ids.shape[1] :][sample.response_mask[0]])


def test_answers_are_those_of_generate(model, monkeypatch):
    monkeypatch.setattr(generation, "BETWEEN", 3)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), 3), 1)
    greedy = [Generation(prompt, 8) for prompt in PROMPTS]
    drawn = [Generation(prompt, 8, temperature=1.5, samples=2) for prompt in PROMPTS]
    got = answers(model, [*greedy[:3], drawn[3]], seed=5)
    wanted = reference(model, PROMPTS[2], dict(max_new_tokens=8, temperature=0.0), key)
    assert got[2][0].text == wanted and len(got[2]) == 1
    wanted = reference(model, PROMPTS[3], dict(max_new_tokens=8, temperature=1.5), key)
    assert got[3][1].text == wanted and got[3][0].text != got[3][1].text
    # The same where the others are done; with another number or seed, others.
    assert answers(model, [*greedy[:3], drawn[3]], seed=5, done=range(3)) == {3: got[3]}
    assert answers(model, [drawn[3]], seed=5)[0] != got[3] != answers(model, [drawn[3]])[0]


def test_a_stop_text_ends_an_answer_and_the_work(model, monkeypatch):
    monkeypatch.setattr(generation, "BETWEEN", 2)
    (whole,) = answers(model, [Generation(PROMPTS[0], 16)])[0]
    assert whole.cut and len(whole.text) == 16
    stop = whole.text[3:5]
    calls = []
    advance = model[0].sampler._advance
    monkeypatch.setattr(
        model[0].sampler, "_advance", lambda *a, **k: calls.append(0) or advance(*a, **k)
    )
    (answer,) = answers(model, [Generation(PROMPTS[0], 16, stop=("", "\0", stop))])[0]
    assert answer.text == whole.text[: whole.text.find(stop)] and not answer.cut
    assert len(calls) <= 2


def test_a_prompt_that_does_not_fit_is_cut_on_the_left(model):
    config = model[2]
    prompt = "ab" * config.max_length
    (cut,) = answers(model, [Generation(prompt, 8)])[0]
    assert cut.prompt_cut == 1 + len(prompt) - (config.max_length - 8)
    with pytest.raises(ConfigError, match="leaves no room for a prompt"):
        answers(model, [Generation("a", config.max_length)])


@pytest.mark.slow
def test_eight_devices_answer_as_one(model):
    mesh = fixture_models.make_mesh(data=2, fsdp=4)
    config, params, _ = fixture_models.load("smollm2", mesh)
    requests = [Generation(prompt, 6, temperature=1.0, samples=2) for prompt in PROMPTS]
    got = dict(Scorer(config, CHARACTERS, mesh).answer(params, requests))
    assert got == answers(model, requests)
