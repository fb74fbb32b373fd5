"""Reward models from an open model on real rankings, beside a bag of words.

    sh benchmarks/other_env.sh runs/sklearn scikit-learn==1.9.1
    python -m benchmarks.real.rewards --set=gsm8k-solutions --workdir=runs/real \\
        --file=PATH/example_model_solutions.jsonl.gz --model=PATH/SmolLM2-135M-Instruct.gguf \\
        --other_python=runs/sklearn/bin/python

`--set=hh-rlhf-harmless --file=PATH/harmless-base/test.jsonl.gz` is the other set. Questions (of
dialogues: first turns) are held out by a hash. Both sides see the same rankings: those in which
every answer fits the length with its prompt. The other side is a logistic regression on the
differences of the answers' word counts, its strength chosen by cross-validation over questions.

Prints the share of held-out pairs that each ranks right, with 95% intervals, and the difference
with its own and a two-sided p, all by resampling whole questions, whose pairs are not independent.
Stopped or killed, the same command resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import results, workers
from benchmarks.real import data
from data import pipeline, splits
from data.text import tokenizer as tokenizers
from train.checkpoints import loading
from train.config import run as config
from train.rl import rewards

WORKER = Path(__file__).with_name("rewards_side.py")
RESAMPLES = 10_000


def solutions(record: dict) -> dict:
    """A ranking from a record of OpenAI's model solutions to GSM8K: right before wrong."""
    texts = {}
    for value in record.values():
        if isinstance(value, dict):
            texts.setdefault(value["solution"].strip(), value["is_correct"])
    rank = [0 if right else 1 for right in texts.values()]
    return {"prompt": record["question"], "responses": list(texts), "rank": rank}


# The function that reads a record, tokens of a prompt with one answer, share held out, epochs,
# rate.
SETS: dict[str, tuple[Callable[[dict], dict], int, float, int, float]] = {
    "gsm8k-solutions": (solutions, 384, 0.4, 1, 5e-4),
    "hh-rlhf-harmless": (dict, 256, 0.4, 1, 5e-4),
}


