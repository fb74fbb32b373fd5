"""Optimizers and learning-rate schedules, gradient clipping, decay masks; one optimizer per trained
model.

An optimizer is one function and its row in OPTIMIZERS, a schedule one in SCHEDULES; the settings
that a row brings become fields of `config.optimizer` and `config.value_optimizer`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from optax.contrib import MuonDimensionNumbers

import ranges
import registry
from model import weights
from ranges import CountOr0, NonNegative, Range, Share
from registry import Registry
from train.config.patterns import select

# The most numbers that a counter or a coefficient in an optimizer's state has.
FEW = 64
# The least length of a table of learning rates.
_LEAST_TABLE = 4096

# (OptimizerConfig, learning rate[, settings]) -> the transforms that follow the clipping
OPTIMIZERS: Registry[Callable] = Registry("optimizer", "optimizer.name")
Transforms = Sequence[optax.GradientTransformation]
# (OptimizerConfig, steps of warm-up, all steps[, settings]) -> the learning rate as a function of
# the steps since the warm-up
SCHEDULES: Registry[Callable] = Registry("schedule", "optimizer.schedule")


@registry.open_to(lambda: registry.merged(OPTIMIZERS.fields(), SCHEDULES.fields()))
@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer and its learning rate.

    Attributes:
      name: a row of OPTIMIZERS. peak_lr: learning rate after warm-up; 0 freezes.
      schedule: after `warmup_steps` of linear warm-up, a row of SCHEDULES: `cosine` to
        `final_fraction` of the peak, `wsd` (constant, then linear decay over the last
        `decay_fraction`), or `constant`.
      cycles: {step: peak} of further cycles: from each step on the schedule begins again, for the
        steps until the next cycle or the end, with `warmup_steps` from the learning rate that was
        reached to that peak (warm restarts; Loshchilov & Hutter 2016, arXiv:1608.03983).
      ns_steps: Newton-Schulz iterations of Muon; five bring every singular value near 1, three cost
        less and bring the large ones there.
      momentum: Muon's, with Nesterov's look-ahead.
      b1, b2, eps, weight_decay: AdamW's; weight matrices decay, norms and biases do not.
      clip_norm: largest global gradient norm; 0 disables clipping.
      lr_multipliers: {patterns: factor of the learning rate, and thus of the decay per step} of the
        weights that match (train/config/patterns.py); factors of several patterns multiply. A
        pattern may also be a group of model/weights.py: `embedding`, `hidden`, `output`, `vector`.
        Those of μP come with `model.parametrization=mup`.
      state_dtype: storage dtype of moments between steps, `float32` or `bfloat16`. Updates are
        computed in float32 either way.
      ema: decay per step of an exponential moving average of the weights, as 0.999, which is
        evaluated beside them and saved with them; 0 keeps none.
    """

    name: str = "adamw"
    peak_lr: Annotated[float, Range(0, 10)] = 1e-3
    schedule: str = "cosine"
    warmup_steps: CountOr0 = 20
    final_fraction: Share = 0.1
    decay_fraction: Share = 0.2
    cycles: Mapping[str, Annotated[float, Range(0, 10)]] = dataclasses.field(default_factory=dict)
    ns_steps: Annotated[int, Range(1, 100)] = 5
    momentum: Annotated[float, Range(0, 1, "[)")] = 0.95
    b1: Annotated[float, Range(0, 1, "[)")] = 0.9
    b2: Annotated[float, Range(0, 1, "[)")] = 0.95
    eps: Annotated[float, Range(1e-30, 1)] = 1e-8
    weight_decay: Annotated[float, Range(0, 10)] = 0.1
    clip_norm: NonNegative = 1.0
    lr_multipliers: Mapping[str, Annotated[float, Range(0, 1e6)]] = dataclasses.field(
        default_factory=dict
    )
    state_dtype: str = "float32"
    ema: Annotated[float, Range(0, 1, "[)")] = 0.0

    def __post_init__(self):
        ranges.check(self, "optimizer.")
        for rows, name in ((OPTIMIZERS, self.name), (SCHEDULES, self.schedule)):
            rows.find(name)
            rows.arguments(name, self)
        if self.state_dtype not in ("float32", "bfloat16"):
            raise ValueError(
                f"optimizer.state_dtype={self.state_dtype!r:.80}; choose float32 or bfloat16"
            )
        slow = {"b2": self.b2} | ({"momentum": self.momentum} if self.name == "muon" else {})
        for name, rate in slow.items():
            if self.state_dtype == "bfloat16" and 1 - rate < 2**-7:
                raise ValueError(
                    f"optimizer.{name}={rate} moves a {'second ' * (name == 'b2')}moment by less "
                    "than bfloat16 resolves (1/128); lower it to 0.99, or keep "
                    "optimizer.state_dtype=float32"
                )
        ranges.check_steps("optimizer.cycles", self.cycles)
        if (peak := max([self.peak_lr, *self.cycles.values()])) * self.weight_decay >= 1:
            name = "peak_lr" if peak == self.peak_lr else "cycles"
            raise ValueError(
                f"optimizer.{name}={peak} times optimizer.weight_decay={self.weight_decay}"
                " is 1 or more: one step's decay would flip every weight's sign; lower one of them"
            )


