"""Rounds of improvement of tiny runs: interrupted anywhere, refused, ended by people."""

import json
import re
import threading
from types import SimpleNamespace

import ml_collections
import pytest
from etils import epath
from sample_runs.random_runs import write_run
from stage_fixtures import recipe, write_files

from configs import improve
from data.ranking.questions import Candidate, Question
from data.ranking.store import Store
from ranges import ConfigError
from tests.data.ranking import scripted_annotator
from train.improve import asking, command, rounds, settings
from train.improve.rounds import Round
from train.replay.gates import Condition, Verdict
from train.replay.summary import Value

asked = []  # the messages that `longer` saw
chains = {}  # {round: the chain that `pretend` was to run}


def longer(messages, answers):
    """An annotator who prefers long answers."""
    asked.append(messages)
    return [-len(answer) for answer in answers]


def broken(messages, answers):
    return [0]


def make(stages, method="dpo", **changes):
    """The recipe of rounds that start from the runs in `stages`."""
    chosen = f"policy={stages / 'sft'},reward={stages / 'reward'},method={method}"
    files = f"prompts={stages / 'chats.jsonl'},conversations={stages / 'heldout.jsonl'}"
    config = improve.get_config(f"{chosen},{files}")
    small = {"rounds": 2, "questions": 12, "pool": 2, "max_new_tokens": 8}
    config.improve.update(small | changes)
    for name, stage in (("reward", "reward"), ("policy", method)):
        tiny = recipe(stage, stages)
        tiny.model = ml_collections.ConfigDict(config.stages[name].model)
        tiny.model.update(size="", scan_unroll=0)
        tiny.update(steps=4 if stage == "ppo" else 2, log_every=0)  # PPO's: those of a rollout
        tiny.evaluate.samples = 0
        tiny.checkpoint.every = 0
        config.stages[name] = tiny
    return config


