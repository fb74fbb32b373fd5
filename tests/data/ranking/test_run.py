"""The command: a set that is begun, resumed and refused; candidates that are sampled."""

import json
import re
import socket

import pytest

from data.errors import DataError
from data.ranking import run as command
from data.ranking.questions import Answer
from data.ranking.run import Settings
from data.ranking.sampling import Sampled, Sampler, doubt, shares
from data.ranking.store import Store
from loopback import HOST

PROMPTS = [{"prompt": f"q{i}"} for i in range(10)]
SAMPLING = {"max_new_tokens": 8, "temperature": 0.7, "top_p": 1.0}


class Fake:
    """A model that answers with its name; one prompt does not fit it."""

    def __init__(self, name, seed=0):
        self.name, self.source = name, {"run": name, "seed": seed}

    def __call__(self, questions, samples):
        for question in questions:
            text = question.messages[-1]["content"]
            if text == "q3":
                yield question.id, f"the prompt does not fit the context of {self.name}"
                continue
            same = "q4" if text == "q4" else f"{self.name} {text}"
            yield question.id, [Sampled(f"{same} {i // 2}", i == 0) for i in range(samples)]


class Models:
    opened = 0

    def open_answerers(self, names, sampling, seed):
        self.opened += 1
        return [Fake(name, seed) for name in names]

    def ground(self, questions, name, passages):
        for question in questions:
            question.messages[-1]["content"] += f" ({passages})"

    def hints(self, names):
        return ["runs/a was trained with passages"]

    def open_score(self, name):
        return lambda messages, candidates: [len(c.text) for c in candidates]


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(p) + "\n" for p in PROMPTS))
    return Settings(
        str(tmp_path / "prefs.jsonl"), ["runs/a", "runs/b"], str(path), sampling=SAMPLING, port=0
    )


@pytest.fixture
def serve(monkeypatch):
    """serve(settings, act): runs the command; act(store) is what people do meanwhile."""

    def serve(settings, act=lambda store: None):
        def people(app, listening):
            listening.close()
            sampler = samplers[-1]
            sampler._thread.join(20)
            with Store(settings.database) as store:
                act(store)

        monkeypatch.setattr("loopback.serve", people)
        command.run(settings, lambda: models)

    models, samplers = Models(), []
    started = Sampler.start
    monkeypatch.setattr(Sampler, "start", lambda self: (samplers.append(self), started(self)))
    return serve


def test_sampled_answers_are_asked_and_exported(settings, serve, capsys):
    def answer(store):
        while question := store.next("me"):
            store.record("me", question.id, Answer.choice(0, 2))

    serve(settings, answer)
    with Store(settings.database) as store:
        assert store.dropped() == {
            "the prompt does not fit the context of runs/b": 1,
            "fewer than two different answers were sampled": 1,
        }
        first = store.questions()[0].candidates
        assert [c.source for c in first] == [
            {"run": "runs/a", "seed": 0, "ended": True},
            {"run": "runs/b", "seed": 0, "ended": True},
        ]
    with open(settings.out) as file:
        assert len(file.readlines()) == 8
    printed = capsys.readouterr().out
    assert re.search(r"me  http://127.0.0.1:\d+/#\S+", printed)
    assert "8 answers: 8 preferences" in printed


def test_a_set_is_resumed_and_another_is_refused(settings, serve, tmp_path):
    serve(settings, lambda store: store.record("me", 1, Answer.choice(0, 2)))
    serve(settings._replace(prompts="", workdirs=[]))  # all are sampled
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "another"}\n')
    with pytest.raises(DataError, match=r"another set of questions.*prompts\.jsonl"):
        serve(settings._replace(prompts=str(other)))
    with Store(settings.database) as store:
        assert len(store.answers()) == 1


def test_passages_are_part_of_the_questions(settings, serve, capsys):
    serve(settings._replace(passages="help"))
    with Store(settings.database) as store:
        assert store.questions()[0].messages[-1]["content"].endswith(" (help)")
    assert "trained with passages" not in capsys.readouterr().out
    with pytest.raises(DataError, match="was begun with --passages=help; give the same"):
        serve(settings)
    serve(settings._replace(out=settings.out.replace("prefs", "other")))
    assert "runs/a was trained with passages" in capsys.readouterr().out
    with pytest.raises(DataError, match="name both, or leave it out"):
        settings._replace(passages="help", workdirs=[]).check()


def test_an_error_of_the_prompts_names_the_flag(settings, tmp_path):
    (tmp_path / "a.json").write_text('{"cases": [{"question": "q?"}]}')
    settings = settings._replace(prompts=str(tmp_path / "a.json"))
    with pytest.raises(DataError, match="type --records=cases"):
        command.run(settings, Models)
    with pytest.raises(DataError, match=r"type --fields=prompt='{question}'"):
        command.run(settings._replace(records="cases"), Models)


