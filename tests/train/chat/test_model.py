"""Answers of a checkpoint: the tokens of `generate`, contexts that overflow, scores."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import open_tokenizers
import pytest

from data.text.builtin import EOS, NEVER_SAMPLED, BuiltinTokenizer
from data.text.chat import render_prompt
from data.text.hf_tokenizer import HFTokenizer
from model.config import TransformerConfig
from model.generate import Sampling, generate
from model.heads import reward_model
from model.sizes import SIZES
from train.chat.answer import LIMIT, STOP
from train.chat.model import ChatModel, Scorer, open_model, open_scorer, padded_width
from train.chat.session import Session
from train.chat.workdirs import check_workdir
from train.checkpoints import checkpointer, networks, saved_models
from train.step import TrainState

MODEL = TransformerConfig(vocab_size=263, max_length=64, **SIZES["tiny"] | {"num_layers": 1})
SAMPLING = Sampling(8, 0.0, stop_ids=(EOS,), banned_ids=NEVER_SAMPLED)
TOKENIZER = BuiltinTokenizer("byte", b"")
QUESTION = [{"role": "user", "content": "Hello"}]
compiled = jax.jit(generate, static_argnums=(0, 5))


def init(role):
    init = jax.jit(lambda key: nn.unbox(networks.init_params(role, MODEL, key)))
    return init(jax.random.key(0))


@pytest.fixture(scope="module")
def params():
    return init("policy")


@pytest.fixture(scope="module")
def reward_params():
    return init("reward")


def save(workdir, role, params):
    saver = checkpointer.Checkpointer(workdir, keep=1)
    source = {"step": np.asarray(1, np.int32)}
    saver.save(TrainState(jnp.int32(1), {role: params}, {"count": jnp.zeros(1)}, source), {})
    saver.close()
    saved_models.save_models(workdir, {role: MODEL})
    TOKENIZER.save(workdir / "tokenizer")


@pytest.fixture
def talk(params):
    return Session([ChatModel("model", MODEL, params, TOKENIZER, SAMPLING)], temperature=0.0)


def ask(session, question):
    (reply,) = replies = session.ask(question)
    for _ in reply:
        pass
    session.keep(question, replies)
    return reply.answer


def generated(params, messages, sampling, draw=0, padded=True):
    """The answer of `generate`."""
    ids = render_prompt(TOKENIZER, messages)
    padding = padded_width(len(ids), 56) - len(ids) if padded else 0
    prompt = jnp.pad(jnp.asarray(ids), (padding, 0))[None]
    mask = (jnp.arange(prompt.shape[1]) >= padding)[None]
    key = jax.random.fold_in(jax.random.key(0), draw)
    sample = compiled(MODEL, params, prompt, mask, key[None], sampling)
    row = sample.tokens[0, prompt.shape[1] :][sample.response_mask[0]]
    return TOKENIZER.decode(np.asarray(row))


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 0.9)])
def test_the_stream_is_the_answer_of_generate(params, temperature, top_p):
    sampling = dataclasses.replace(SAMPLING, temperature=temperature, top_p=top_p)
    model = ChatModel("model", MODEL, params, TOKENIZER, sampling)
    ids, forgotten = model.fit(QUESTION)
    answers = list(model.stream(ids, 3, temperature))
    assert answers[-1].text == generated(params, QUESTION, sampling, 3)
    assert [answer.tokens for answer in answers] == list(range(1, len(answers) + 1))
    assert all(answers[-1].text.startswith(answer.text) for answer in answers)
    assert [answer.end for answer in answers] == [""] * 7 + [LIMIT] and forgotten == 0


def test_an_answer_ends_at_a_stop_id_and_its_characters_are_shown_whole(params, monkeypatch):
    """The bytes of a character come one by one."""
    model = ChatModel("model", MODEL, params, TOKENIZER, SAMPLING)
    drawn = iter([*TOKENIZER.encode("aé€b"), EOS])
    monkeypatch.setattr("train.chat.model.jax.device_get", lambda ids: [next(drawn)])
    answers = list(model.stream(model.fit(QUESTION)[0], 0, 0.0))
    expected = ["a", "a", "aé", "aé", "aé", "aé€", "aé€b", "aé€b"]
    assert [answer.text for answer in answers] == expected
    assert [answer.end for answer in answers] == [""] * 7 + [STOP]


def test_turns_are_answered_with_the_conversation_so_far(talk, params):
    first = ask(talk, "Hello").text
    assert first == generated(params, QUESTION, SAMPLING, padded=False)
    assert talk.messages(0, talk.turns) == [*QUESTION, {"role": "assistant", "content": first}]
    history = talk.messages(0, talk.turns, "And")
    assert ask(talk, "And").text == generated(params, history, SAMPLING)
    talk.reset()
    assert ask(talk, "Hello").text == first and len(talk.turns) == 1


def test_the_oldest_turns_make_room_and_are_counted(talk):
    for letter in "abcd":
        ask(talk, letter * 9)
    assert len(talk.turns) == 4
    model, messages = talk.models[0], talk.messages(0, talk.turns, "e" * 9)
    ids, forgotten = model.fit(messages)
    assert 0 < forgotten < 4 and len(ids) <= MODEL.max_length - SAMPLING.max_new_tokens
    assert list(ids) == list(render_prompt(TOKENIZER, messages[2 * forgotten :]))
    assert talk.ask("e" * 9)[0].forgotten == forgotten
    system = {"role": "system", "content": "s"}
    ids, forgotten = model.fit([system, *messages])
    assert list(ids) == list(render_prompt(TOKENIZER, [system, *messages[2 * forgotten :]]))


def test_what_cannot_fit_is_said_and_forgets_nothing(talk, params):
    ask(talk, "a")
    with pytest.raises(ValueError, match="has room for 56"):
        talk.ask("x" * 60)
    with pytest.raises(ValueError, match="ask something shorter"):
        talk.instruct("x" * 60)
    assert len(talk.turns) == 1 and talk.system == ""
    with pytest.raises(ValueError, match="--max_new_tokens=60 leaves no room"):
        ChatModel(
            "model", MODEL, params, TOKENIZER, dataclasses.replace(SAMPLING, max_new_tokens=60)
        )


@pytest.mark.parametrize(
    ("length", "most", "width"), [(3, 56, 32), (33, 99, 64), (33, 56, 56), (64, 99, 64)]
)
def test_prompts_have_few_widths(length, most, width):
    assert padded_width(length, most) == width


def test_templates_that_forget_thoughts_are_asked_more_than_once(params):
    template = (
        "{% for m in messages %}{{ m.role ~ ':' ~ m.content.split('</think>')[-1] ~ '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}assistant:<think>{% endif %}"
    )
    tokenizer = HFTokenizer(open_tokenizers.files(template))
    model = ChatModel("model", MODEL, params, tokenizer, SAMPLING)
    answer = {"role": "assistant", "content": "greet</think>yes"}
    ids, _ = model.fit([*QUESTION, answer, {"role": "user", "content": "And"}])
    assert tokenizer.decode(ids) == "user:Hello\nassistant:yes\nuser:And\nassistant:<think>"


def test_every_answer_has_a_key_of_its_own(params):
    def two_turns(seed):
        sampling = dataclasses.replace(SAMPLING, top_p=0.9)
        model = ChatModel("model", MODEL, params, TOKENIZER, sampling, seed)
        talk = Session([model], temperature=1.0)
        first = ask(talk, "a").text
        _, (reply,) = talk.regenerate()
        return first, list(reply)[-1].text

    assert two_turns(0) == two_turns(0)
    assert len({*two_turns(0), *two_turns(1)}) == 4


def test_the_score_is_that_of_the_reward_model_at_the_end(reward_params):
    """The answer's last token is the id that ends it, if it ended by itself."""
    messages = [*QUESTION, {"role": "assistant", "content": "yes"}]
    ids = jnp.asarray(TOKENIZER.render(messages)[0])[None]
    values = jax.jit(reward_model(MODEL).apply)({"params": reward_params}, ids)
    scorer = Scorer("reward", MODEL, reward_params, TOKENIZER)
    assert scorer.score(messages, True) == pytest.approx(float(values[0, -1]), abs=1e-5)
    assert scorer.score(messages, False) == pytest.approx(float(values[0, -2]), abs=1e-5)
    long = {"role": "user", "content": "x" * 90}
    alone = scorer.score([long, messages[1], *messages], True)  # without the oldest turn
    assert alone == scorer.score(messages, True)
    with pytest.raises(ValueError, match="do not fit the context of reward"):
        scorer.score([long, messages[1]], True)