def run(config, workdir, annotator="longer"):
    return command.run(config, str(workdir), f"{__name__}:{annotator}")


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """A folder with the files of `write_files`, a policy `sft` and a reward model `reward`."""
    folder = tmp_path_factory.mktemp("stages")
    write_files(folder)
    chats = ({"prompt": f"{i}?", "response": "ab"} for i in range(8))
    (folder / "heldout.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    write_run(folder / "sft", roles={"policy": 1})
    write_run(folder / "reward", roles={"reward": 2})
    return folder


def pretend(chain, folder):
    """`multistage.run` without training: random models, other ones in each round."""
    chains[folder.name] = chain
    seed = int(folder.name[-1]) + 2
    for name, role in (("reward", "reward"), ("policy", "policy")):
        write_run(folder / name, roles={role: seed})
        (folder / name / "config.json").write_text("{}")
    metrics = {"step": 1, "kind": "eval", "accuracy/overall": 0.75, "pairs/overall": 8}
    (folder / "reward/metrics.jsonl").write_text(json.dumps(metrics) + "\n")


EVEN = Value(0.5, 0.3, 0.7, 8)


def replayed(rate=EVEN, passed=True):
    """`replay` without generating, with a win rate, and a gate on it that is passed or not."""

    def pretend_replay(options):
        verdicts = [Verdict(None, Condition("win_rate", "", ">=", 0.9), rate, passed)]
        content = SimpleNamespace(verdicts=verdicts, replay=SimpleNamespace(preference="reward"))
        return SimpleNamespace(value=lambda name: rate, content=content, report=options.out)

    return pretend_replay


@pytest.fixture(scope="module")
def done(stages, tmp_path_factory):
    """The workdir of two rounds that were interrupted while people ranked and before the replay,
    their recipe, and the exit code."""
    workdir, config = tmp_path_factory.mktemp("improve") / "runs", make(stages)
    asked.clear()
    chains.clear()

    def interrupted(*_):
        raise KeyboardInterrupt

    def third(messages, answers):
        return interrupted() if len(asked) == 3 else longer(messages, answers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds.multistage, "run", pretend)
        patch.setattr(rounds, "replay", replayed())
        patch.setattr(command.rewards, "load_function", lambda *_: third)
        with pytest.raises(KeyboardInterrupt):
            run(config, workdir)
        patch.setattr(command.rewards, "load_function", lambda *_: longer)
        with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as inner:
            inner.setattr(rounds, "replay", interrupted)
            run(config, workdir)
        assert len(asked) == 12 and not (workdir / "round_1/round.json").exists()
        return workdir, config, run(config, workdir)


def test_rounds_resume_and_ask_nothing_twice(done):
    workdir, config, code = done
    records = read_lines(workdir / "rounds.jsonl")
    assert len(records) == 2 and code == bool(records[-1]["reason"])
    assert [record["questions"] for record in records] == [12, 12] and len(asked) == 24
    assert records[0]["reward_accuracy"]["value"] == 0.75
    assert run(config, workdir) == code and len(asked) == 24  # nothing is left to do


def test_each_round_starts_from_the_one_before(done, stages):
    workdir, _, _ = done
    first, second = read_lines(workdir / "rounds.jsonl")
    sft, before = str(stages / "sft"), f"{workdir}/round_1"
    assert first["sampled"] == [f"{sft}@1"]
    assert second["sampled"] == [f"{before}/policy@1", f"{sft}@1"]
    assert first["reward"] == {"run": f"{before}/reward@1", "from": str(stages / "reward")}
    assert first["policy"]["from"] == sft and second["policy"]["from"] == f"{before}/policy"
    assert 0 <= second["people"]["low"] <= second["people"]["value"]
    sources = [record["sources"] for record in read_lines(workdir / "round_2/prefs.jsonl")]
    assert {s["run"] for pair in sources for s in pair} == {sft, f"{before}/policy"}
    files = [f"{workdir}/round_{number}/prefs.jsonl" for number in (1, 2)]
    chain = chains["round_2"].stages
    assert second["preferences_of"] == files and list(chain.reward.data.source) == files
    assert chain.reward.init_from.reward == f"{before}/reward"
    assert chain.policy.init_from.policy == f"{before}/policy"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", ["dpo", "ppo"])
def test_a_round_trains(stages, tmp_path, method):
    code = run(make(stages, method, rounds=1), tmp_path / "runs")
    (record,) = read_lines(tmp_path / "runs/rounds.jsonl")
    assert code == bool(record["reason"]) and record["reward_accuracy"]["pairs"] > 0
    steps = 4 if method == "ppo" else 2
    assert record["policy"]["run"] == f"{tmp_path}/runs/round_1/policy@{steps}"
    assert (record["kl"] is None) == (method == "dpo")


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    "group, key, value, message",
    [
        ("improve", "rounds", 1, r"improve\.rounds=1, and 2 rounds have begun"),
        ("improve", "questions", 5, r"other settings \(improve\.questions: 12 -> 5\)"),
        ("stages.reward", "steps", 3, r"other settings \(stages\.reward\.steps: 2 -> 3\)"),
    ],
)
def test_changed_settings_are_refused(done, group, key, value, message):
    workdir, config, _ = done
    changed = config.copy_and_resolve_references()
    inner = changed.stages.reward if "stages" in group else changed.improve
    inner[key] = value
    with pytest.raises(ConfigError, match=message):
        run(changed, workdir)


