"""A conversation: what is kept, refused and saved."""

import pytest

from data.read import sources
from tests.train.chat.fake_chat import FakeModel, FakeScorer
from train.chat.answer import LIMIT, STOP, STOPPED, Answer, forgotten_mark, marks
from train.chat.session import Session


def take(session, question, tokens=99, again=False):
    """Asks, reads this many tokens of each reply, and keeps them."""
    question, replies = session.regenerate() if again else (question, session.ask(question))
    for reply in replies:
        for answer, _ in zip(reply, range(tokens - 1), strict=False):
            assert answer == reply.answer
    return session.keep(question, replies, again)


def test_a_stopped_answer_stays_as_far_as_it_was_written():
    session = Session([FakeModel("a", "one two three")])
    turn = take(session, "q", tokens=2)
    assert turn.answers == (Answer("one two", 2, STOPPED),)
    assert session.messages(0, session.turns, "r")[1]["content"] == "one two"
    question, replies = session.ask("r")[0].name, session.ask("r")
    session.keep(question, replies)  # stopped before the first token
    assert session.turns == [turn]


def test_two_models_have_histories_of_their_own_and_one_key():
    a, b = FakeModel("a", "yes", room=1), FakeModel("b", "no")
    session = Session([a, b])
    assert [answer.text for answer in take(session, "q").answers] == ["yes 0", "no 0"]
    replies = session.ask("r")
    assert [reply.forgotten for reply in replies] == [1, 0]
    assert a.messages[1]["content"] == "yes 0" and b.messages[1]["content"] == "no 0"


def test_an_answer_is_written_again_with_another_key():
    session = Session([FakeModel("a", "yes")])
    with pytest.raises(ValueError, match="ask something first"):
        session.regenerate()
    first = take(session, "q")
    second = take(session, "", again=True)
    assert session.turns == [second] and first.answers != second.answers
    assert session.models[0].messages == [{"role": "user", "content": "q"}]
    session.keep(*session.regenerate(), again=True)  # nothing was written: the old one stays
    assert session.turns == [second]


def test_answers_are_scored_with_their_system_message():
    session = Session([FakeModel("a", "one two")], FakeScorer(), temperature=0, system="be short")
    assert take(session, "q").answers[0].score == "reward 7.250"
    assert take(session, "q", tokens=1).answers[0].score == "reward 3.000"
    session.scorer.score = lambda *_: session.set_temperature("hot")  # it raises ValueError
    assert take(session, "r").answers[0].score.startswith("no reward: a temperature is a number")
    assert session.messages(0, [])[0] == {"role": "system", "content": "be short"}


@pytest.mark.parametrize("text", ["hot", "-1", "nan", "inf", "1e9", ""])
def test_a_bad_temperature_is_refused(text):
    session = Session([FakeModel("a", "yes")], temperature=0.5)
    with pytest.raises(ValueError, match="number from 0 to 100"):
        session.set_temperature(text)
    assert session.temperature == 0.5


def test_a_saved_conversation_is_read_by_sft(tmp_path):
    session = Session([FakeModel("a", "one two", limit=4), FakeModel("b", "é")], system="s")
    path = str(tmp_path / "talk.jsonl")
    with pytest.raises(ValueError, match="nothing to save"):
        session.save(path)
    take(session, "first")
    take(session, "second", tokens=1)
    assert session.save(path).startswith("2 turns written")
    read = sources.read(path, "chat")
    assert not read.unused and len(read.examples) == 2
    messages = read.examples[0]["messages"]
    assert [m["role"] for m in messages] == ["system"] + ["user", "assistant"] * 2
    assert messages[2] == {"role": "assistant", "content": "one two 0"}
    assert messages[4] == {"role": "assistant", "content": "one", "weight": 0}
    assert read.examples[1]["messages"][2]["content"] == "é 0"
    take(session, "third")
    session.save(path)  # its own file
    for other in (tmp_path / "other.jsonl", tmp_path / "talk.txt"):
        other.write_text("mine")
        with pytest.raises(ValueError, match=r"exists|ends in"):
            session.save(str(other))
        assert other.read_text() == "mine"
    with pytest.raises(OSError):
        session.save(str(tmp_path / "none" / "talk.jsonl"))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer("x", 1, STOP), []),
        (Answer(" ", 1, STOP), ["(an empty answer)"]),
        (Answer("x", 9, LIMIT, "reward 1"), ["… cut at 9 tokens; --max_new_tokens", "reward 1"]),
        (Answer("x", 2, STOPPED), ["… stopped"]),
    ],
)
def test_marks(answer, expected):
    assert marks(answer, 9) == expected


def test_forgotten_turns_are_counted():
    assert forgotten_mark(1) == "(the oldest turn no longer fits the context)"
    assert forgotten_mark(2, "a") == "(the 2 oldest turns no longer fit the context of a)"
