"""The demo's figures are those of its reports, and a demo that keeps less than it promises is
named."""

import copy
import json
import math
import subprocess
import sys

import pytest

from benchmarks.demo import documents, promise
from configs.chains import demo

REPORT = {
    "pretrain": {"bits_per_byte": 1.875},
    "sft": {"response_loss": 3.0, "response_loss_pretrained": 5.0},
    "reward": {
        "heldout_accuracy": {"overall": 0.868} | dict.fromkeys(documents.KINDS, 0.9),
        "heldout_pairs": {"overall": 1850},
        "word_overlap_accuracy": {"overall": 0.5},
    },
    "judge": {
        "heldout_accuracy": {"overall": 0.79} | dict.fromkeys(documents.KINDS, 0.8),
        "heldout_pairs": {"overall": 320},
    },
    "ppo": {
        "score_before": 0.25,
        "score_std_before": 1.25,
        "score_after": 1.75,
        "kl": 12.34,
        "win_rate_vs_sft": {"value": 0.7, "low": 0.64, "high": 0.75},
        "compared": 256,
        "judge": "judge",
        "repetition_before": 0.002,
        "repetition_after": 0.003,
    },
    "seconds": {"pretrain": 71.0, "sft": 70.0, "reward": 100.0, "judge": 60.0, "ppo": 119.0},
    "total_seconds": 420.0,
    "made": {
        "ppo": {
            "date": "2026-11-30T10:00:00+00:00",
            "commit": "0123456789abcdef",
            "processor": "Abacus",
            "cores": 2,
            "python": "3.11.7",
            "jax": "0.10.2",
        }
    },
}


def changed(*path_and_value):
    """REPORT with another value at a path."""
    *path, name, value = path_and_value
    report = part = copy.deepcopy(REPORT)
    for key in path:
        part = part[key]
    part[name] = value
    return report


def without_judge():
    report = copy.deepcopy(REPORT)
    del report["ppo"]["judge"]
    return report


def test_a_seed_changes_every_stage_and_nothing_else():
    first, second = (demo.get_config(arg).stages.to_dict() for arg in (None, "seed=2"))
    for name, stage in first.items():
        assert second[name].pop("seed") - stage.pop("seed") == 2
    assert second == first


def test_a_demo_that_keeps_its_promise():
    numbers = promise.measure(REPORT)
    assert numbers.keys() == promise.BOUNDS.keys()
    assert numbers["PPO's gain in standard deviations"] == pytest.approx(1.2)
    assert numbers["fall of the response loss"] == pytest.approx(0.4)
    assert promise.shortfalls(numbers) == []


@pytest.mark.parametrize(
    ("report", "name"),
    [
        (changed("pretrain", "bits_per_byte", 2.2), "bits per byte: 2.20 (below 2.20"),
        (changed("sft", "response_loss", 3.76), "fall of the response loss: 24.8% (at least 25"),
        (changed("reward", "heldout_accuracy", "overall", 0.84), "reward model's accuracy: 84.0%"),
        (changed("ppo", "score_after", 1.5), "PPO's gain in standard deviations: 1.00 (at least"),
        (changed("ppo", "score_after", math.nan), "PPO's gain in standard deviations: nan"),
        (changed("ppo", "kl", 15.0), "KL: 15.0 (below 15.0"),
        (changed("ppo", "win_rate_vs_sft", "value", 0.64), "win rate by the judge: 64.0%"),
        (changed("ppo", "repetition_after", 0.05), "rise of repetition: 4.8%"),
        (without_judge(), "win rate by the judge: not measured (at least 65.0%"),
        (changed("total_seconds", 481.0), "seconds of all stages: 481 (at most 480"),
    ],
)
def test_what_falls_short_is_named(report, name):
    (line,) = promise.shortfalls(promise.measure(report))
    assert line.startswith(name) and line.endswith("was promised)")


def test_a_busy_machine_may_take_longer():
    slow = promise.measure(changed("total_seconds", 999.0))
    assert promise.shortfalls(slow) and not promise.shortfalls(slow, busy=True)


@pytest.mark.parametrize(("score", "code"), [(1.75, 0), (1.5, 1)])
def test_the_command_reads_finished_demos(tmp_path, score, code):
    for seed in (0, 1):
        (tmp_path / str(seed) / "ppo").mkdir(parents=True)
        (tmp_path / str(seed) / "ppo" / "config.json").write_text(json.dumps({"seed": seed}))
        report = json.dumps(changed("ppo", "score_after", score if seed else 1.75))
        (tmp_path / str(seed) / "report.json").write_text(report)
    workdirs = f"--workdirs={tmp_path}/0,{tmp_path}/1"
    command = [sys.executable, "-m", "benchmarks.demo", workdirs]
    done = subprocess.run(command, capture_output=True, text=True, cwd=documents.ROOT)
    assert done.returncode == code, done.stderr
    assert "at commit 0123456789, on 2 cores of Abacus" in done.stdout
    assert "| seed | 0 | 1 |" in done.stdout and "| 0.25 → 1.75 (1.25); +1.20 |" in done.stdout
    assert ("seed 1: PPO's gain in standard deviations: 1.00" in done.stdout) == bool(code)


def test_the_pages_show_the_committed_reports():
    kept = json.loads(documents.KEPT.read_text())
    for name in documents.PARTS:
        assert documents.written(name, kept) == (documents.ROOT / name).read_text()
