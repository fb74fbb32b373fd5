"""Talking to a checkpoint."""

import dataclasses
import io

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
from model.sizes import SIZES
from train.runtime import checkpoint
from train.step import TrainState
from train.workflows import conversation

MODEL = TransformerConfig(vocab_size=263, max_length=64, **SIZES["tiny"] | {"num_layers": 1})
SAMPLING = Sampling(8, 0.0, stop_ids=(EOS,), banned_ids=NEVER_SAMPLED)
TOKENIZER = BuiltinTokenizer("byte", b"")


@pytest.fixture(scope="module")
def params():
    init = jax.jit(lambda key: nn.unbox(checkpoint.init_params("policy", MODEL, key)))
    return init(jax.random.key(0))


@pytest.fixture
def workdir(params, tmp_path):
    """`tmp_path/ppo`, a run of a policy."""
    saver = checkpoint.Checkpointer(tmp_path / "ppo", keep=1)
    source = {"step": np.asarray(1, np.int32)}
    saver.save(TrainState(jnp.int32(1), {"policy": params}, {"count": jnp.zeros(1)}, source), {})
    saver.close()
    checkpoint.save_models(tmp_path / "ppo", {"policy": MODEL})
    TOKENIZER.save(tmp_path / "ppo" / "tokenizer")
    return tmp_path / "ppo"


def _greedy(params, messages) -> str:
    """The answer of `generate` to an unpadded prompt."""
    ids = jnp.asarray(render_prompt(TOKENIZER, messages))[None]
    keys = jax.random.split(jax.random.key(0), 1)
    run = jax.jit(generate, static_argnums=(0, 5))
    sample = run(MODEL, params, ids, jnp.ones(ids.shape, bool), keys, SAMPLING)
    return TOKENIZER.decode(np.asarray(sample.tokens[0, ids.shape[1] :][sample.response_mask[0]]))


def test_turns_are_answered_with_the_conversation_so_far(workdir, params):
    talk = conversation.open_chat(workdir, SAMPLING)
    first = talk.ask("Hello")
    assert [m["content"].strip() for m in talk.messages] == ["Hello", first]
    history = [*talk.messages, {"role": "user", "content": "And"}]
    second = _greedy(params, history)
    assert talk.ask("And") == second.strip()
    assert talk.messages == [*history, {"role": "assistant", "content": second}]
    talk.reset()
    assert talk.ask("Hello") == first and len(talk.messages) == 2


def test_the_oldest_turns_make_room(params):
    talk = conversation.Chat(MODEL, params, TOKENIZER, SAMPLING)
    for letter in "abcd":
        talk.ask(letter * 9)
    asked = "".join(m["content"][0] for m in talk.messages if m["role"] == "user")
    assert "abcd".endswith(asked) and 1 <= len(asked) < 4
    assert [m["role"] for m in talk.messages] == ["user", "assistant"] * len(asked)
    _, ids = talk._fit("e" * 9)
    assert len(ids) <= MODEL.max_length - SAMPLING.max_new_tokens


def test_what_cannot_fit_is_said_and_forgets_nothing(params):
    talk = conversation.Chat(MODEL, params, TOKENIZER, SAMPLING)
    talk.ask("a")
    with pytest.raises(ValueError, match="has room for 56"):
        talk.ask("x" * 60)
    assert len(talk.messages) == 2
    with pytest.raises(ValueError, match="--max_new_tokens=60 leaves no room"):
        conversation.Chat(
            MODEL, params, TOKENIZER, dataclasses.replace(SAMPLING, max_new_tokens=60)
        )


def test_templates_that_forget_thoughts_are_asked_more_than_once(params):
    template = (
        "{% for m in messages %}{{ m.role ~ ':' ~ m.content.split('</think>')[-1] ~ '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}assistant:<think>{% endif %}"
    )
    tokenizer = HFTokenizer(open_tokenizers.files(template))
    talk = conversation.Chat(MODEL, params, tokenizer, SAMPLING)
    talk.messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "greet</think>yes"},
    ]
    _, ids = talk._fit("And")
    assert tokenizer.decode(ids) == "user:Hello\nassistant:yes\nuser:And\nassistant:<think>"


def test_every_turn_has_a_key_of_its_own(params):
    sampling = dataclasses.replace(SAMPLING, temperature=1.0)

    def two_turns(seed):
        talk = conversation.Chat(MODEL, params, TOKENIZER, sampling, seed)
        first = talk.ask("a")
        talk.reset()
        return first, talk.ask("a")

    assert two_turns(0) == two_turns(0)
    assert len({*two_turns(0), *two_turns(1)}) == 4


def test_lines_of_standard_input_are_turns(params, monkeypatch, capsys):
    talk = conversation.Chat(MODEL, params, TOKENIZER, SAMPLING)
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n\n/reset\nb\n/quit\nc\n"))
    conversation.converse(talk, interactive=False)
    assert [m["content"] for m in talk.messages if m["role"] == "user"] == ["b"]
    assert "a new conversation" in capsys.readouterr().out

    monkeypatch.setattr("sys.stdin", io.StringIO("x" * 99 + "\n"))
    with pytest.raises(SystemExit, match="1"):
        conversation.converse(talk, interactive=False)
    assert "ask something shorter" in capsys.readouterr().err


def test_a_wrong_workdir_names_the_right_one(workdir):
    chain = workdir.parent
    (chain / "reward").mkdir()
    checkpoint.save_models(chain / "reward", {"reward": MODEL})
    conversation.check_workdir(workdir)
    hint = f"; try --workdir={workdir}"
    for wrong, why in (
        ("reward", "holds a reward model, which does not write text"),
        ("", "is not the workdir of a run"),
        ("sft", "does not exist"),
    ):
        with pytest.raises(ValueError) as e:
            conversation.check_workdir(chain / wrong)
        assert str(e.value) == f"--workdir={chain / wrong} {why}{hint}"
