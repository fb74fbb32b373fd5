"""The rollouts on record of a run: frames, coloured answers, and two runs compared."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.text import tokenizer as tokenizers
from ranges import ConfigError
from train import inspect
from train.inspect import show
from train.inspect.records.token_view import Row, TokenView
from train.inspect.tokens import text_of
from train.rl import record


@pytest.fixture
def workdir(stages_dir, tmp_path):
    """A run with what is read of it: its tokenizer and its rollouts after 0 and 4 updates."""
    for name in ("tokenizer", "rollouts"):
        shutil.copytree(stages_dir / "ppo" / name, tmp_path / "ppo" / name)
    return tmp_path / "ppo"


def change(workdir, step, edit):
    path = record.path(workdir, step)
    table = pq.read_table(path)
    rows = table.to_pylist()
    edit(rows)
    pq.write_table(type(table).from_pylist(rows, table.schema), path)


def test_a_rollout_is_a_frame_with_a_row_an_answer(workdir):
    rollouts = inspect.rollouts(workdir)
    assert rollouts.steps == list(rollouts) == [0, 4] and 4 in rollouts and 1 not in rollouts
    frame = rollouts[4]
    assert len(frame) == 32
    assert {"prompt", "response", "score", "reward/model", "advantages", "updates"} <= {*frame}
    assert frame["advantages"][0].dtype == np.float32
    assert [len(x) for x in frame["advantages"]] == [len(x) for x in frame["tokens"]]
    summary = rollouts.summary()
    assert (
        summary.index.tolist() == [0, 4] and summary["tokens"][4] == frame["tokens"].map(len).sum()
    )
    assert summary["kl"][4] == pytest.approx(np.mean([x.sum() for x in frame["kl"]]), rel=1e-5)
    assert summary["kl"][0] == 0
    assert repr(rollouts).startswith(f"2 rollouts of {workdir} on record\n")
    assert "<table" in rollouts._repr_html_()


def test_runs_without_records_and_damaged_ones_are_named(workdir, tmp_path):
    with pytest.raises(ConfigError, match=r"absent does not exist; train PPO.*rl\.record=K"):
        inspect.rollouts(tmp_path / "absent")
    rollouts = inspect.rollouts(workdir)
    with pytest.raises(ConfigError, match="no rollout of step 5 on record; it has those of 0, 4"):
        rollouts[5]
    record.path(workdir, 4).write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"4\.parquet is damaged"):
        rollouts[4]
    pq.write_table(
        pq.read_table(record.path(workdir, 0)).replace_schema_metadata(),
        rollouts.workdir / "rollouts/4.parquet",
    )
    with pytest.raises(DataError, match=r"4\.parquet is no rollout of Seedpod"):
        rollouts[4]


def test_answers_are_coloured_by_a_number(workdir):
    rollouts = inspect.rollouts(workdir)
    view = rollouts.show(4, rows=[3, 7], by="log_ratio")
    frame = rollouts[4]
    assert [list(row.values) for row in view.rows] == [frame["kl"][i].tolist() for i in (3, 7)]
    tokenizer = tokenizers.load(workdir)
    assert view.rows[0].tokens == [text_of(tokenizer, i) for i in frame["tokens"][3]]
    assert view.most == max(np.abs(frame["kl"][i]).max() for i in (3, 7))
    by_score = rollouts.show(4, by="reward")
    assert len(by_score.rows) == 6
    assert {*by_score.rows[2].values} == {float(frame["score"][2])}
    assert len(rollouts.show(4, range(30, 99), "old_values").rows) == 2
    with pytest.raises(ConfigError, match="rows 0 to 31, and no row 32"):
        rollouts.show(4, [32])
    with pytest.raises(ConfigError, match="by='prompt': answers are coloured by advantages, log_"):
        rollouts.show(4, by="prompt")


def test_texts_of_others_are_text():
    row = Row("row 0", "<b>\x1b[31m", ["<script>", "\n", "\x1b[2J", "é"], [1.0, -1.0, np.nan, 0.5])
    view = TokenView("<run>", "advantage", [row])
    page = view._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page and "&lt;run&gt;" in page
    assert "\x1b" not in page + repr(view) and "\\x1b[2J" in repr(view)
    assert "⏎" in page and "⏎" in repr(view)
    strong, weak = show.colour(1.0), show.colour(0.5)
    assert f'title="token 0: 1 advantage" style="background:{strong}' in page
    assert f"background:{weak}" in page
    assert f'title="token 2: nan advantage" style="background:{show.colour(0)}' in page


def test_two_runs_are_compared_at_the_first_token_that_differs(workdir, tmp_path):
    other = shutil.copytree(workdir, tmp_path / "other")
    same = inspect.first_difference(workdir, other)
    assert same.equal and same.steps == [0, 4] and same.gap == 0
    assert f"{workdir} and {other}: no token differs in rollouts 0, 4" in repr(same)

    def edit(rows):
        rows[2]["sampler_logprobs"][0] -= 0.5
        for i in (9, 20):
            rows[i]["tokens"][1] += 1
        rows[9]["sampler_logprobs"][1] = -1.25
        rows[12]["tokens"].pop()

    change(other, 4, edit)
    found = inspect.first_difference(workdir, other)
    frame = inspect.rollouts(workdir)[4]
    assert (found.first.step, found.first.row, found.first.position) == (4, 9, 1)
    assert (found.rows, found.gap) == (3, pytest.approx(0.5, rel=1e-5))
    a, b = found.first.ids
    assert (a, b) == (frame["tokens"][9][1], frame["tokens"][9][1] + 1)
    decode = tokenizers.load(workdir).decode
    assert found.first.texts == (decode(frame["tokens"][9][:2]), decode([frame["tokens"][9][0], b]))
    assert found.first.logprobs == (frame["sampler_logprobs"][9][1], -1.25)
    assert "differ first at step 4, row 9, token 1 of the answer; 3 rows" in repr(found)


def test_an_answer_that_ends_earlier_and_a_prompt_differ_too(workdir, tmp_path):
    other = shutil.copytree(workdir, tmp_path / "other")
    n = len(inspect.rollouts(workdir)[4]["tokens"][0])
    change(other, 4, lambda rows: [rows[0][name].pop() for name in ("tokens", "sampler_logprobs")])
    first = inspect.first_difference(workdir, other).first
    assert first.position == n - 1 and first.ids[1] is None and np.isnan(first.logprobs[1])
    change(other, 0, lambda rows: rows[3]["prompt_tokens"].insert(0, 7))
    first = inspect.first_difference(workdir, other).first
    assert (first.step, first.row, first.part, first.position) == (0, 3, "prompt_tokens", 0)


def test_records_that_do_not_overlap_are_refused(workdir, tmp_path):
    other = shutil.copytree(workdir, tmp_path / "other")
    record.path(other, 0).unlink()
    record.path(other, 4).rename(record.path(other, 8))
    with pytest.raises(
        ConfigError, match="no rollout of the same step on record: steps 0, 4, and 8"
    ):
        inspect.first_difference(workdir, other)
    record.path(other, 8).rename(record.path(other, 4))
    change(other, 4, lambda rows: rows.pop())
    with pytest.raises(ConfigError, match=r"rl\.rollout_batch: .* step 4 have 32 and 31 answers"):
        inspect.first_difference(workdir, other)
