"""Answers of saved runs to questions that people rank, and a reward model's scores of them."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.ranking.questions import Candidate, Question
from data.text.builtin import BuiltinTokenizer
from model.config import TransformerConfig
from model.sizes import SIZES
from train.chat.candidates import ground, hints, open_answerers, open_score
from train.checkpoints import checkpointer, networks, saved_models
from train.interop import opening
from train.step import TrainState

SAMPLING = {"max_new_tokens": 6, "temperature": 1.0, "top_p": 1.0}


def save(workdir, role, tokenizer, vocab_size):
    model = TransformerConfig(
        vocab_size=vocab_size, max_length=64, **SIZES["tiny"] | {"num_layers": 1}
    )
    params = jax.jit(lambda key: nn.unbox(networks.init_params(role, model, key)))(
        jax.random.key(0)
    )
    saver = checkpointer.Checkpointer(workdir, keep=1)
    source = {"step": np.asarray(1, np.int32)}
    saver.save(TrainState(jnp.int32(1), {role: params}, {"count": jnp.zeros(1)}, source), {})
    saver.close()
    saved_models.save_models(workdir, {role: model})
    tokenizer.save(workdir / "tokenizer")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    save(folder / "a", "policy", BuiltinTokenizer("byte", b""), 263)
    save(folder / "reward", "reward", BuiltinTokenizer("byte", b""), 263)
    return folder


def question(number, text):
    return Question([{"role": "user", "content": text}], id=number)


def test_passages_are_written_into_questions(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # of the index
    (tmp_path / "help").mkdir()
    (tmp_path / "help/why.md").write_text("# Why\n\nNobody knows.\n")
    asked = [question(1, "Why"), Question([{"role": "tool", "content": "x"}])]
    ground(asked, str(runs / "a"), str(tmp_path / "help"))
    text = asked[0].messages[-1]["content"]
    assert "Nobody knows." in text and text.endswith("Why")
    assert asked[1].messages[-1]["content"] == "x"
    assert hints([str(runs / "a")]) == []


def test_answers_depend_on_the_question_and_the_seed_alone(runs):
    (answerer,) = open_answerers([str(runs / "a")], SAMPLING, 3)
    assert answerer.source == {"run": str(runs / "a"), "step": 1, **SAMPLING, "seed": 3}
    asked = [question(5, "Hello"), question(6, "x" * 200), question(7, "Why")]
    answers = dict(answerer(asked, 2))
    assert answers[6] == f"the prompt does not fit the context of {runs / 'a'}"
    assert len(answers[5]) == 2 and answers[5][0].text != answers[5][1].text
    assert dict(answerer([asked[2], question(8, "How")], 2))[7] == answers[7]
    (bad,) = dict(answerer([Question([{"role": "tool", "content": "x"}], id=1)], 2)).values()
    assert isinstance(bad, str)  # the chat format has no place for it


def test_scores_of_a_reward_model(runs):
    score = open_score(str(runs / "reward"))
    prompt = question(1, "Hello").messages
    first, second = score(prompt, [Candidate("Hi."), Candidate("Hi.", {"ended": False})])
    assert first != second  # one is read without the id that ends it
    with pytest.raises(ValueError, match="do not fit"):
        score(prompt, [Candidate("x" * 200)])


def test_a_run_with_another_tokenizer_is_refused(runs, monkeypatch):
    opened = opening.open_model(str(runs / "a"), "policy")
    small = dataclasses.replace(opened.config, vocab_size=100)
    monkeypatch.setattr(opening, "open_model", lambda *_: opened._replace(config=small))
    with pytest.raises(ValueError, match=r"has 263 ids and its model 100: .* Restore .*tokenizer"):
        open_answerers([str(runs / "a")], SAMPLING, 0)


def test_a_run_without_the_model_is_refused(runs):
    with pytest.raises(ValueError, match="does not write text"):
        open_answerers([str(runs / "reward")], SAMPLING, 0)
    with pytest.raises(ValueError, match="no checkpoint of step 9"):
        open_answerers([f"{runs / 'a'}@9"], SAMPLING, 0)
    (answerer,) = open_answerers([f"{runs / 'a'}@1"], SAMPLING, 0)
    assert answerer.source["run"] == str(runs / "a") and answerer.source["step"] == 1
    with pytest.raises(ValueError, match="leaves no room"):
        open_answerers([str(runs / "a")], SAMPLING | {"max_new_tokens": 64}, 0)
