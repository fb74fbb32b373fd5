"""Best of n: which answer is taken, and a file that the sft stage reads."""

from types import SimpleNamespace

import numpy as np
import pytest
from stage_fixtures import recipe, write_files

from data.read.sources import read
from ranges import ConfigError
from train.rl import best_of

STOP = 2
TOKENIZER = SimpleNamespace(stop_ids=(STOP,), decode=lambda ids: "".join(map(str, ids[:-1])))


def record(rows, scores):
    """`best_answer` of one prompt's answers, behind a prompt of one id."""
    mask = np.array([[1.0] * len(r) + [0.0] * (3 - len(r)) for r in rows])
    tokens = np.array([[9, *r, *[0] * (3 - len(r))] for r in rows])
    answers = {"tokens": tokens, "response_mask": mask, "score": np.array(scores)}
    return best_of.best_answer(TOKENIZER, answers, {"messages": []})


def test_the_best_answer_that_ended_is_taken():
    got = record([[5, STOP], [6, 7, STOP], [8, 8, 8]], [1.0, 2.0, 6.0])
    assert got["messages"] == [{"role": "assistant", "content": "67"}]
    assert (got["score"], got["mean"]) == (2.0, 3.0)
    assert record([[8, 8, 8], [5, 5, 5]], [1.0, 2.0]) is None  # none ended
    assert record([[STOP], [STOP]], [1.0, 2.0]) is None  # nothing said


def test_the_answers_are_conversations(stages_dir, tmp_path):
    config = recipe("grpo", stages_dir, policy=stages_dir / "sft", reward=stages_dir / "reward")
    written, prompts = best_of.run(config, tmp_path, least=-np.inf)
    path = tmp_path / "answers.jsonl"
    first = path.read_text()
    answers = read(str(path), "chat").examples
    assert 0 < written == len(answers) <= prompts
    asked = {e["messages"][-1]["content"] for e in read(config.data.source, "prompt").examples}
    assert all(e["messages"][-2]["content"] in asked for e in answers)
    again, _ = best_of.run(config, tmp_path, least=-np.inf)
    assert again == written and path.read_text() == first
    none, _ = best_of.run(config, tmp_path, least=np.inf)
    assert none == 0 and not path.read_text()


def test_it_reads_a_recipe_with_groups_of_answers(tmp_path):
    write_files(tmp_path)
    with pytest.raises(ConfigError, match="best of n needs a recipe with groups"):
        best_of.run(recipe("ppo", tmp_path), tmp_path, 0.0)