def test_bad_input_is_refused_before_anything_begins(stages, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    workdir = tmp_path / "runs"
    for changes, message in (
        ({"policy": ""}, r"improve\.policy is missing"),
        ({"prompts": str(tmp_path / "empty.jsonl")}, r"empty\.jsonl .*"),
        ({"policy": str(stages / "reward")}, r"does not write text"),
        ({"each": 2}, r"each=2 asks for more people"),
        ({"reference": "second"}, r"choose last or first"),
        ({"max_new_tokens": 100_000}, r"leaves no room"),
    ):
        with pytest.raises(ValueError, match=message):
            run(make(stages, **changes), workdir)
    config = make(stages)
    config.stages.reward.loss.pool = "mean"
    with pytest.raises(ConfigError, match=r"type --config\.stages\.reward\.loss\.pool=last"):
        run(config, workdir)
    config = make(stages)
    config.stages.policy.stage = "sft"
    with pytest.raises(ConfigError, match="neither from rankings nor from a reward model"):
        run(config, workdir)
    with pytest.raises(ConfigError, match="--annotator='nosuch' cannot be imported"):
        command.run(make(stages), str(workdir), "nosuch")
    assert not rounds.begun(workdir)


def test_the_chain_of_a_round(stages):
    made = settings.read(make(stages, "ppo", reference="first", judge="runs/judge"))
    chain = made.chain(2, "a/policy", "a/reward", ["1.jsonl", "2.jsonl"])
    origins = {name: dict(stage.init_from) for name, stage in chain.stages.items()}
    sft = str(stages / "sft")
    assert origins["policy"] == {
        "policy": "a/policy", "reward": "reward", "judge": "runs/judge", "reference": sft,
    }  # fmt: skip
    assert origins["reward"] == {"reward": "a/reward"}
    assert chain.stages.reward.data.source == ("1.jsonl", "2.jsonl")
    assert chain.stages.policy.data.source == str(stages / "chats.jsonl")
    assert chain.stages.policy.seed == made.runs["policy"].seed + 1
    assert dict(made.chain(1, "p", "", ["x"]).stages.reward.init_from) == {"policy": "p"}


def questions(texts, doubts):
    return [
        Question([{"role": "user", "content": text}], [Candidate("a"), Candidate("b")], doubt=doubt)
        for text, doubt in zip(texts, doubts, strict=True)
    ]  # fmt: skip


def test_the_least_certain_questions_are_asked(tmp_path):
    with Store(tmp_path / "q.db") as store:
        store.add(questions("abcd", [0.1, 0.4, 0.2, None]))
        for _ in range(2):  # also after it was interrupted
            asking._choose(store, 2)
        assert [q.messages[0]["content"] for q in store.questions()] == ["b", "c"]


def test_prompts_come_round_again_after_the_last(stages):
    made = settings.read(make(stages, questions=2, pool=1)).settings
    prompts = questions("abcde", [None] * 5)
    rounds_of = [asking.of_round(prompts, number, made) for number in (1, 2, 3)]
    texts = [[question.messages[0]["content"] for question in own] for own in rounds_of]
    assert len({*texts[0], *texts[1]}) == 4 and texts[2][1] == texts[0][0]
    assert not rounds_of[0][0].candidates


def test_a_wrong_rank_names_the_annotator(tmp_path):
    with Store(tmp_path / "q.db") as store:
        store.add(questions("a", [None]))
        with pytest.raises(ConfigError, match=r"--annotator=m:f returned \[0\] for 2 answers"):
            asking.by_function("m:f", broken)(store)
        asking.by_function("m:f", lambda messages, answers: None)(store)
        assert store.answers()[0].answer.rank is None


@pytest.mark.parametrize(
    "people, rate, passed, reason",
    [
        (
            0.4,
            EVEN,
            True,
            r"people prefer \S+sft to \S+round_1/policy \(0\.20",
        ),
        (
            0.6,
            Value(0.3, 0.1, 0.4, 9),
            True,
            r"no better than those of .* \(win rate 0\.30 ",
        ),
        (0.6, EVEN, False, r"gates failed: win_rate >= 0\.9: 0\.5"),
        (0.6, EVEN, True, ""),
    ],
)
def test_a_round_that_is_no_improvement_names_the_last_good_policy(
    stages, tmp_path, monkeypatch, people, rate, passed, reason
):
    made, this = settings.read(make(stages)), Round(epath.Path(tmp_path), 2)
    for number in (1, 2):
        (tmp_path / f"round_{number}").mkdir()
        (tmp_path / f"round_{number}/prefs.jsonl").write_text("{}")
    monkeypatch.setattr(asking, "ask", lambda *_: asking.Ranked({"answers": 9}, None, {}))
    preferred = {"value": 0.2, "low": 0.1, "high": people}
    monkeypatch.setattr(rounds, "_preferred", lambda *_: preferred)
    monkeypatch.setattr(rounds.multistage, "run", pretend)
    monkeypatch.setattr(rounds, "replay", replayed(rate, passed))
    record = rounds.hold(this, made, [], lambda store: None)
    assert re.search(reason, record["reason"]) and bool(record["reason"]) == bool(reason)
    good = {"people": str(stages / "sft"), "": this.policy}
    assert record["best"] == good.get(reason[:6], Round(this.workdir, 1).policy)
    assert this.read() == record


def test_a_page_ends_when_all_is_answered_and_keeps_its_links(stages, tmp_path, capsys,
                                                              monkeypatch):  # fmt: skip
    monkeypatch.setattr(asking, "GRACE", 0.2)
    made = settings.read(make(stages, annotators="ana,ben")).settings
    with Store(tmp_path / "1.db") as store:
        token = store.token("ana")
    with Store(tmp_path / "2.db") as store:
        store.add(questions("abc", [None] * 3))
        answer = asking.on_page(made, 8765, (), tmp_path / "1.db")
        link = f"http://127.0.0.1:8765/#{token}"

        def annotate():
            while True:
                try:
                    return scripted_annotator.answer(link, 3)
                except OSError:
                    pass

        thread = threading.Thread(target=annotate)
        thread.start()
        answer(store)
        thread.join()
        assert len(store.answers()) == 3
    assert re.search(rf"ana +{re.escape(link)}", capsys.readouterr().out)
