"""DPO and PPO on real rankings: an open model learns to answer politely.

    python -m benchmarks.real.manners --workdir=runs/manners --model=PATH/SmolLM2.gguf \\
        --file=PATH/instruction-data-with-preference.jsonl.gz

The file has instructions with a polite (`chosen`) and a rude (`rejected`) wording of one answer. A
fifth of the instructions is held out. SFT on every answer of the rest, both wordings, gives the
policy that DPO and PPO start from, which is rude about half the time; a reward model and a judge
each learn from one half of the rankings. Low-rank adapters in all of them. `--dtype=bfloat16` is
faster where the CPU has instructions for it.

Prints for the start, DPO and PPO, on the held-out instructions: the reward model's score of a
sampled answer, the share of answers that the judge prefers to the start's own answer to the same
instruction with its 95% interval, and the KL to the start, nats an answer. Stopped or killed, the
same command resumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import ml_collections
from absl import app, flags

from benchmarks import results
from benchmarks.real import data
from model import sharding
from train.assembly.run import init_state, setup
from train.config import run as config

ASKED, ANSWER = 80, 48  # tokens of an instruction in its template, and of its answer
SHOWN = ("score", "win_rate", "win_rate_low", "win_rate_high", "kl", "length")


def prepare(file: str, workdir: Path) -> dict[str, Path]:
    """The files of each stage: {"chats", "chats_heldout", "rankings", "rankings_heldout"}."""
    rows = {False: [], True: []}
    for record in data.records(file):
        prompt = "\n".join(filter(None, (record["instruction"], record["input"])))
        answers = {name: record[name] for name in ("chosen", "rejected")}
        if len({a.strip() for a in answers.values()}) == 2:
            rows[data.heldout(record["instruction"], 0.2)].append({"prompt": prompt} | answers)
    paths = {}
    for suffix, out in (("", False), ("_heldout", True)):
        paths["rankings" + suffix] = data.write(workdir / f"rankings{suffix}.jsonl", rows[out])
        chats = [
            {"prompt": row["prompt"], "response": row[name]}
            for row in rows[out]
            for name in ("chosen", "rejected")
        ]
        paths["chats" + suffix] = data.write(workdir / f"chats{suffix}.jsonl", chats)
    return paths


def sft(base: Path, paths: dict[str, Path]) -> ml_collections.ConfigDict:
    recipe = data.recipe("sft", base, paths["chats"], paths["chats_heldout"], 90, 5e-4)
    recipe.data.update(dict(length=256, batch_size=4))
    return recipe


def rankings(
    stage: str, policy: Path, paths: dict[str, Path], steps: int, rate: float
) -> ml_collections.ConfigDict:
    both = paths["rankings"], paths["rankings_heldout"]
    recipe = data.recipe(stage, policy, *both, steps, rate)
    recipe.data.update(dict(length=128, sub_rows=2, batch_size=8))
    return recipe


def reward(policy: Path, paths: dict[str, Path], half: int) -> ml_collections.ConfigDict:
    recipe = rankings("reward", policy, paths, 25, 5e-4)
    recipe.data.update(dict(subset=f"{half}/2", share_prompt=True))
    return recipe


def ppo(start: Path, paths: dict[str, Path], steps: int) -> ml_collections.ConfigDict:
    both = paths["rankings"], paths["rankings_heldout"]
    recipe = data.recipe("ppo", start, *both, steps, 3e-4)
    recipe.data.fields = {"prompt": "{prompt}"}
    recipe.data.heldout_limit = 0
    recipe.data.batch_size = 32
    recipe.init_from.reward = str(start.parent / "reward")
    recipe.init_from.judge = str(start.parent / "judge")
    recipe.rl.update(
        dict(prompt_length=ASKED, response_length=ANSWER, rollout_batch=64, epochs=2,
             kl_coef=0.05, missing_eos="penalty", eval_prompts=160)
    )  # fmt: skip
    recipe.ppo.shared_critic = True
    recipe.value_optimizer.update(dict(peak_lr=1e-3, schedule="constant", weight_decay=0.0))
    recipe.optimizer.schedule = "constant"
    recipe.checkpoint.every = 4
    return recipe


def measure(policy: Path, start: Path, paths: dict[str, Path], dtype: str) -> dict:
    """The metrics of PPO's evaluation of a policy, with the start as its reference."""
    recipe = ppo(start, paths, 4)  # no step is taken
    recipe.init_from.policy, recipe.init_from.reference = str(policy), str(start)
    recipe.model.dtype = dtype
    settings = config.build(recipe)
    mesh = sharding.make_mesh(settings.mesh)
    with jax.set_mesh(mesh):
        run = setup(settings, policy / "measured", mesh)
        values, _ = run.evaluations[0](init_state(run).trainable, run.frozen)
    return {name: values[name] for name in SHOWN if name in values}


def run(file: str, model: str, workdir: Path, dpo_steps: int, ppo_steps: int, dtype: str) -> dict:
    base, paths = data.base(model, workdir), prepare(file, workdir)
    start = workdir / "sft"
    data.fit(sft(base, paths), start, dtype)
    for number, name in enumerate(("reward", "judge")):
        data.fit(reward(base, paths, number), workdir / name, dtype)
    data.fit(rankings("dpo", start, paths, dpo_steps, 2e-4), workdir / "dpo", dtype)
    data.fit(ppo(start, paths, ppo_steps), workdir / "ppo", dtype)
    return {name: measure(workdir / name, start, paths, dtype) for name in ("sft", "dpo", "ppo")}


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    workdir = data.open_workdir()
    steps = given.dpo_steps, given.ppo_steps
    metrics = run(given.file, given.model, workdir, *steps, given.dtype)
    rows = [
        [name, *(f"{values[k]:.3f}" if k in values else "" for k in SHOWN)]
        for name, values in metrics.items()
    ]
    table = results.Table(("policy", *SHOWN), rows)
    results.report(results.Result("real.manners", [table], metrics, results.given()))


if __name__ == "__main__":
    data.define_flags()
    flags.DEFINE_integer("dpo_steps", 50, "Optimizer steps of DPO.")
    flags.DEFINE_integer("ppo_steps", 72, "Optimizer steps of PPO, four a rollout.")
    app.run(main)