def test_workdirs_are_opened_and_a_wrong_one_names_the_right_one(params, reward_params, tmp_path):
    save(tmp_path / "ppo", "policy", params)
    save(tmp_path / "reward", "reward", reward_params)
    model = open_model(tmp_path / "ppo", SAMPLING, 0, "workdir")
    expected = ChatModel("", MODEL, params, TOKENIZER, SAMPLING)
    answers, others = (m.stream(m.fit(QUESTION)[0], 0, 0.0) for m in (model, expected))
    assert list(answers) == list(others)
    messages = [*QUESTION, {"role": "assistant", "content": "yes"}]
    score = Scorer("", MODEL, reward_params, TOKENIZER).score(messages, True)
    assert open_scorer(tmp_path / "reward").score(messages, True) == score
    for flag, role, wrong, why in (
        ("workdir", "policy", "reward", "holds a reward model, which does not write text"),
        ("against", "policy", "", "is not the workdir of a run"),
        ("workdir", "policy", "sft", "does not exist"),
        ("reward", "reward", "ppo", "holds a policy model, which does not score answers"),
    ):
        with pytest.raises(ValueError) as e:
            check_workdir(tmp_path / wrong, flag, role)
        right = tmp_path / ("ppo" if role == "policy" else "reward")
        assert str(e.value) == f"--{flag}={tmp_path / wrong} {why}; try --{flag}={right}"
