"""The benchmark of scores: its records make the same documents in both forms, and it compares."""

import pytest

from benchmarks.evaluation import __main__ as evaluation
from benchmarks.evaluation.records import ROWS
from train.tasks.registry import TASKS

CHOICES = {"choices": ["ice", "fire"], "gold": 1}
RECORDS = {
    "arc_easy": {"query": "Question: What is hot?", **CHOICES},
    "piqa": {"query": "Question: To burn wood,\n", **CHOICES},
    "winogrande": {
        "context_options": ["Tom met Tim when Tom", "Tom met Tim when Tim"],
        "continuation": "came in.", "gold": 0,
    },
    "boolq": {
        "query": "Passage: Fire.\nIt burns.\nQuestion: is fire hot?",
        "choices": ["no", "yes"], "gold": 1,
    },
    "copa": {"query": "It was hot, because", "choices": ["it burned.", "it rained."], "gold": 0},
    "openbookqa": {"query": "Hot is:", **CHOICES},
    "lambada": {"context": "Fire is", "continuation": "hot"},
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_record_and_its_columns_are_the_same_document(name):
    record = RECORDS[name]
    task = TASKS[name]
    assert task.prepare(record) == task.prepare(ROWS[name].columns(record))


def test_choices_and_margins_by_hand():
    responses = [[(-3.0, False), (-2.0, True)], [(-1.0, True), (-4.0, False)]]
    assert evaluation.choices(responses) == [1, 0]
    assert evaluation.choices(responses, [[6, 2], [1, 8]]) == [0, 1]
    assert evaluation.choices([[(-1.0, True)], [(-9.0, False)]]) == [1, 0]
    assert evaluation.margin(responses[1]) == 3
