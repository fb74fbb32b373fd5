"""Tickets by label, and answers from passages."""

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from data.config import DataConfig
from data.errors import DataError
from data.passages.config import PassagesConfig
from data.text.tokenizer import train
from train.tasks import sources
from train.tasks.base import Answer, Scored
from train.tasks.evaluation import results, table, tickets
from train.tasks.evaluation.benchmark import Result, prepare
from train.tasks.registry import TASKS, find
from train.tasks.support import classification, grounded

EXAMPLES = Path(__file__).parents[3] / "examples"
BYTES = train("byte", [], 0)
LABELS = {"late": "late", "late_again": "late again", "other": "other"}


def outcomes(*pairs):
    return [{"gold": gold, "choice": choice} for gold, choice in pairs]


# Of three classes: 2 of 3 of the first are right, one of the second, none of the third.
SOME = outcomes((0, 0), (0, 0), (0, 1), (1, 1), (2, 0), (2, -1))


def test_confusion_and_scores_of_labels():
    labels, counts = classification.confusion(list(LABELS), SOME)
    assert labels == [*LABELS, "(none)"]
    assert counts == [[2, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 1]]
    scores = classification.scores_of(list(LABELS), SOME)
    assert scores["late"] == {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "items": 3}
    assert scores["late_again"]["f1"] == 2 / 3 and math.isnan(scores["other"]["precision"])
    value, stderr = classification.macro_f1(SOME)
    assert value == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)  # as scikit-learn's f1_score
    assert 0.05 < stderr < 0.4 and classification.macro_f1(SOME) == (value, stderr)
    # Labels that no item has and no answer names do not count.
    assert classification.macro_f1(outcomes((0, 0), (3, 3))).value == 1


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Late.", 0), (" late again, I fear", 1), ("late_again", 1), ("latecomer", -1), ("", -1),
        ("It is late", -1), ("other\nlate", 2),
    ],
)  # fmt: skip
def test_the_label_that_an_answer_begins_with(answer, label):
    assert classification.label_in(answer, LABELS) == label


def test_tickets_by_likelihood_and_as_answers(tmp_path):
    task = find(str(EXAMPLES / "evaluate/tickets.yaml"))
    (benchmark,) = prepare(task, (0,))
    request = benchmark.requests[0]
    assert [c.text for c in request.continuations] == [
        " delivery", " return", " account", " growing",
    ]  # fmt: skip
    scored = tuple(Scored(-n, False, 1) for n in (3.0, 1.0, 2.0, 4.0))
    outcome = task.outcome(benchmark.documents[0], scored)
    assert (outcome["acc"], outcome["gold"], outcome["choice"]) == (0, 0, 1)
    written = find(str(EXAMPLES / "evaluate/tickets_written.yaml"))
    (benchmark,) = prepare(written, (written.shots,))
    assert "Topic: growing\n\n" in benchmark.requests[0].prompt
    outcome = written.outcome(benchmark.documents[0], (Answer(" Delivery\n", False),))
    assert outcome["acc"] == 1 and outcome["no_label"] == 0
    result = Result(task, 0, {}, {}, 6, 0, 0, 0.0, (), SOME)
    results.write_confusion(tmp_path / "c.csv", result)
    rows = (tmp_path / "c.csv").read_text().splitlines()
    assert (
        rows[0] == "label,delivery,return,account,growing,(none)"
        and rows[1] == "delivery,2,1,0,0,0"
    )


@pytest.mark.parametrize(("width", "shown"), [(120, "1 delivery"), (30, "1  account → delivery")])
def test_a_narrow_terminal_shows_what_is_confused_most(monkeypatch, width, shown):
    task = find(str(EXAMPLES / "evaluate/tickets.yaml"))
    console = Console(width=width, record=True, file=io.StringIO())
    monkeypatch.setattr(tickets, "console", console)
    console.print(tickets.show(Result(task, 0, {}, {}, 6, 0, 0, 0.0, (), SOME)))
    assert shown in console.export_text()


CLASSES = "kind: classification\nsource: a.jsonl\nprompt: '{{t}}'\nlabel: '{{l}}'\n"
GROUNDED = "kind: grounded\nsource: a.jsonl\nquestion: q\nanswer: a\nsources: s\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CLASSES + "labels: [a]", r"t.yaml:5: "),
        (CLASSES + "labels: [a, a]", r"t.yaml:5: the label 'a' is there twice"),
        (CLASSES + "labels: {a: x, b: x}", r"t.yaml:5: two labels have the same text"),
        (CLASSES + "labels: none.txt", r"t.yaml:5: there is no file .*none.txt"),
        (CLASSES + "labels: [a, b]\nmethod: guess", r"t.yaml:6: "),
        (
            GROUNDED + "passages: {tokns: 3}",
            r"t.yaml:6: data.passages has no 'tokns'; did you mean tokens",
        ),
        (
            GROUNDED + "passages: {}",
            r"t.yaml:6: source is missing",
        ),
    ],
)
def test_mistakes_are_refused_with_their_line(tmp_path, text, message):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        find(str(tmp_path / "t.yaml"))