@SCHEDULES.register("cosine")
def cosine(c: OptimizerConfig, warmup: int, steps: int) -> optax.Schedule:
    """Cosine decay to `final_fraction` of the peak."""
    return optax.cosine_decay_schedule(c.peak_lr, max(steps - warmup, 1), c.final_fraction)


@SCHEDULES.register("wsd")
def wsd(c: OptimizerConfig, warmup: int, steps: int) -> optax.Schedule:
    """Warm-up, stable, decay: the peak, then linear to `final_fraction` of it over the last
    `decay_fraction` of all steps."""
    decay = max(int(steps * c.decay_fraction), 1)
    stable = max(steps - decay - warmup, 0)
    down = optax.linear_schedule(c.peak_lr, c.peak_lr * c.final_fraction, decay)
    return optax.join_schedules([optax.constant_schedule(c.peak_lr), down], [stable])


@SCHEDULES.register("constant")
def constant(c: OptimizerConfig, warmup: int, steps: int) -> optax.Schedule:
    """A constant learning rate, the peak."""
    del warmup, steps
    return optax.constant_schedule(c.peak_lr)


def make_schedule(c: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate as a function of the step, over `steps` optimizer steps: linear warm-up,
    then `c.schedule`, in each of its cycles."""
    peaks = {int(step): peak for step, peak in c.cycles.items() if int(step) < steps}
    starts = sorted(peaks)
    first, *lengths = (end - start for start, end in zip([0, *starts], [*starts, steps]))
    cycles = [_cycle(c, first)]
    for start, length, before in zip(starts, lengths, [first, *lengths]):
        with jax.ensure_compile_time_eval():
            reached = float(cycles[-1](before))
        cycles.append(_cycle(dataclasses.replace(c, peak_lr=peaks[start]), length, reached))
    return optax.join_schedules(cycles, starts) if starts else cycles[0]


def _cycle(c: OptimizerConfig, steps: int, reached: float = 0.0) -> optax.Schedule:
    """The schedule of one cycle of `steps` steps, after a learning rate of `reached`."""
    warmup = min(c.warmup_steps, steps)
    first = reached + (c.peak_lr - reached) / max(warmup, 1)
    ramp = optax.linear_schedule(first, c.peak_lr, max(warmup - 1, 1))
    after = SCHEDULES[c.schedule](c, warmup, steps, **SCHEDULES.arguments(c.schedule, c))
    return optax.join_schedules([ramp, after], [warmup])


def decay_mask(params: Any) -> Any:
    """Mask of the weights that decay, by the table of model/weights.py. An adapter, or a weight
    that is not in the table, decays if it is a matrix."""

    def decays(path, leaf):
        row = weights.row(path[-1].key)
        return row.decays if row else leaf.ndim > 1

    return jax.tree_util.tree_map_with_path(decays, params)


def muon_dimensions(params: Any) -> Any:
    """Input and output axes of the weights that Muon updates; None for those that AdamW updates."""

    def dimensions(path, _):
        row = weights.row(path[-1].key)
        if not row or not row.muon:
            return None
        first, last = row.stacked, row.stacked + row.inputs
        rank = len(row.shape.split()) + (row.part == "layers")
        return MuonDimensionNumbers(tuple(range(first, last)), tuple(range(last, rank)))

    return jax.tree_util.tree_map_with_path(dimensions, params)


@OPTIMIZERS.register("adamw")
def adamw(c: OptimizerConfig, rate: optax.Schedule) -> Transforms:
    """AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101)."""
    return [optax.adamw(rate, c.b1, c.b2, c.eps, weight_decay=c.weight_decay, mask=decay_mask)]


@OPTIMIZERS.register("adafactor")
def adafactor(c: OptimizerConfig, rate: optax.Schedule) -> Transforms:
    """Adafactor, with a factored second moment, a row and a column per matrix (Shazeer & Stern
    2018, arXiv:1804.04235), without momentum, and with AdamW's learning rates and decay instead of
    rates relative to the parameters."""
    return [
        optax.scale_by_factored_rms(),
        optax.clip_by_block_rms(1.0),
        optax.add_decayed_weights(c.weight_decay, decay_mask),
        optax.scale_by_learning_rate(rate),
    ]


@OPTIMIZERS.register("muon")
def muon(c: OptimizerConfig, rate: optax.Schedule) -> Transforms:
    """Muon for the weight matrices of the layers (https://kellerjordan.github.io/posts/muon/),
    scaled so that AdamW's learning rates fit it (Liu et al. 2025, arXiv:2502.16982); AdamW for all
    other weights."""
    return [
        optax.contrib.muon(
            rate,
            ns_steps=c.ns_steps,
            beta=c.momentum,
            eps=c.eps,
            weight_decay=c.weight_decay,
            weight_decay_mask=decay_mask,
            adam_b1=c.b1,
            adam_b2=c.b2,
            adam_weight_decay=c.weight_decay,
            muon_weight_dimension_numbers=muon_dimensions,
            consistent_rms=0.2,
        )
    ]


def table_length(steps: int) -> int:
    """The length of a table of learning rates: a power of two, so that the number of steps seldom
    changes it, and with it the compiled program."""
    return max(_LEAST_TABLE, 1 << (steps - 1).bit_length())


def rate_tables(configs: Mapping[str, OptimizerConfig], steps: int) -> dict[str, jax.Array]:
    """{role: the learning rate of every update, float32}, an argument of the step: runs that differ
    in it alone share a compiled program."""
    counts = jnp.minimum(jnp.arange(table_length(steps)), steps - 1)
    return {
        role: jax.jit(jax.vmap(make_schedule(c, steps)))(counts).astype(jnp.float32)
        for role, c in configs.items()
    }


def _looked_up(table: jax.Array) -> optax.Schedule:
    """The schedule of a table of `rate_tables`."""
    return lambda count: table[jnp.minimum(count, table.shape[0] - 1)]


def one_model(
    c: OptimizerConfig, steps: int, table: jax.Array | None = None
) -> optax.GradientTransformation:
    """The optimizer of one model's parameters: clipping, then the update rule `c.name`.

    Args:
      table: of learning rates, of `rate_tables`; by default they are constants of the program.
    """
    parts = [optax.clip_by_global_norm(c.clip_norm)] if c.clip_norm else []
    rate = make_schedule(c, steps) if table is None else _looked_up(table)
    parts += OPTIMIZERS[c.name](c, rate, **OPTIMIZERS.arguments(c.name, c))
    tx = optax.chain(*parts)
    if c.lr_multipliers:
        tx = _multiply_rates(tx, c.lr_multipliers)
    return tx if c.state_dtype == "float32" else _store_state_as(tx, jnp.dtype(c.state_dtype))


def rate_factors(multipliers: Mapping[str, float], tree: Any) -> dict[tuple[str, ...], float]:
    """{path: factor of the learning rate} of the weights of a tree.

    Raises:
      ConfigError: a pattern matches no weight.
    """
    paths = [tuple(k.key for k in path) for path, _ in jax.tree.leaves_with_path(tree)]
    groups = {path: weights.group(path[-1]) for path in paths}
    out = dict.fromkeys(paths, 1.0)
    for patterns, multiplier in multipliers.items():
        for path in select(patterns, paths, "optimizer.lr_multipliers", groups):
            out[path] *= multiplier
    return out


def _multiply_rates(tx, multipliers: Mapping[str, float]) -> optax.GradientTransformation:
    """`tx` with the updates of the weights that patterns match multiplied; the state is unchanged.

    Raises:
      ConfigError: at `init`, if a pattern matches no weight.
    """

    def init(params):
        rate_factors(multipliers, params)
        return tx.init(params)

    def update(updates, state, params=None):
        updates, state = tx.update(updates, state, params)
        by_path = rate_factors(multipliers, updates)

        def scale(path, update):
            factor = by_path[tuple(k.key for k in path)]
            return update if factor == 1 else update * factor

        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformation(init, update)


def _store_state_as(tx, dtype) -> optax.GradientTransformation:
    """`tx` with its moments rounded to `dtype` between steps; coefficients are unchanged."""

    def cast(state, to):
        def cast_leaf(x):
            return x.astype(to) if x.size > FEW and x.dtype in (jnp.float32, dtype) else x

        return jax.tree.map(cast_leaf, state)

    def update(updates, state, params=None):
        updates, state = tx.update(updates, cast(state, jnp.float32), params)
        return updates, cast(state, dtype)

    return optax.GradientTransformation(lambda params: cast(tx.init(params), dtype), update)


def make_optimizer(
    configs: Mapping[str, OptimizerConfig], steps: int
) -> optax.GradientTransformationExtraArgs:
    """One optimizer for each trained model; the top level of the parameters is the model's role.

    `update` has an argument `rates`, of `rate_tables`; without it the learning rates are constants
    of the program.
    """

    def labels(params):
        return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key, params)

    def build(rates: Mapping[str, jax.Array]) -> optax.GradientTransformation:
        parts = {name: one_model(c, steps, rates.get(name)) for name, c in configs.items()}
        return optax.partition(parts, labels)

    def update(updates, state, params=None, *, rates: Mapping[str, jax.Array] | None = None):
        return build(rates or {}).update(updates, state, params)

    return optax.GradientTransformationExtraArgs(build({}).init, update)


def learning_rates(
    rates: Mapping[str, jax.Array],
) -> Callable[[Any], dict[str, float]]:
    """The function (optimizer state after an update) -> {role: the learning rate of the update}.

    The state counts the updates that were applied. A role whose optimizer counts none is left out.

    Args:
      rates: of `rate_tables`.
    """
    tables = {role: np.asarray(table) for role, table in rates.items()}

    @functools.cache
    def place(treedef) -> int | None:
        """The place of the count among a state's leaves, for which optax searches the tree in
        milliseconds."""
        places = treedef.unflatten(range(treedef.num_leaves))
        counts = optax.tree_utils.tree_get_all_with_path(places, "count")
        return counts[0][1] if counts else None

    def last_rates(opt_state) -> dict[str, float]:
        out = {}
        for role, state in opt_state.inner_states.items():
            leaves, treedef = jax.tree.flatten(state)
            if (index := place(treedef)) is not None:
                out[role] = float(tables[role][max(int(leaves[index]) - 1, 0)])
        return out

    return last_rates


def global_norm(tree: Any) -> jax.Array:
    """The Euclidean norm over all leaves, accumulated in float32."""
    return optax.tree.norm(jax.tree.map(lambda x: x.astype(jnp.float32), tree))
