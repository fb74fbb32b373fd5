"""The messages of a run about its steps and its evaluations."""

from types import SimpleNamespace

from train.terminal import messages


def test_an_evaluation_is_shown_with_the_change_since_the_first():
    first = {"loss": 6.25, "bits_per_byte": 5.5, "wiki/loss": 5.0, "step": 0}
    now = {"loss": 5.0, "bits_per_byte": 4.25, "wiki/loss": 5.5, "wiki/other": 1.0}
    assert list(messages.evaluation(50, now, first)) == [
        ["  step 50: held-out loss 5.0000 (−1.2500)", "4.2500 bits per byte (−1.2500)"],
        ["  step 50: wiki: held-out loss 5.5000 (+0.5000)"],
    ]
    assert list(messages.evaluation(0, now, now)) == [
        ["  step 0: held-out loss 5.0000", "4.2500 bits per byte"],
        ["  step 0: wiki: held-out loss 5.5000"],
    ]
    ranked = {"accuracy/overall": 0.75, "accuracy/a": 1.0}
    assert list(messages.evaluation(9, ranked, {"accuracy/overall": 0.5})) == [
        ["  step 9: 75.0% of pairs ranked right (+25.0%)"]
    ]
    assert list(messages.evaluation(9, {"length": 1.0}, {})) == []
    arc = {"arc/acc": 0.5, "arc/acc_stderr": 0.03535, "arc/ece": 0.2}
    assert list(messages.evaluation(9, arc, {"arc/acc": 0.25})) == [
        ["  step 9: arc: acc 0.5 ± 0.035 (+0.25)"]
    ]


def test_a_rollout_is_not_called_data():
    values = {"loss": 0.5, "tokens_per_second": 1234.5, "data_wait": 0.01}
    assert messages.metrics(values) == ["loss 0.5000", "1,234 tok/s", "data 1%"]
    rollout = {"rollout/score": 1.0, "rollout/kl": 2.0, "rollout/share": 0.43}
    assert messages.metrics(values | rollout) == [
        "loss 0.5000", "score 1.00", "KL 2.00", "1,234 tok/s", "rollout 43%", "data 1%",
    ]  # fmt: skip


def test_a_finished_run_names_the_commands_that_go_on():
    def said(**objective):
        run = SimpleNamespace(objective=SimpleNamespace(**objective))
        return "\n".join(messages.closing(run, "runs/a"))

    policy = said(answers=True, trainable=("policy",))
    assert " -m train.chat --workdir=runs/a" in policy
    assert " -m train.evaluate --workdir=runs/a --tasks=arc_easy," in policy
    assert " -m train.convert export --workdir=runs/a --to=runs/a/hf" in policy
    reward = said(answers=False, trainable=("reward",))
    assert not any(word in reward for word in ("chat", "evaluate", "export", "samples.jsonl"))
    assert "tensorboard --logdir=runs/a" in reward
