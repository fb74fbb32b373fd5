"""Passages in a conversation."""

import json
from pathlib import Path

import pytest

from data.errors import DataError
from data.passages.config import PassagesConfig
from data.text.tokenizer import train
from tests.train.chat.fake_chat import FakeModel
from train.chat.passages import ChatPassages, hint, settings_of
from train.chat.session import Session
from train.chat.terminal import Terminal
from train.config import run

HELP = str(Path(__file__).parents[3] / "examples/help")


@pytest.fixture
def session(tmp_path):
    config = PassagesConfig(words=60, number=2, order="best_first", cache_dir=str(tmp_path))
    tokenizer = train("byte", [], 0)
    return Session(
        [FakeModel("runs/a", "yes", room=9)],
        open_passages=lambda source: ChatPassages(source, config, tokenizer),
    )


def test_each_question_gets_its_passages(session, capsys):
    terminal = Terminal(session)
    terminal.take(f"/passages {HELP}")
    terminal.take("When do I sow tomatoes?")
    asked = session.models[0].messages[-1]["content"]
    assert asked.startswith("Answer from these documents") and "[1] Growing" in asked
    assert asked.endswith("\n\nWhen do I sow tomatoes?")
    terminal.take("And when is the shop open?")
    messages = session.models[0].messages
    assert messages[0]["content"] == "When do I sow tomatoes?"  # history is as it was typed
    assert "Opening hours" in messages[-1]["content"]
    err = capsys.readouterr().err
    assert f"(answers from 19 passages of {HELP})" in err
    assert "passages: [1] growing#1, [2] delivery#2\n" in err
    terminal.take("/passages")
    terminal.take("Hello?")
    assert session.models[0].messages[-1]["content"] == "Hello?"


def test_the_settings_are_those_of_the_run(tmp_path):
    assert settings_of(str(tmp_path)) == PassagesConfig()
    config = run.default()
    config.data.passages.update(source="help", number=2)
    (tmp_path / "config.json").write_text(json.dumps({**config.to_dict(), "stage": "sft"}))
    (tmp_path / "models.json").write_text("{}")
    assert settings_of(str(tmp_path)).number == 2
    assert hint(str(tmp_path)).startswith("trained with passages of help; ")
    later = tmp_path / "dpo"  # learns from answers that have their passages already
    later.mkdir()
    started = run.default().to_dict() | {"stage": "dpo", "init_from": {"policy": f"{tmp_path}@3"}}
    (later / "config.json").write_text(json.dumps(started))
    assert settings_of(str(later)).number == 2 and "passages of help" in hint(str(later))
    (tmp_path / "config.json").write_text('{"stage": "import"}')
    assert hint(str(tmp_path)) == ""
    assert settings_of(str(tmp_path)) == PassagesConfig()


def test_a_folder_without_documents_leaves_the_session_as_it_was(session, tmp_path):
    session.ground(HELP)
    before = session.passages
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is a folder without documents"):
        session.ground(str(tmp_path / "empty"))
    assert session.passages is before
    with pytest.raises(ValueError, match="have no passages"):
        Session([FakeModel("a", "b")]).ground(HELP)
