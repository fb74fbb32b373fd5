"""Best-of-n sampling: conversations with the best of several answers to each prompt, for
fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from data.atomic import write_atomically
from data.loader import heldout_batches
from data.text.base import Tokenizer
from model import sharding
from ranges import ConfigError
from train.config.run import build
from train.objectives import registry
from train.rl.offline import open_sampler
from train.rl.sampler import groups
from train.runtime import outputs, strict_json
from train.terminal.console import console


def run(config: Any, workdir: epath.PathLike, least: float) -> tuple[int, int]:
    """Writes `answers.jsonl` into the workdir: `messages`, the answer's `score` and the `mean` of
    its group's scores.

    Args:
      config: a recipe of stage grpo. least: the lowest score of a best answer that is written.

    Returns:
      (conversations written, prompts).

    Raises:
      ConfigError, RewardError: as in a grpo stage.
    """
    config, workdir = build(config), epath.Path(workdir)
    group = registry.find(config).group_size(config)
    if group == 1:
        raise ConfigError(
            f"stage={config.stage!r} answers each prompt once; best of n needs a recipe with "
            "groups of answers, as configs/grpo.py"
        )
    outputs.make_folder(workdir)
    mesh = sharding.make_mesh(config.mesh)
    placing = groups(mesh, config.rl.rollout_batch, group)
    roles = {"policy", "reward"} & config.init_from.keys()
    with jax.set_mesh(mesh):
        sampler, params = open_sampler(config, workdir, mesh, roles)
        data, tokenizer = sampler.ctx.data, sampler.ctx.tokenizer
        examples, size = data.train_examples, config.rl.rollout_batch // group
        key, records = jax.random.key(config.seed), []
        for number, prompts in enumerate(heldout_batches(data.train, size, placing.prompts)):
            first_row = number * size * group
            batch, rewards = sampler.sample_and_score(
                params["policy"], params, prompts, examples, key, first_row, placing
            )
            answers = {name: batch[name] for name in ("tokens", "response_mask")}
            answers = sampler.fetch(answers | {"score": rewards["score"]})
            batch_examples = examples[number * size : (number + 1) * size]
            for index, example in enumerate(batch_examples):
                rows = slice(index * group, (index + 1) * group)
                group_answers = {name: x[rows] for name, x in answers.items()}
                if record := best_answer(tokenizer, group_answers, example):
                    records.append(record)
            console.print(f"{min((number + 1) * size, len(examples))} of {len(examples)} prompts")
    records = [r for r in records if r["score"] >= least]
    path = workdir / "answers.jsonl"
    if jax.process_index() == 0:
        lines = (strict_json.dumps(r, ensure_ascii=False) + "\n" for r in records)
        write_atomically(path, "".join(lines))
    console.print(f"{len(records)} answers to {len(examples)} prompts: {path}")
    return len(records), len(examples)


def best_answer(
    tokenizer: Tokenizer, answers: Mapping[str, np.ndarray], example: Mapping[str, Any]
) -> dict | None:
    """The record of the best answer to one prompt among those that ended; None if there is none, or
    if its text is empty.

    Args:
      answers: arrays `tokens` [G, P + R], `response_mask` [G, R] and `score` [G]; an answer whose
        score is not finite has no reward (rewards.on_error) and is not eligible.
    """
    mask, scores = answers["response_mask"] > 0, answers["score"]
    responses = answers["tokens"][:, -mask.shape[1] :]
    ids = [tokens[valid] for tokens, valid in zip(responses, mask, strict=True)]
    valid = np.isfinite(scores)
    ended = np.array([x[-1] in tokenizer.stop_ids for x in ids]) & valid
    if not ended.any():
        return None
    best = int(np.argmax(np.where(ended, scores, -np.inf)))
    message = {"role": "assistant", "content": tokenizer.decode(ids[best])}
    if not message["content"].strip():
        return None
    tools = {"tools": example["tools"]} if "tools" in example else {}
    scores_of_group = {"score": float(scores[best]), "mean": float(scores[valid].mean())}
    return {"messages": [*example["messages"], message]} | tools | scores_of_group
