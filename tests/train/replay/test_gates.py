"""Gates on a replay, and who answers what."""

import pytest
from sample_runs.replays import make

from data.errors import DataError
from ranges import ConfigError
from train.replay import gates
from train.replay.summary import available

THERE = available(["reward"], make(4).turns, True, False)


def read(tmp_path, text, categories=("a", "b")):
    (tmp_path / "gates.yaml").write_text(text)
    return gates.read(str(tmp_path / "gates.yaml"), THERE, categories)


def test_gates_pass_and_fail_by_value_and_by_the_ends_of_intervals(tmp_path):
    own = read(
        tmp_path,
        "gates:\n- win_rate >= 0.5\n- win_rate.low >= 0.5\n"
        "categories:\n  '*':\n  - refusals.harmless <= 0.02\n  a: [length > 1]",
    )
    replay = make(40, wins=20, refused={0})
    verdicts = gates.verdicts(own._replace(categories={"*": own.categories["*"]}), replay)
    assert [(v.category, v.passed) for v in verdicts] == [
        (None, True), (None, False), ("a", False), ("b", True)
    ]  # fmt: skip
    assert str(verdicts[2]) == "refusals.harmless <= 0.02 of a: 0.05"


def test_a_category_is_answered_where_enough_conversations_say_so(tmp_path):
    file = read(tmp_path, "rollout: [win_rate_people.low >= 0.4]\nleast: 20")
    conditions, (a, b) = gates.rollout(file, make(40, wins=40, people=0.5), THERE)
    assert a.answers and "win_rate_people 0.5 [" not in a.reason and a.conversations == 20
    assert list(map(str, conditions)) == ["win_rate_people.low >= 0.4"]
    _, (few, _) = gates.rollout(file._replace(least=21), make(40, wins=40), THERE)
    assert not few.answers and few.reason == "20 conversations are too few to say"
    _, (worse, _) = gates.rollout(file, make(40, wins=40, people=2.0), THERE)
    assert not worse.answers and worse.reason.endswith("needs win_rate_people.low >= 0.4")
    # Without a score of the people's answers nothing says that the model may answer.
    _, (none, _) = gates.rollout(gates.Gates(), make(40), ["similarity"])
    assert not none.answers and "--reward" in none.reason


@pytest.mark.parametrize(
    "text, error, message",
    [
        ("gates: [win_rte >= 1]", ConfigError, "no metric win_rte; did you mean win_rate?"),
        ("gates: [judge >= 1]", ConfigError, "this replay has no judge: give --judge=RUN"),
        ("categories: {bb: [length > 1]}", ConfigError, "'bb', which no conversation has; did "),
        ("gates: [win_rate]", DataError, "is no condition; write METRIC >= NUMBER"),
        ("gate: []", DataError, "no key 'gate'; did you mean gates?"),
        ("gates: {a: 1}", DataError, "`gates` holds a list"),
        ("least: 0", DataError, "least=0; it must be a whole number"),
        ("", DataError, "holds no gates"),
        ("gates: [", DataError, "yaml:1: not YAML"),
        ("gates:", DataError, "`gates` holds a list"),
        ("categories:\n  a: []", DataError, "`categories.a` holds a list"),
        ("gates: [win_rate >= 1]\ngates: [length > 1]", DataError, "yaml:2: the key 'gates' is t"),
        ("categories:\n  a: [length > 1]\n  a: [length > 2]", DataError, "yaml:3: the key 'a'"),
        ("gates: \x00", DataError, "not YAML: unacceptable character"),
        ("gates: [win_rate >= nan]", DataError, "is no condition"),
    ],
)
def test_a_gate_that_cannot_be_read_names_the_nearest(tmp_path, text, error, message):
    with pytest.raises(error, match=message):
        read(tmp_path, text)
