"""The report of a chain, on tiny runs whose metrics are written by hand."""

import json
import os
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.text.builtin import BuiltinTokenizer
from model.config import TransformerConfig
from model.sizes import SIZES
from train.checkpoints import checkpointer, networks, saved_models
from train.config import run as config
from train.report import collect
from train.step import TrainState

MODEL = TransformerConfig(vocab_size=263, max_length=256, **SIZES["tiny"] | {"num_layers": 1})
KINDS, PAIRS = {"near": 0.6, "far": 0.9}, {"near": 100.0, "far": 20.0, "overall": 120.0}
MADE = {"date": "2026-11-30T10:00:00+00:00", "commit": "0123456789abcdef", "command": "python",
        "seedpod": "0.1.0", "processor": "a CPU", "cores": 2, "devices": "1 × cpu"}  # fmt: skip
METRICS = {
    "pretrain": [(4, "eval", {"loss": 3.0, "bits_per_byte": 2.5})],
    "sft": [
        (0, "eval", {"loss": 4.0, "bits_per_byte": 3.0}),
        (2, "train", {"loss": 3.1, "nats_per_token": 3.0}),
        (4, "train", {"loss": 2.6, "nats_per_token": 2.5}),
        (4, "eval", {"loss": 2.0, "bits_per_byte": 1.5}),
    ],
    "reward": [
        (2, "train", {"loss": 0.7, "accuracy": 0.5}),
        (4, "train", {"loss": 0.5, "accuracy": 0.75}),
        (4, "eval", {"loss": 0.6, "accuracy/overall": 0.75, "overlap_accuracy/overall": 0.5}),
    ],
    "ppo": [
        (0, "eval", {"score": -1.0, "score_std": 2.0, "kl": 0.0, "win_rate": 0.5}),
        (1, "train", {"rollout/score": -0.9, "rollout/kl": 0.0, "rollout/length": 9.0}),
        (2, "train", {"loss": 0.1}),
        (3, "train", {"rollout/score": 0.0, "rollout/kl": 1.0, "rollout/length": 8.0}),
        (4, "eval", {"score": 1.0, "score_std": 2.0, "kl": 3.0, "win_rate": 0.7,
                     "win_rate_low": 0.6, "win_rate_high": 0.8, "compared": 50.0, "length": 8.0,
                     "repetition": 0.02, "reference_repetition": 0.03, "repetition_rise_low": -0.02,
                     "answers": 50.0, "eos_rate": 0.9}),
    ],
}  # fmt: skip
for values in METRICS["reward"][2:]:
    values[2].update({f"accuracy/{k}": v for k, v in KINDS.items()})
    values[2].update({f"overlap_accuracy/{k}": 0.5 for k in KINDS})
    for prefix in ("", "overlap_"):
        values[2].update({f"{prefix}pairs/{k}": n for k, n in PAIRS.items()})