def score(workdir: Path, sequences: list[np.ndarray], length: int) -> np.ndarray:
    """The trained model's scores of token sequences."""
    config, params = loading.load(workdir, "reward")
    scores = jax.jit(rewards.score, static_argnums=0)
    out, rows = np.zeros(len(sequences)), 8
    order = np.argsort([len(ids) for ids in sequences], kind="stable")
    for part in np.array_split(order, -(-len(order) // rows)):
        width = -(-max(len(sequences[i]) for i in part) // 64) * 64
        tokens = np.zeros((rows, min(width, length)), np.int32)
        end = np.zeros(rows, np.int32)
        for row, i in enumerate(part):
            ids = sequences[i]
            tokens[row, : len(ids)], end[row] = ids, len(ids) - 1
        column = jnp.arange(tokens.shape[1])[None]
        positions = jnp.broadcast_to(column, tokens.shape)
        segments = (column <= end[:, None]).astype(jnp.int32)
        values = scores(config, params, tokens, positions, segments, end, end)
        out[part] = np.asarray(values)[: len(part)]
    return out


def pairs(example: dict) -> list[tuple[int, int]]:
    rank = example["rank"]
    return [(i, j) for i, a in enumerate(rank) for j, b in enumerate(rank) if a < b]


def compare(right: dict[str, np.ndarray], questions: np.ndarray, seed: int = 0) -> dict:
    """Accuracies and their difference, with intervals and a p by resampling questions.

    Args:
      right: {name: [N], 1 where a pair is ranked right, 0.5 for a tie}, of the two sides.
      questions: [N] ints, the question of each pair.
    """
    names, count = list(right), questions.max() + 1
    sums = np.stack([np.bincount(questions, right[n], count) for n in names])
    sizes = np.bincount(questions, minlength=count)
    drawn = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    means = sums[:, drawn].sum(-1) / sizes[drawn].sum(-1)
    gap = means[0] - means[1]
    result: dict[str, Any] = {
        name: (float(right[name].mean()), *np.percentile(mean, [2.5, 97.5]))
        for name, mean in zip(names, means, strict=True)
    }
    result["difference"] = (
        float(right[names[0]].mean() - right[names[1]].mean()),
        *np.percentile(gap, [2.5, 97.5]),
    )
    tail = min(np.sum(gap <= 0), np.sum(gap >= 0))
    result["p"] = min(1.0, 2 * (1 + int(tail)) / (RESAMPLES + 1))
    return result


def train_ours(name: str, workdir: Path, sides: dict[str, Path], length: int, dtype: str) -> Path:
    """Trains the reward model; returns its workdir."""
    _, _, _, epochs, rate = SETS[name]
    base = workdir / "base"
    recipe = data.recipe("reward", base, sides["train"], sides["heldout"], steps=1, rate=rate)
    # Four answers to a question take two sub-rows, each after a copy of it.
    recipe.data.update(dict(length=2 * length - 64, sub_rows=2, batch_size=4, share_prompt=True))
    settings = config.build(recipe)
    examples = splits.read_examples(settings.data, "preference")
    tokenizer = tokenizers.load(settings.init_from["policy"])
    rows: Any = pipeline.open_data(settings.data, "preference", tokenizer, examples).train
    recipe.steps = epochs * -(-len(rows["tokens"]) // settings.data.batch_size)
    data.fit(recipe, workdir / name / "reward", dtype)
    return workdir / name / "reward"


def train_other(python: str, sides: dict[str, Path]) -> dict:
    return workers.run([python, WORKER, *sides.values()])


def ranked_right(gaps: Sequence[float]) -> np.ndarray:
    return (1 + np.sign(np.asarray(gaps))) / 2


def run(name: str, file: str, model: str, workdir: Path, other_python: str, dtype: str) -> dict:
    read, length, share, _, _ = SETS[name]
    tokenizer = tokenizers.load(data.base(model, workdir))
    rankings = data.examples(file, read, tokenizer, length)
    sides, heldout = data.divide(rankings, share, workdir / name)
    reward = train_ours(name, workdir, sides, length, dtype)
    ids = [data.rendered(e, tokenizer) for e in heldout]
    scores = iter(score(reward, [x for answers in ids for x in answers], length))
    gaps, questions, numbers = [], [], {}
    for example in heldout:
        own = [next(scores) for _ in example["responses"]]
        gaps += [own[i] - own[j] for i, j in pairs(example)]
        number = numbers.setdefault(data.key(example), len(numbers))
        questions += [number] * len(pairs(example))
    other = train_other(other_python, sides)
    right = {"reward model": ranked_right(gaps), "bag of words": ranked_right(other["gaps"])}
    result = compare(right, np.array(questions))
    return result | {"pairs": len(gaps), "questions": len(numbers), "strength": other["C"]}


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    workdir = data.open_workdir()
    files = given.file, given.model, workdir, given.other_python
    result = run(given.set, *files, given.dtype)
    names = ("reward model", "bag of words", "difference")
    cells = [given.set, f"{result['pairs']} of {result['questions']} questions"]
    cells += [data.interval(*result[name]) for name in names]
    cells += [f"{result['p']:.4f}", f"{result['strength']:g}"]
    columns = ("set", "held-out pairs", *(f"{name} (95%)" for name in names), "p",
               "inverse strength of the regression")  # fmt: skip
    table = results.Table(columns, [cells])
    results.report(results.Result("real.rewards", [table], result, results.given()))


if __name__ == "__main__":
    flags.DEFINE_enum("set", None, list(SETS), "The set of rankings.")
    data.define_flags()
    flags.DEFINE_string("other_python", None, "A Python that has scikit-learn.")
    flags.mark_flags_as_required(["set", "other_python"])
    app.run(main)