def test_an_unknown_label_is_refused(tmp_path):
    (tmp_path / "t.yaml").write_text(CLASSES + "labels: l.json")
    (tmp_path / "l.json").write_text('["early", "late"]')
    (tmp_path / "a.jsonl").write_text('{"t": "x", "l": "lat"}\n')
    with pytest.raises(
        DataError, match=r"a.jsonl:1: label: 'lat' is none of the 2 labels; did you"
    ):
        sources.load(find(str(tmp_path / "t.yaml")))


@pytest.fixture
def help_task(tmp_path, monkeypatch):
    text = (EXAMPLES / "evaluate/help.yaml").read_text().replace("../", f"{EXAMPLES}/")
    (tmp_path / "help.yaml").write_text(text + f"  cache_dir: {tmp_path}/cache\n")
    return find(str(tmp_path / "help.yaml"))


def test_each_question_is_asked_with_right_wrong_no_and_search_passages(help_task):
    with pytest.raises(DataError, match="was given no tokenizer"):
        sources.load(help_task)
    documents = sources.load(help_task.with_tokenizer(BYTES)).scored
    by_condition = {d["condition"]: d for d in documents[:4]}
    assert list(by_condition) == ["right", "wrong", "none", "search"]
    right, wrong, none = (by_condition[name] for name in ("right", "wrong", "none"))
    assert none["context"][-1]["content"] == "How long does the link for a forgotten password work?"
    assert "one hour" in right["given"] and len(right["right"]) == 1
    assert "one hour" not in wrong["given"] and wrong["right"] == []
    request = help_task.request(right, (), False)
    assert request.prompt[-1]["content"].endswith(none["context"][-1]["content"])


def test_numbers_of_grounded_answers(help_task):
    document = {
        "condition": "right", "answer": "It works for one hour.", "right": ["2"],
        "given": "[2] Account\nThe link works for one hour.",
    }  # fmt: skip

    def outcome(text, **changes):
        return help_task.outcome(document | changes, (Answer(text, False),))

    assert outcome("it works for one hour [2]") == {
        "right_unknown": 0, "right_exact_match": 1, "right_f1": 1, "right_cited": 1,
        "right_grounded": 4 / 5,
    }  # fmt: skip
    wrong = outcome("It works for two hours [1] [2].")
    assert wrong["right_cited"] == 0 and wrong["right_f1"] == pytest.approx(0.6)
    assert wrong["right_grounded"] == 2 / 5
    unknown = outcome("I do not know.", condition="wrong", right=[])
    assert unknown == {"wrong_unknown": 1}
    assert outcome("The documents don’t say.")["right_unknown"] == 1
    assert outcome("one", condition="search", right=[])["search_found"] == 0
    assert "none_grounded" not in outcome("x", condition="none", right=None)
    assert outcome("x [1, 2]", right=["1", "2"])["right_cited"] == 1


def test_a_run_is_asked_its_held_out_questions(tmp_path):
    config = DataConfig(
        str(EXAMPLES / "questions.jsonl"), heldout_fraction=0.2,
        fields={"prompt": "{question}", "response": "{answer}", "sources": "{page}"},
        passages=PassagesConfig(str(EXAMPLES / "help"), cache_dir=str(tmp_path)),
    )  # fmt: skip
    row = TASKS["grounded"]
    task = row.of_run(config, "chat").with_tokenizer(BYTES)
    documents = sources.load(task).scored
    assert len(documents) == 20 and {d["condition"] for d in documents} == {*grounded.CONDITIONS}
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"question": "Q?", "answer": "A", "page": "orders"}) + "\n")
    (none,) = (
        d for d in sources.load(task, [f"grounded={other}"]).scored if d["condition"] == "none"
    )
    assert none["context"] == [{"role": "user", "content": "Q?"}]
    with pytest.raises(DataError, match=r"trained without data\.passages"):
        row.of_run(DataConfig("x"), "chat")
    with pytest.raises(DataError, match="name such a run as --workdir"):
        row.with_tokenizer(BYTES)


def test_the_metrics_have_a_table(help_task):
    estimates = {name: metric([{name: 1.0}]) for name, metric in help_task.metrics.items()}
    result = Result(help_task, 0, estimates, {}, 1, 0, 0, 0.0, (), ())
    assert table.results([result], {}).row_count == 16