def test_a_set_that_was_sampled_otherwise_is_refused(settings, serve):
    with Store(settings.database) as store:  # as a kill before the first answer leaves it
        command._begin(store, settings, command.reading.read(settings.prompts), None)
        command._answerers(store, settings, Models)
    hot = settings._replace(sampling=SAMPLING | {"temperature": 1.0})
    with pytest.raises(DataError, match=r"--workdir=runs/a,runs/b --answers=2.*temperature=0.7"):
        serve(hot)
    with pytest.raises(DataError, match=r"10 prompts .* --workdir=runs/a,runs/b samples them"):
        serve(settings._replace(workdirs=[]))
    serve(settings)
    with Store(settings.database) as store:
        assert not store.waiting()


def test_the_least_sure_are_asked_first(settings, serve):
    asked = []

    def look(store):
        question = store.next("me", order="uncertain")
        asked.append(question)
        assert all(q.doubt is not None for q in store.questions())

    serve(settings._replace(order="uncertain", reward="runs/reward"), look)
    assert asked[0].doubt == 0.5  # equal scores
    assert doubt([1.0, 3.0]) == pytest.approx(1 / (1 + 2.718281828459045**2))
    with pytest.raises(FloatingPointError):
        doubt([float("nan"), 1.0])
    assert shares(2, 3) == [2, 1]


def test_a_model_that_fails_loses_nothing(settings, serve, monkeypatch):
    def fail(self, questions, samples):
        raise FloatingPointError("a log-probability is not finite")

    monkeypatch.setattr(Fake, "__call__", fail)
    with pytest.raises(ValueError, match=r"sampling stopped: .*not finite"):
        serve(settings)
    with Store(settings.database) as store:
        assert len(store.waiting()) == 10


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"out": "gs://b/prefs.jsonl"}, "ends in .jsonl"),
        ({"out": "prefs.csv"}, "ends in .jsonl"),
        ({"annotators": ["ana", "ana"]}, "ana twice"),
        ({"annotators": ["a b"]}, "letters"),
        ({"annotators": []}, "empty"),
        ({"each": 2}, "more people"),
        ({"workdirs": ["a", "a"]}, "a twice"),
        ({"answers": 5}, "2 to 4"),
        ({"workdirs": list("abc"), "answers": 2}, "one or more of each"),
        ({"workdirs": [], "answers": 2}, "name a run"),
        ({"workdirs": ["a"], "sampling": {"temperature": 0}}, "same answer each time"),
        ({"order": "uncertain"}, "go together"),
        ({"export": "jsonl"}, "leave runs out"),
        ({"workdirs": []}, "no answers to compare; --workdir=RUN"),
        ({"prompts": ""}, "--prompts=FILE begins"),
        ({"prompts": "nothing.jsonl"}, "nothing.jsonl"),
    ],
)
def test_bad_input_is_said_and_makes_nothing(settings, serve, tmp_path, changes, match):
    with pytest.raises(DataError, match=match):
        serve(settings._replace(**changes))
    assert [p.name for p in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_a_port_in_use_and_a_file_of_others(settings, serve, tmp_path):
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} is in use; give another: --port="):
            serve(settings._replace(port=port))
    (tmp_path / "prefs.jsonl").write_text("mine")
    with pytest.raises(DataError, match="give another --out"):
        serve(settings)
    assert (tmp_path / "prefs.jsonl").read_text() == "mine"


def test_files_of_other_tools_are_converted_without_a_page(settings, tmp_path, capsys):
    tasks = [{"data": {"prompt": "q", "answer1": "a", "answer2": "b"}, "annotations": [
        {"completed_by": name, "result": [{"type": "pairwise", "value": {"selected": chosen}}]}
        for name, chosen in (("ana", "left"), ("ben", "left"), ("eve", "right"))]}]  # fmt: skip
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps(tasks))
    convert = settings._replace(prompts=str(path), workdirs=[], export="argilla")
    command.run(convert, Models)
    (record,) = map(json.loads, (tmp_path / "prefs.jsonl").read_text().splitlines())
    assert record["responses"] == ["a", "b"] and record["confidence"] == 0.6667
    (argilla,) = json.loads((tmp_path / "prefs.argilla.json").read_text())
    assert len(argilla["responses"]["ranking"]) == 3
    assert "3 answers: 1 preference;" in capsys.readouterr().out
    convert = convert._replace(prompts="", export="label_studio")
    with pytest.raises(DataError, match=r"--leave_out=eva: nobody .* ana, ben, eve"):
        command.run(convert._replace(leave_out=["eva"]), Models)
    command.run(convert, Models)
    assert (tmp_path / "prefs.label_studio.json").exists()
