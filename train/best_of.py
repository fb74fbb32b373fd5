"""Best of n: samples answers to prompts, keeps each prompt's best, and writes them as conversations
to fine-tune on (rejection sampling).

    python -m train.best_of --config=configs/grpo.py --workdir=runs/best \\
        --config.init_from.policy=runs/sft --config.init_from.reward=runs/reward \\
        --config.data.source=prompts.jsonl --config.grpo.group_size=16
    python -m train --config=configs/sft.py --workdir=runs/sft2 \\
        --config.init_from.policy=runs/sft --config.data.source=runs/best/answers.jsonl

The recipe is that of a grpo stage: its sampler, its rewards, `grpo.group_size` answers a prompt.
An answer that was cut off before its end is not taken.
"""

from __future__ import annotations

import math

import numpy as np
from absl import app, flags

from train import cli
from train.runtime import strict_json


def run(config, workdir, least: float) -> tuple[int, int]:
    """Writes `answers.jsonl` into the workdir: `messages`, the answer's `score` and the `mean` of
    its group's.

    Args:
      config: a recipe of stage grpo. least: prompts whose best answer scores less are left out.

    Returns:
      (conversations written, prompts).

    Raises:
      ConfigError, RewardError: as a grpo stage would.
    """
    import jax
    from etils import epath

    from data.loader import heldout_batches
    from model import sharding
    from ranges import ConfigError
    from train import assemble
    from train.config.run import build
    from train.objectives import registry
    from train.rl.sampler import Sampler, groups
    from train.runtime import checkpoint, outputs
    from train.runtime.metrics import console

    config, workdir = build(config), epath.Path(workdir)
    if config.stage != "grpo":
        raise ConfigError(f"stage={config.stage!r}; best of n reads a recipe of stage grpo")
    outputs.make_folder(workdir)
    mesh, group = sharding.make_mesh(config.mesh), config.grpo.group_size
    placing = groups(mesh, config.rl.rollout_batch, group)
    with jax.set_mesh(mesh):
        row = registry.check(config, mesh)
        ctx = assemble.open_context(config, row, workdir, mesh, None, None)
        params = {}
        for role in {"policy", "reward"} & config.init_from.keys():
            abstract = checkpoint.abstract_params(role, ctx.models[role], mesh)
            params[role] = checkpoint.load_params(config.init_from[role], role, abstract)
        sampler, examples = Sampler(ctx), ctx.data.train_examples
        key, size = jax.random.key(config.seed), config.rl.rollout_batch // group
        records = []
        for number, prompts in enumerate(heldout_batches(ctx.data.train, size, placing.prompts)):
            prompts = {name: x[placing.index] for name, x in prompts.items()}
            asked = np.repeat(prompts["example"], placing.samples)
            answers = [examples[i].get("answer", "") for i in asked]
            first = np.int32(number * size * group)
            placed = sharding.put_batch(prompts, mesh)
            batch = sampler.sample(params["policy"], placed, key, first, placing.samples)
            found = {name: batch[name] for name in ("tokens", "response_mask")}
            found["score"] = sampler.rewards(params, batch, answers)["score"]
            found = jax.device_get(jax.device_put(found, sharding.replicated(mesh)))
            here = examples[number * size : (number + 1) * size]
            records += filter(None, map(best(ctx.tokenizer, found, group), enumerate(here)))
            console.print(f"{min((number + 1) * size, len(examples))} of {len(examples)} prompts")
    records = [r for r in records if r["score"] >= least]
    if jax.process_index() == 0:
        temporary = workdir / "answers.jsonl.tmp"
        temporary.write_text(
            "".join(strict_json.dumps(r, ensure_ascii=False) + "\n" for r in records)
        )
        temporary.replace(workdir / "answers.jsonl")
    return len(records), len(examples)


def best(tokenizer, found, group: int):
    """(index of a prompt, its example) -> the record of its best answer that ended, or None.

    Args:
      found: numpy arrays `tokens` [B, P + R], `response_mask` [B, R] and `score` [B], in the order
        [prompt, group].
    """

    def one(item):
        index, example = item
        rows = slice(index * group, (index + 1) * group)
        mask, scores = found["response_mask"][rows] > 0, found["score"][rows]
        ids = [x[m] for x, m in zip(found["tokens"][rows, -mask.shape[1] :], mask, strict=True)]
        valid = np.isfinite(scores)  # else left out (rewards.on_error)
        ended = np.array([x[-1] in tokenizer.stop_ids for x in ids]) & valid
        if not ended.any():
            return None
        chosen = int(np.argmax(np.where(ended, scores, -np.inf)))
        answer = {"role": "assistant", "content": tokenizer.decode(ids[chosen])}
        if not answer["content"].strip():
            return None
        figures = {"score": float(scores[chosen]), "mean": float(scores[valid].mean())}
        tools = {"tools": example["tools"]} if "tools" in example else {}
        return {"messages": [*example["messages"], answer]} | tools | figures

    return one


def main(argv):
    del argv
    cli.start()
    from train.runtime.metrics import console

    written, prompts = run(cli.config(), flags.FLAGS.workdir, flags.FLAGS.least)
    console.print(f"{written} answers to {prompts} prompts: {flags.FLAGS.workdir}/answers.jsonl")


if __name__ == "__main__":
    cli.define_flags()
    flags.DEFINE_float("least", -math.inf, "Leave out prompts whose best answer scores less.")
    flags.register_validator("least", lambda x: x < math.inf, "write a number")
    app.run(lambda argv: cli.guarded(main, argv), flags_parser=cli.parse_flags)