METRICS["judge"], METRICS["grpo"] = METRICS["reward"], METRICS["ppo"]
METRICS["simpo"] = [
    (0, "eval", {"loss": 0.9, "accuracy/overall": 0.4, "accuracy/all": 0.4, "margin": -0.1,
                 "pairs/all": 90.0, "pairs/overall": 90.0}),
    (2, "train", {"loss": 0.8, "accuracy": 0.5, "margin": 0.0}),
    (4, "eval", {"loss": 0.7, "accuracy/overall": 0.8, "accuracy/all": 0.8, "margin": 0.5,
                 "pairs/all": 90.0, "pairs/overall": 90.0}),
]  # fmt: skip
SAMPLES = [
    {"step": 0, "prompt": "an old one", "response": "x", "reference": "y"},
    {"step": 4, "prompt": "What does `a<b` & <script> do?", "response": "x", "reference": "<b>no"},
    {"step": 4, "prompt": "What does `len` do?", "response": "x", "reference": "It counts."},
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A workdir with a checkpoint of a tiny policy."""
    workdir = tmp_path_factory.mktemp("policy")
    init = jax.jit(lambda key: nn.unbox(networks.init_params("policy", MODEL, key)))
    params = init(jax.random.key(0))
    saver = checkpointer.Checkpointer(workdir, keep=1)
    source = {"step": np.asarray(4, np.int32)}
    saver.save(TrainState(jnp.int32(4), {"policy": params}, {"count": jnp.zeros(1)}, source), {})
    saver.close()
    BuiltinTokenizer("byte", b"").save(workdir / "tokenizer")
    return workdir


@pytest.fixture
def make_chain(policy, tmp_path):
    def make(*names, **init_from):
        """A finished chain of these stages: (runs, workdir)."""
        runs, number = {}, 0
        for number, name in enumerate(names):
            role = "reward" if name in ("reward", "judge") else "policy"
            if role == "policy":
                shutil.copytree(policy, tmp_path / name)
            else:
                (tmp_path / name).mkdir()
            saved_models.save_models(tmp_path / name, {role: MODEL})
            origins = {k: str(tmp_path / v) for k, v in init_from.items()}
            runs[name] = config.RunConfig(
                stage="reward" if name == "judge" else name,
                steps=4,
                init_from=origins if name in ("ppo", "grpo") else {},
                evaluate=config.EvaluateConfig(sample_tokens=8),
            )
            records = [
                {"step": step, "kind": kind, "elapsed_seconds": 1.0, **values}
                for step, kind, values in METRICS[name]
            ]
            _write_lines(tmp_path / name / "metrics.jsonl", records)
            _write_lines(tmp_path / name / "samples.jsonl", SAMPLES)
            done = {"seconds": 30.0 + number, "made": MADE}
            (tmp_path / name / "DONE").write_text(json.dumps(done))
        return runs, tmp_path

    return make


def _write_lines(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


def test_the_demo_chain_gives_every_number_and_the_page(make_chain, capsys):
    runs, workdir = make_chain("pretrain", "sft", "reward", "judge", "ppo",
                               policy="sft", reward="reward", judge="judge")  # fmt: skip
    collect.write(runs, workdir)
    report = json.loads((workdir / "report.json").read_text())
    results, made = report.pop("results"), report.pop("made")
    by_kind, pairs = (
        {"overall": 0.75, "far": 0.9, "near": 0.6},
        {"overall": 120, "far": 20, "near": 100},
    )
    assert report == {
        "pretrain": {"bits_per_byte": 2.5},
        "sft": {"response_loss": 2.0, "response_loss_pretrained": 4.0},
        "reward": {
            "heldout_accuracy": by_kind,
            "heldout_pairs": pairs,
            "word_overlap_accuracy": {"overall": 0.5, "far": 0.5, "near": 0.5},
            "word_overlap_pairs": pairs,
        },
        "judge": {"heldout_accuracy": by_kind, "heldout_pairs": pairs},
        "ppo": {
            "score_before": -1.0,
            "score_std_before": 2.0,
            "score_after": 1.0,
            "kl": 3.0,
            "win_rate_vs_sft": {"value": 0.7, "low": 0.6, "high": 0.8},
            "compared": 50,
            "judge": "judge",
            "repetition_before": 0.03,
            "repetition_after": 0.02,
            "repetition_rise_low": -0.02,
            "answers": 50,
            "answers_cut": 5,
        },
        "seconds": {"pretrain": 30.0, "sft": 31.0, "reward": 32.0, "judge": 33.0, "ppo": 34.0},
        "total_seconds": 160.0,
    }
    assert list(report["reward"]["heldout_accuracy"]) == ["overall", "far", "near"]
    assert list(results) == ["pretrain", "sft", "reward", "ppo"] and made["ppo"] == MADE
    assert results["ppo"]["verdict"] == "good"

    printed = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert f"python -m train.chat --workdir={workdir}/ppo" in printed
    assert "75.0% of pairs right" in printed and str(workdir / "report.html") in printed
    assert "it did not train on its judge; repetition did not rise beyond chance" in printed
    page = (workdir / "report.html").read_text()
    for name in ("pretrain", "sft", "ppo", "reference"):
        assert f"<h4>{name}</h4>" in page
    assert page.count("<figure>") == 1 + 1 + 2 + 2 + 4
    assert page.count("cut at 8 tokens") == 2 * 3  # what a random model writes


def test_a_second_call_reads_and_a_newer_run_writes_again(make_chain, monkeypatch, capsys):
    runs, workdir = make_chain("pretrain")
    collect.write(runs, workdir)
    before = (workdir / "report.json").read_bytes()
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(collect, "read", lambda *_: pytest.fail("computed again"))
        collect.write(runs, workdir)
    assert "2.50 bits per byte" in capsys.readouterr().out
    assert (workdir / "report.json").read_bytes() == before

    done = workdir / "pretrain" / "DONE"
    done.write_text(json.dumps({"seconds": 99.0}))
    later = (workdir / "report.json").stat().st_mtime + 10
    os.utime(done, (later, later))
    collect.write(runs, workdir)
    assert json.loads((workdir / "report.json").read_text())["seconds"] == {"pretrain": 99.0}


def test_a_chain_without_a_judge(make_chain, capsys):
    runs, workdir = make_chain("reward", "ppo", policy="elsewhere", reward="reward")
    collect.write(runs, workdir)
    report = json.loads((workdir / "report.json").read_text())
    assert "judge" not in report and "judge" not in report["ppo"]
    printed = capsys.readouterr().out
    assert "judged by reward against elsewhere" in printed
    assert "caution: judged only by what it trained on" in printed
    page = (workdir / "report.html").read_text()
    assert "Caution: judged only by what it trained on" in page and "<span>judge</span>" not in page


def test_a_chain_that_ends_in_preferences_or_in_grpo_reports_its_result(make_chain, capsys):
    runs, workdir = make_chain("sft", "simpo", "grpo", policy="sft", reward="reward")
    collect.write(runs, workdir)
    report = json.loads((workdir / "report.json").read_text())
    assert list(report["results"]) == ["sft", "simpo", "grpo"]
    assert report["simpo"] == {
        "accuracy_before": 0.4,
        "pairs_right_before": 36,
        "heldout_accuracy": {"overall": 0.8},  # that of a single kind is not there twice
        "heldout_pairs": {"overall": 90},
        "loss_before": 0.9,
        "loss": 0.7,
        "margin": 0.5,
    }
    assert report["grpo"]["win_rate_vs_sft"] == {"value": 0.7, "low": 0.6, "high": 0.8}
    printed = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "simpo 80.0% of pairs right 72 of 90; before training 40.0% (36 of 90)" in printed
    assert "grpo 70% of answers preferred 35 of 50, judged by reward against sft" in printed
    assert f"train.chat --workdir={workdir}/grpo" in printed
    page = (workdir / "report.html").read_text()
    assert "The loss went from 0.900 to 0.700." in page
    for title in ("simpo: pairs ranked right", "simpo: margin", "grpo: score by KL"):
        assert f"<figcaption>{title}<span>" in page


def test_a_judge_that_is_the_reward_model_counts_as_the_reward_model(make_chain):
    runs, workdir = make_chain("reward", "ppo", policy="x", reward="reward", judge="reward")
    assert [run.role for run in collect.read(runs, workdir)] == ["reward", "ppo"]


def test_a_chain_of_reward_models_has_nothing_to_talk_to(make_chain, capsys):
    runs, workdir = make_chain("reward")
    collect.write(runs, workdir)
    assert "train.chat" not in capsys.readouterr().out
    assert "answered by each model" not in (workdir / "report.html").read_text()


def test_before_needs_an_evaluation_at_step_0(make_chain):
    runs, workdir = make_chain("sft")
    records = [
        {"step": step, "kind": kind, "elapsed_seconds": 1.0, **values}
        for step, kind, values in METRICS["sft"]
        if step
    ]
    _write_lines(workdir / "sft" / "metrics.jsonl", records)
    found = collect.numbers(collect.read(runs, workdir))
    assert found["sft"] == {"response_loss": 2.0}
    result = collect.results(found)["sft"]
    assert result.headline == "response loss 2.00" and not result.verdict
