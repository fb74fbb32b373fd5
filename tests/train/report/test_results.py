"""Results of runs in words, and whether they can be relied on, from metrics written by hand."""

import pytest
from etils import epath

from train.config import run as config
from train.objectives import registry
from train.objectives.grpo import GRPOConfig
from train.objectives.reporting import Finished, of

GOOD = {"kl": 3.0, "win_rate": 0.7, "win_rate_low": 0.6, "win_rate_high": 0.8, "compared": 50.0,
        "repetition": 0.02, "reference_repetition": 0.03, "repetition_rise_low": -0.02}  # fmt: skip


def finished(stage, metrics, first=None, **settings):
    """A finished run with these metrics of its last evaluation, and of one at step 0."""
    evals = [{"step": 0, **first}] if first else []
    run = config.run_class()(stage=stage, **settings)
    evals.append({"step": 4, **metrics})
    return Finished(stage, stage, run, epath.Path(stage), [], evals, 1.0)


def result(run, report=None):
    row = registry.STAGES[run.config.stage].report
    values = {name: x for name, x in row.numbers(run).items() if x is not None}
    return row.result(run, values, report or {})


@pytest.mark.parametrize(
    "change, origins, verdict, reason",
    [
        ({}, {"judge": "runs/judge"}, "good", "it did not train on its judge"),
        ({}, {}, "caution", "judged only by what it trained on"),
        ({}, {"judge": "runs/scorer"}, "caution", "judged only by what it trained on"),
        ({}, {"judge": "runs/../runs/scorer/"}, "caution", "judged only by what it"),
        ({"win_rate_low": 0.5}, {"judge": "runs/judge"}, "caution", "not preferred beyond chance"),
        ({"win_rate_low": float("nan")}, {"judge": "runs/judge"}, "caution", "not preferred"),
        ({"repetition": 0.3, "repetition_rise_low": 0.2}, {"judge": "runs/judge"}, "caution",
         "its answers repeat themselves more: 3.0% → 30.0% of 4-grams"),
        ({"repetition_rise_low": None}, {"judge": "runs/judge"}, "caution",
         "repetition was not measured"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stage", ["ppo", "grpo"])
def test_only_a_judge_that_it_did_not_train_on_and_no_more_repetition_are_good(
    change, origins, verdict, reason, stage
):
    metrics = {name: x for name, x in (GOOD | change).items() if x is not None}
    init_from = {"policy": "runs/sft", "reward": "runs/scorer"} | origins
    got = result(finished(stage, metrics, init_from=init_from))
    assert got.verdict == verdict and reason in got.reason
    judge = "judge" if origins.get("judge") == "runs/judge" else "scorer"
    assert got.headline == "70% of answers preferred"
    assert got.beside.startswith(f"35 of 50, judged by {judge} against sft; 95% interval ")


def test_a_reward_model_that_only_judges_is_independent_of_a_verifier():
    rewards = config.RewardsConfig(length=1.0, model=0.0, target_length=9)
    init_from = {"policy": "runs/sft", "judge": "runs/scorer", "reward": "runs/scorer"}
    run = finished("grpo", GOOD, init_from=init_from, rewards=rewards)
    assert result(run).verdict == "good"
    run = finished("grpo", GOOD, init_from={"policy": "runs/sft"}, rewards=rewards)
    assert result(run).reason.startswith("judged only by what it trained on")
    assert "judged by rewards.length against sft" in result(run).beside


def test_rloo_is_called_by_its_name():
    settings = {"init_from": {"policy": "runs/sft", "reward": "runs/scorer"}}
    assert result(finished("grpo", GOOD, **settings)).method == "GRPO"
    settings["grpo"] = GRPOConfig(baseline="others", scale="none")
    assert result(finished("grpo", GOOD, **settings)).method == "RLOO"


@pytest.mark.parametrize(
    "stage, method", [("dpo", "DPO"), ("kto", "KTO"), ("orpo", "ORPO"), ("simpo", "SimPO")]
)
def test_preferences_have_results_with_counts(stage, method):
    start = {"accuracy/overall": 0.5, "accuracy/all": 0.5, "pairs/all": 40.0, "pairs/overall": 40.0}
    end = start | {"accuracy/overall": 0.9, "accuracy/all": 0.9}
    got = result(finished(stage, end, start))
    assert got.method == method and got.headline == "90.0% of pairs right"
    assert got.beside == "36 of 40; before training 50.0% (20 of 40)"
    assert (got.verdict, got.reason) == ("good", "better than guessing")
    assert result(finished(stage, start, start)).verdict == "caution"
    few = {"accuracy/overall": 0.75, "accuracy/all": 0.75, "pairs/all": 4.0, "pairs/overall": 4.0}
    assert "not better than guessing beyond chance" in result(finished(stage, few, start)).reason


def test_kinds_of_pairs_are_summed_for_the_counts_and_count_alike_in_the_percentage():
    metrics = {"accuracy/overall": 0.75, "accuracy/a": 0.5, "accuracy/b": 1.0}
    metrics |= {"pairs/a": 90.0, "pairs/b": 11.0, "pairs/overall": 101.0}
    overlap = {f"overlap_{name}": x for name, x in metrics.items()}
    got = result(finished("reward", metrics | overlap | {"overlap_accuracy/overall": 0.5}))
    assert got.headline == "75.0% of pairs right"
    assert got.beside == "56 of 101; word overlap 50.0% (56 of 101)"
    assert "plain mean over 2 kinds" in got.meaning
    same = result(finished("reward", metrics | overlap))
    assert same.verdict == "caution" and "not better than word overlap" in same.reason


def test_a_run_of_an_earlier_version_has_its_result_without_counts():
    got = result(finished("dpo", {"accuracy/overall": 0.75, "accuracy/all": 0.75}))
    assert (got.headline, got.beside) == ("75.0% of pairs right", "guessing gets 50%")
    assert not got.verdict


def test_counts():
    assert [of(3, 4), of(2.5, 4), of(1234.5, 5678), of(float("nan"), 4)] == [
        "3 of 4", "2.5 of 4", "1,234.5 of 5,678", "? of 4"
    ]  # fmt: skip
