"""GRPO with a verifier: a small model learns to add.

    python -m benchmarks.ppo.sums --workdir=runs/sums

A model of 3 layers, 96 wide, over characters sees a fifth of the sums a+b below 100 with their
answers (SFT), then the questions alone, those of other sums too, and only "right" or "wrong" for
its answers (GRPO, groups of 8). Accuracy is that of a sampled answer (temperature 1) to each of
1,000 sums that neither stage has seen. A few minutes on two cores; the same command resumes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import ml_collections
from absl import app, flags

from benchmarks import results
from train import loop
from train.config import run as config
from train.runtime.metrics import quiet_to_file
from train.runtime.records import read_metrics


def write_sums(path: Path) -> None:
    """Writes every a+b with a and b below 100, as records with `prompt` and `response`."""
    records = [
        {"prompt": f"{a}+{b}=", "response": str(a + b)} for a in range(100) for b in range(100)
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


def stage(name: str, source: Path, steps: int) -> ml_collections.ConfigDict:
    recipe = config.default()
    recipe.stage, recipe.steps = name, steps
    recipe.data.source = str(source)
    recipe.data.heldout_fraction = 0.1
    recipe.model.scan_unroll = 0
    recipe.evaluate.samples = 4
    recipe.evaluate.sample_tokens = 4
    recipe.checkpoint.every = 100
    return recipe


def sft(source: Path, steps: int) -> ml_collections.ConfigDict:
    recipe = stage("sft", source, steps)
    recipe.tokenizer.kind = "char"
    recipe.model.size = "tiny"
    recipe.model.update(dict(embed_dim=96, num_layers=3, num_heads=4, num_kv_heads=4, head_dim=24,
                             mlp_dim=384))  # fmt: skip
    recipe.data.subset = "0/5"
    recipe.data.batch_size = 16
    recipe.data.length = 96
    recipe.optimizer.peak_lr = 2e-3
    recipe.optimizer.warmup_steps = 20
    return recipe


def grpo(source: Path, policy: Path, steps: int) -> ml_collections.ConfigDict:
    recipe = stage("grpo", source, steps)
    recipe.init_from = {"policy": str(policy)}
    recipe.data.fields = {"answer": "{response}"}
    recipe.rewards.exact = 1.0
    recipe.data.batch_size = 256
    recipe.rl.update(
        dict(prompt_length=12, response_length=4, rollout_batch=512, epochs=1, kl_coef=0.0,
             normalize_scores=False, clip_high=0.28, eval_prompts=1000)
    )  # fmt: skip
    recipe.optimizer.peak_lr = 2e-4
    recipe.optimizer.b2 = 0.99
    recipe.optimizer.schedule = "constant"
    recipe.optimizer.weight_decay = 0.0
    recipe.evaluate.every = steps // 4
    return recipe


def run(workdir: Path | str, sft_steps: int, grpo_steps: int) -> list[float]:
    """Accuracy before GRPO, at each of its evaluations, and after it."""
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    source = workdir / "sums.jsonl"
    if not source.exists():
        write_sums(source)
    loop.run(sft(source, sft_steps), workdir / "sft")
    loop.run(grpo(source, workdir / "sft", grpo_steps), workdir / "grpo")
    return [r["reward/exact"] for r in read_metrics(workdir / "grpo", "eval")]


def main(argv: Sequence[str]) -> None:
    del argv
    workdir = flags.FLAGS.workdir
    Path(workdir).mkdir(parents=True, exist_ok=True)
    quiet_to_file(f"{workdir}/log.txt")
    accuracies = run(workdir, flags.FLAGS.sft_steps, flags.FLAGS.grpo_steps)
    shown = " → ".join(f"{x:.1%}" for x in accuracies)
    table = results.Table(("", "accuracy on held-out sums"), [["GRPO", shown]])
    results.report(results.Result("ppo.sums", [table], {"accuracies": accuracies}, results.given()))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of both stages.")
    flags.DEFINE_integer("sft_steps", 340, "Optimizer steps of SFT.")
    flags.DEFINE_integer("grpo_steps", 200, "Optimizer steps of GRPO, two a rollout.")
    results.define_flags()
    flags.mark_flag_as_required("workdir")
    app.run(main)
