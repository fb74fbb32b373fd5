"""The messages of a run: its header, its evaluations, its end."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from data.ramp import cut
from data.rows import num_rows, take_rows
from interpreter import python
from model import sharding
from train.assembly import budget, ramps
from train.assembly.run import Run
from train.checkpoints.networks import abstract_params
from train.config.run import RunConfig
from train.runtime import flops

# Metrics of evaluations that are shown, the most important first: (metric, its text).
EVALUATED = (
    ("loss", "held-out loss {:.4f}"),
    ("bits_per_byte", "{:.4f} bits per byte"),
    ("accuracy/overall", "{:.1%} of pairs ranked right"),
    ("score", "score {:.3f}"),
    ("kl", "KL {:.3f}"),
    ("win_rate", "{:.1%} preferred to the reference"),
)

SAMPLE = 256  # rows that say how much a ramp does not learn


def tokens_per_step(run: Run, config: RunConfig | None = None) -> int:
    """The number of tokens of a batch, padding included; with the settings of a level of its ramps,
    or those that the run ends with."""
    ctx = dataclasses.replace(run.ctx, config=config or run.ctx.config)
    return budget.tokens_per_step(ctx, run.objective)


def flops_per_step(run: Run, config: RunConfig | None = None) -> float:
    """The floating-point operations of an optimizer step (train/runtime/flops.py); `config` as of
    `tokens_per_step`."""
    ctx, config = run.ctx, config or run.ctx.config
    weights = {r: abstract_params(r, ctx.models[r], ctx.mesh) for r in run.objective.trainable}
    return flops.of_step(config, ctx.models, weights, run.parts, tokens_per_step(run, config))


def header(run: Run, workdir: Any) -> Iterator[str]:
    """The sizes of the models, the number of steps, the cost of one, the devices, the workdir."""
    config = run.ctx.config
    yield config.stage
    for role in run.objective.trainable:
        size = f"{role} {_count(run.abstract.trainable[role]) / 1e6:.2f}M parameters"
        if role in run.parts and run.parts[role].frozen:
            size += f" and {_count(run.frozen[role]) / 1e6:.2f}M frozen"
        yield size
    levels = [level.config for level in ramps.levels(config, sharding.batch_shards(run.ctx.mesh))]
    tokens = _span([f"{tokens_per_step(run, level):,}" for level in levels])
    yield f"{config.steps:,} steps of {tokens} tokens"
    rollout = ""
    if run.objective.rollouts:
        rollout = f" and {flops.of_rollout(config, run.ctx.models):.3g} a rollout"
    cost = _span([f"{flops_per_step(run, level):.3g}" for level in levels])
    yield f"{cost} FLOPs a step{rollout}"
    yield f"{jax.device_count()} × {jax.devices()[0].device_kind}"
    yield str(workdir)


def ramp(run: Run) -> Iterator[list[str]]:
    """The lines about a run's ramps: the batches of each level, the share of them that is not
    learned because a row is cut, and the number of programs; nothing without a ramp."""
    config, data = run.ctx.config, run.ctx.data.train
    levels = ramps.levels(config, sharding.batch_shards(run.ctx.mesh))
    if len(levels) == 1:
        return
    sample = take_rows(data, np.arange(min(num_rows(data), SAMPLE)))
    for level in levels:
        rows, length = level.shape
        until = "then" if level is levels[-1] else f"until step {level.steps.stop:,}:"
        parts = [f"  {until} {rows:,} rows of {length:,} tokens"]
        if config.accumulate > 1:
            count = level.config.accumulate
            parts.append(f"{count} microbatch{'es' * (count != 1)}")
        if length < config.data.length:
            pieces = cut(sample, config.data.length // length, run.objective.schema == "chat")
            learned = np.sum(pieces["loss_mask"]) / np.sum(sample["loss_mask"])
            parts.append(f"{1 - learned:.1%} not learned, at cuts")
        yield parts
    count = len({level.shape for level in levels})
    yield [f"  the step is compiled for each of these shapes: {count} programs"]


def _span(texts: Sequence[str]) -> str:
    """The first and the last of several texts, or the one that they are."""
    return " to ".join(dict.fromkeys((texts[0], texts[-1])))


def _count(tree) -> int:
    """The number of values in a tree of arrays or shapes."""
    return sum(x.size for x in jax.tree.leaves(tree))


def metrics(values: Mapping[str, float]) -> list[str]:
    """A step's metrics for the progress, the most important first."""
    texts = [f"loss {values['loss']:.4f}"]
    if "rollout/score" in values:
        texts += [f"score {values['rollout/score']:.2f}", f"KL {values['rollout/kl']:.2f}"]
    texts.append(f"{values['tokens_per_second']:,.0f} tok/s")
    if "mfu" in values:
        texts.append(f"MFU {values['mfu']:.1%}")
    if "rollout/share" in values:
        texts.append(f"rollout {values['rollout/share']:.0%}")
    return [*texts, f"data {values['data_wait']:.0%}"]


def evaluation(
    step: int, values: Mapping[str, float], first: Mapping[str, float]
) -> Iterator[list[str]]:
    """The lines of an evaluation, one for the stage's own and one for each entry of `evals`, with
    the change since the first evaluation of the run."""
    names = dict.fromkeys(key.partition("/")[0] for key in values)
    for name in ("", *names):
        prefix = name and f"{name}/"
        texts = []
        for metric, text in EVALUATED:
            value = values.get(prefix + metric)
            if value is not None:
                texts.append(text.format(value))
                if (before := first.get(prefix + metric)) is not None and first is not values:
                    texts[-1] += f" ({_change(text, value - before)})"
        if name and not texts:
            texts = _headline(prefix, values, first)
        if texts:
            yield [f"  step {step}: {name}{': ' * bool(name)}{texts[0]}", *texts[1:]]


def _headline(prefix: str, values: Mapping[str, float], first: Mapping[str, float]) -> list[str]:
    """The first metric of a benchmark, with its standard error and its change; [] without one."""
    for metric, value in values.items():
        stderr = values.get(f"{metric}_stderr")
        if metric.startswith(prefix) and stderr is not None:
            text = f"{metric.removeprefix(prefix)} {value:.4g} ± {stderr:.2g}"
            if (before := first.get(metric)) is not None and first is not values:
                text += f" ({_change('{:.4g}', value - before)})"
            return [text]
    return []


def _change(text: str, value: float) -> str:
    """A difference with its sign, and the decimals of a metric's text."""
    kind = text[text.index("{") + 2 : text.index("}")]
    return format(value, f"+{kind}").replace("-", "−")


def closing(run: Run, workdir: Any) -> Iterator[str]:
    """Commands that go on from a finished run."""
    workdir = shlex.quote(str(workdir))
    if run.objective.answers:
        yield f"  talk to it   {python()} -m train.chat --workdir={workdir}"
    yield f"  its curves   tensorboard --logdir={workdir}"
    if "policy" in run.objective.trainable:
        yield f"  its texts    {workdir}/samples.jsonl"
        evaluate = f"{python()} -m train.evaluate"
        yield f"  evaluate it  {evaluate} --workdir={workdir} --tasks=arc_easy,piqa,lambada"
        export = f"{python()} -m train.convert export"
        yield f"  export it    {export} --workdir={workdir} --to={workdir}/hf"
