"""Rounds of improvement on the demo, with a scripted annotator whose rule no model sees: the share
of answers on held-out prompts that the rule prefers, after each round. Prints a table, writes JSON.

    python -m benchmarks.demo.improve --demo=runs/demo --workdir=runs/benchmark-improve

The annotator prefers whole sentences of three to six words. The rounds start from the SFT and the
reward model of configs/chains/demo.py; the same command resumes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import results

PROMPTS, HELD_OUT = "tfds:pydocs/chat:train", "tfds:pydocs/chat:test"
WORDS = range(3, 7)
SETTINGS = {
    "improve.questions": 100, "improve.answers": 4, "improve.max_new_tokens": 24,
    "improve.limit": 120,
    "stages.reward.steps": 30, "stages.reward.data.length": 64,
    "stages.reward.data.batch_size": 8, "stages.reward.loss.pool": "mean",
    "stages.reward.optimizer.name": "muon", "stages.reward.optimizer.peak_lr": 2e-3,
    "stages.reward.evaluate.samples": 0,
    "stages.policy.steps": 14, "stages.policy.data.batch_size": 64,
    "stages.policy.rl.prompt_length": 28, "stages.policy.rl.rollout_batch": 128,
    "stages.policy.rl.epochs": 1, "stages.policy.rl.eval_prompts": 64,
    "stages.policy.rl.score_clip": 2.0, "stages.policy.optimizer.name": "muon",
    "stages.policy.optimizer.peak_lr": 1.5e-3, "stages.policy.optimizer.schedule": "wsd",
    "stages.policy.optimizer.b2": 0.99, "stages.policy.value_optimizer.name": "muon",
    "stages.policy.value_optimizer.peak_lr": 3e-3, "stages.policy.evaluate.samples": 0,
    "stages.policy.model.scan_unroll": 0, "stages.reward.model.scan_unroll": 0,
}  # fmt: skip


def follows(answer: str) -> bool:
    """Whether an answer is a whole sentence of as many words as `WORDS` has."""
    return answer.strip().endswith(".") and len(answer.split()) in WORDS


def annotate(messages: Sequence[Mapping], answers: Sequence[str]) -> list[int]:
    """The scripted annotator (train/improve/asking.py)."""
    del messages
    return [int(not follows(answer)) for answer in answers]


def command(demo: Path, workdir: Path, rounds: int) -> list[str]:
    """The command of the rounds."""
    runs = f"policy={demo}/sft,reward={demo}/reward"
    recipe = f"configs/improve.py:smoke,{runs},prompts={PROMPTS},conversations={HELD_OUT}"
    settings = SETTINGS | {"improve.rounds": rounds}
    return [
        sys.executable, "-m", "train.improve", f"--workdir={workdir}", f"--config={recipe}",
        "--annotator=benchmarks.demo.improve:annotate",
        *(f"--config.{key}={value}" for key, value in settings.items()),
    ]  # fmt: skip


def measure(policy: str) -> dict[str, Any]:
    """The share of a policy's sampled answers to held-out prompts that follow the rule."""
    from data.ranking import reading
    from data.ranking.questions import Question
    from train.chat.candidates import open_answerers
    from train.evals.base import interval

    read = reading.read(HELD_OUT).questions
    prompts = [Question(question.messages, id=i + 1) for i, question in enumerate(read)]
    sampling = {"max_new_tokens": 24, "temperature": 1.0, "top_p": 1.0}
    (answerer,) = open_answerers([policy], sampling, 0)
    texts = list[str]()
    for number, answers in answerer(prompts, 1):
        if isinstance(answers, str):
            raise ValueError(f"prompt {number} has no answer: {answers}")
        texts += [sampled.text for sampled in answers]
    share = sum(map(follows, texts)) / len(texts)
    low, high = interval(share, len(texts))
    words = sum(len(text.split()) for text in texts) / len(texts)
    different = len(set(texts)) / len(texts)
    return {"share": share, "low": low, "high": high, "answers": len(texts), "words": words,
            "different": different}  # fmt: skip


COLUMNS = ("policy", "follows the rule (95%)", "words", "different", "preferences", "reward right",
           "win rate (95%)", "KL")  # fmt: skip


def row(name: str, measured: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """The cells of a round."""
    right, rate = record.get("reward_accuracy"), record.get("win_rate")
    return [
        name, f"{measured['share']:.1%} ({measured['low']:.1%} to {measured['high']:.1%})",
        f"{measured['words']:.1f}", f"{measured['different']:.0%}",
        str(record.get("preferences", "")),
        f"{right['value']:.2f} of {right['pairs']}" if right else "",
        f"{rate['value']:.2f} ({rate['low']:.2f} to {rate['high']:.2f})" if rate else "",
        f"{record['kl']:.1f}" if record.get("kl") is not None else "",
    ]  # fmt: skip


def main(argv: list[str]) -> None:
    del argv
    f, begun = flags.FLAGS, time.monotonic()
    demo, workdir = Path(f.demo), Path(f.workdir)
    done = subprocess.run(command(demo, workdir, f.rounds), stdin=subprocess.DEVNULL)
    seconds = time.monotonic() - begun
    if done.returncode not in (0, 1) or not (workdir / "rounds.jsonl").exists():
        raise SystemExit(done.returncode)
    records = [json.loads(line) for line in (workdir / "rounds.jsonl").read_text().splitlines()]
    policies = [str(demo / "sft"), *(r["policy"]["run"] for r in records if "policy" in r)]
    measured = [measure(policy) for policy in policies]
    names = ["SFT", *(f"round {number}" for number in range(1, len(measured)))]
    rows = [row(*cells) for cells in zip(names, measured, [{}, *records], strict=False)]
    figures = {"policies": policies, "measured": measured, "rounds": records,
               "seconds": round(seconds)}  # fmt: skip
    results.report(
        results.Result("demo.improve", [results.Table(COLUMNS, rows)], figures, SETTINGS)
    )
    raise SystemExit(done.returncode)


if (
    __name__ == "__main__"
):  # the command of the rounds imports this module, and has flags of its own
    flags.DEFINE_string("demo", "runs/demo", "A finished run of configs/chains/demo.py.")
    flags.DEFINE_string("workdir", None, "The workdir of the rounds.", required=True)
    flags.DEFINE_integer("rounds", 3, "Their number.", 1)
    results.define_flags()
    app.run(main)
