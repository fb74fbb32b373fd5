"""The partition of a model's weights into trained and frozen ones, with adapters for frozen ones.

Trained weights are in `TrainState.trainable`, and therefore in the optimizer and in checkpoints;
frozen ones are read from their origin at every start. A stage works on whole models: `joined` wraps
its functions to merge both parts before each call.

Patterns of weights: train/config/patterns.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from model import lora, quantized, weights
from model.lora import LoRA
from ranges import ConfigError
from train.config.patterns import Path, path_text, select
from train.config.run import RunConfig
from train.evals.base import Evaluation
from train.objectives.base import Source, Stage
from train.step import TrainState


class Partition(NamedTuple):
    """The partition of one trained model's parameters.

    Attributes:
      frozen: paths of the weights that are not trained. adapted: paths of frozen weights with an
        adapter.
      lora: the adapters' settings. dtype: the storage dtype of frozen weights.
    """

    frozen: frozenset[Path] = frozenset()
    adapted: frozenset[Path] = frozenset()
    lora: LoRA = LoRA()
    dtype: str = "float32"

    def split(self, tree: Mapping[str, Any]) -> tuple[dict, dict]:
        """(trained, frozen) trees of a model's parameters, without adapters."""
        flat = flatten_dict(tree)
        trained = {k: v for k, v in flat.items() if k not in self.frozen}
        frozen = {k: v for k, v in flat.items() if k in self.frozen}
        return unflatten_dict(trained), unflatten_dict(frozen)

    def adapters(self, abstract: Mapping[str, Any]) -> dict:
        """Shapes and shardings of the adapters, given those of the model's parameters."""
        flat, adapters = flatten_dict(abstract), {}
        for path in self.adapted:
            *above, name = path
            a, b = lora.abstract(name, flat[path], self.lora.rank)
            adapters[*above, name + lora.A], adapters[*above, name + lora.B] = a, b
        return unflatten_dict(adapters)

    def trained(self, abstract: Mapping[str, Any]) -> dict:
        """Shapes and shardings of everything that is trained, including adapters."""
        return join_trees(self.split(abstract)[0], self.adapters(abstract))

    def freeze(self, tree: Mapping[str, Any]) -> Any:
        """Frozen weights (a tree of arrays or of shapes) in their storage dtype."""
        return quantized.convert(tree, self.dtype)

    def whole(self, trained: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict:
        """The parameters as layers read them: weights, and adapters multiplied by their scale."""
        if self.adapted:
            trained = _scaled(trained, self.lora.scale)
        return join_trees(frozen, trained)

    def merge(self, trained: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict:
        """The parameters of the equivalent model without adapters: adapters merged into weights."""
        flat = flatten_dict(trained)
        adapters = {k: v for k, v in flat.items() if k[-1].endswith((lora.A, lora.B))}
        weights = {k: v for k, v in flat.items() if k not in adapters}
        base = join_trees(quantized.whole(frozen), unflatten_dict(weights))
        return lora.merge(base, unflatten_dict(adapters), self.lora)


_scaled = jax.jit(lora.scaled, static_argnums=1)


def join_trees(*trees: Mapping[str, Any]) -> dict:
    """The union of nested dicts that share no leaf."""
    flat = {}
    for tree in trees:
        flat |= flatten_dict(tree)
    return unflatten_dict(flat)


def divide(config: RunConfig, models: Mapping) -> dict[str, Partition]:
    """{role: partition} of the trained models.

    Args:
      models: {role: tree of its parameters}; only the paths are read.

    Raises:
      ConfigError: a pattern matches nothing, a weight is both frozen and trained or neither, an
        adapted weight is trained, a model has nothing to train, or `freeze.dtype` applies to
        nothing.
    """
    settings, adapters = config.freeze, config.lora
    names = [(role, *path) for role, tree in models.items() for path in flatten_dict(tree)]
    trained = select(settings.trained, names, "freeze.trained")
    frozen = select(settings.frozen, names, "freeze.frozen")
    if not trained and not frozen:
        # Heads of scores and values are small, and newly initialized when a stage starts.
        trained = {n for n in names if n[-1] == "head"} if adapters.rank else set(names)
        frozen = set(names) - trained
    elif not trained:
        trained = set(names) - frozen
    elif not frozen:
        frozen = set(names) - trained
    for name in names:
        if (name in trained) == (name in frozen):
            both = "both freeze.trained and" if name in trained else "neither freeze.trained nor"
            raise ConfigError(
                f"{path_text(name)} matches {both} freeze.frozen; with both given, every parameter "
                "has to match one of them. Change a pattern, or give one of the two alone"
            )
    if settings.dtype != "float32" and not frozen:
        raise ConfigError(
            f"freeze.dtype={settings.dtype} applies to frozen weights, and there are none; set "
            "--config.lora.rank or --config.freeze.frozen"
        )
    adapted = set()
    if adapters.rank:
        adaptable = [n for n in names if weights.is_adaptable(n[-1])]
        adapted = select(adapters.targets, adaptable, "lora.targets")
        for name in sorted(adapted & trained):
            raise ConfigError(
                f"lora.targets adapts {path_text(name)}, which is trained itself; leave it out of "
                "lora.targets, or freeze it with --config.freeze.frozen"
            )
    parts = {}
    for role in models:
        own_frozen = frozenset(n[1:] for n in frozen if n[0] == role)
        own_adapted = frozenset(n[1:] for n in adapted if n[0] == role)
        if not own_adapted and not any(n[0] == role for n in trained):
            raise ConfigError(
                f"nothing of the {role} is trained: all of its weights are frozen and it has no "
                "adapter. Set --config.lora.rank, or train a part with --config.freeze.trained"
            )
        parts[role] = Partition(own_frozen, own_adapted, adapters, settings.dtype)
    return parts


def joined(stage: Stage, parts: Mapping[str, Partition]) -> Stage:
    """A stage whose functions take the trained parts and pass whole models on to `stage`."""
    if not any(p.frozen for p in parts.values()):
        return stage
    join = functools.partial(join_models, parts)

    def on_whole_models(function):
        return lambda trainable, frozen, batch: function(join(trainable, frozen), frozen, batch)

    return stage._replace(
        loss=on_whole_models(stage.loss),
        source=JoinedSource(stage.source, join),
        first_pass=stage.first_pass and on_whole_models(stage.first_pass),
    )


def joined_evaluation(evaluate: Evaluation, parts: Mapping[str, Partition]) -> Evaluation:
    """An evaluation that takes the trained parts and passes whole models on to `evaluate`."""
    if not any(p.frozen for p in parts.values()):
        return evaluate
    return lambda trainable, frozen: evaluate(join_models(parts, trainable, frozen), frozen)


def join_models(
    parts: Mapping[str, Partition], trainable: Mapping[str, Any], frozen: Mapping[str, Any]
) -> dict[str, dict]:
    """{role: whole parameters} of the trained models."""
    return {r: p.whole(trainable[r], frozen.get(r, {})) for r, p in parts.items()}


class JoinedSource:
    """A batch source that takes a state with the trained parts and passes whole models on."""

    def __init__(self, source: Source, join: Callable[[Mapping, Mapping], dict]):
        self._source, self._join = source, join
        self.init, self.rollouts, self.progress = source.init, source.rollouts, source.progress
        self.place, self.origins, self.past = source.place, source.origins, source.past
        self.examples, self.batch_shapes = source.examples, source.batch_shapes

    def next(
        self, state: TrainState, frozen: Mapping[str, Any], s: Any, step: int
    ) -> tuple[dict, Any, dict]:
        whole = state._replace(trainable=self._join(state.trainable, frozen))
        return self._source.next(whole, frozen, s, step)
