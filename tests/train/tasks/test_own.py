"""Tasks of one's own: YAML files and plugins."""

import json
from pathlib import Path

import pytest

import plugins
from data.errors import DataError
from ranges import ConfigError
from train.tasks import sources
from train.tasks.base import Answer, Likelihoods, Rolling
from train.tasks.registry import TASKS, find

EXAMPLES = Path(__file__).parents[3] / "examples/evaluate"
CHOICE = "kind: multiple_choice\nsource: a.jsonl\n"


@pytest.fixture
def task(tmp_path):
    """text -> the task of a YAML file."""

    def build(text, *records):
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        (tmp_path / "mine.yaml").write_text(text)
        return find(str(tmp_path / "mine.yaml"))

    return build


def test_the_example_reads_its_file():
    row = find(str(EXAMPLES / "capitals.yaml"))
    found = sources.load(row, (), row.shots)
    document = found.scored[0]
    request = row.request(document, found.pool[:1], False)
    assert isinstance(request, Likelihoods) and row.shots == 2 and len(found.pool) == 2
    assert document["choices"][document["gold"]] == "Paris"
    assert request.continuations[0].context.endswith("capital of France?\nAnswer:")


@pytest.mark.parametrize("name", ["refusals", "crows_pairs"])
def test_the_samples_are_read(name):
    assert len(sources.load(find(name), [str(EXAMPLES)]).scored) >= 8


def test_templates_of_choices_groups_and_listed_examples(task):
    text = (
        CHOICE + "prompt: '{{q}}'\nchoices: ['{{a}}', 'not {{a}}']\ngold: 1\ngroup: kind_of\n"
        "examples:\n- {q: e, a: x, kind_of: k}\npreamble: |\n  About {{kind_of}}.\n"
    )
    row = task(text, {"q": "?", "a": "b", "kind_of": "k"})
    (document,) = sources.load(row).scored
    request = row.request(document, row.examples, False)
    assert request.continuations[0].context == "About k.\ne not x\n\n?"
    assert [c.text for c in request.continuations] == [" b", " not b"]
    assert document["gold"] == 1 and document["kind_of"] == "k"


def test_last_words_and_perplexity(task):
    row = task("kind: last_word\nsource: a.jsonl\nprompt: '{{a}}'\ntarget: '{{b}}'\n")
    (document,) = row.prepare({"a": "x", "b": "y"})
    assert row.request(document, (), False).continuations == (("x", " y"),)
    row = task("kind: perplexity\nsource: a.jsonl\nstride: 4\n")
    assert row.request(row.prepare({"text": "x"})[0], (), False) == Rolling("x", 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: multiple_chioce\nsource: x", r"mine.yaml:1: .*did you mean multiple_choice"),
        (
            CHOICE + "prmpt: a",
            r"mine.yaml:3: multiple_choice has no key 'prmpt'; did you mean prompt",
        ),
        (CHOICE + "prompt: a\nchoices: 3\ngold: 1", r"mine.yaml:4: Expected"),
        (CHOICE + "prompt: '{{a'\nchoices: b\ngold: 1", r"mine.yaml:3: prompt is not a template"),
        (CHOICE + "kind: x", r"mine.yaml:3: the key 'kind' is there twice"),
        ("a: [", r"mine.yaml:1: not YAML"),
        (
            "kind: generation\nsource: x\nprompt: a\nanswer: b\nmetrics: [exact_macth]",
            r"mine.yaml:5: no metric 'exact_macth'; .*did you mean exact_match",
        ),
        (
            "kind: generation\nsource: x\nprompt: a\nanswer: b\npasses: [2]",
            r"mine.yaml:5: pass@2 needs samples: 2",
        ),
        (
            "kind: generation\nsource: x\nprompt: a\nanswer: b\nmetrics: [regex]",
            r"mine.yaml:5: regex needs pattern",
        ),
        (
            "kind: generation\nsource: x\nprompt: a\nanswer: b\nmetrics: []",
            r"mine.yaml:5: Expected",
        ),
        (
            "kind: generation\nsource: x\nprompt: a\nanswer: b\nmetrics: [{f1: {}, regex: {}}]",
            r"mine.yaml:5: Expected",
        ),
        (
            "kind: generation\nsource: x\nprompt: a\nanswer: b\nsamples: 2",
            r"mine.yaml:5: greedy answers are all the same",
        ),
        ("kind: perplexity\nsource: x\nstride: -1", r"mine.yaml:3: Expected `int` >= 0"),
    ],
)
def test_mistakes_are_refused_with_their_line(task, text, message):
    with pytest.raises(DataError, match=message):
        task(text)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"q": "\ud800", "a": ["x", "y"], "g": 0}, r"a.jsonl:1: half a surrogate pair"),
        (
            {"qq": "?", "a": ["x", "y"], "g": 0},
            r"a.jsonl:1: prompt: 'q' is undefined; did you mean qq",
        ),
        ({"q": "?", "a": "x", "g": 0}, r"a.jsonl:1: choices: 'x' is no list"),
        ({"q": "?", "a": ["x", "y"], "g": 2}, r"a.jsonl:1: gold: 2 is neither"),
    ],
)
def test_a_record_without_the_fields_is_refused_with_its_line(task, record, message):
    row = task(CHOICE + "prompt: '{{q}}'\nchoices: '{{a}}'\ngold: '{{g}}'\n", record)
    with pytest.raises(DataError, match=message):
        sources.load(row)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean arc_easy"):
        find("arc_eazy")


PLUGIN = """
from train.tasks.registry import TASKS
from train.tasks.rows.forms import generation


def prepare(record):
    return [{"context": record["prompt"], "answer": "please"}]


def polite(answer, document):
    return float(document["answer"] in answer)


TASKS.register("polite", generation(
    "polite", "Answers that say please", "prompts.jsonl", prepare, {"polite": polite},
))
"""


def test_a_plugin_registers_a_task(tmp_path, monkeypatch):
    name = f"tasks_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(TASKS, "_rows", dict(TASKS._rows))
    monkeypatch.setattr(plugins, "_loaded", [])  # other processes of a test would import them
    plugins.load(name)
    row = find("polite")
    (document,) = row.prepare({"prompt": "Ask."})
    outcomes = [row.outcome(document, (Answer(t, False),)) for t in ("Yes, please.", "No.")]
    assert row.metrics["polite"](outcomes).value == 0.5
