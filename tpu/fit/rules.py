"""Memory of a device by rule, and the settings that follow from it: mesh, microbatches and remat.

Compiling a step takes minutes; this takes a second or two. The state is exact; what a policy of
rematerialization saves is read from the table of weights (model/weights.py); the rest is a rule
whose constants are from the compiled steps of docs/memory.json. tests/tpu/fit/test_rules.py
compares it with the compiler's peak of every recipe in docs/recipes.json.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ranges import ConfigError
from tpu.fit.abstract import GIB, AbstractRun, assemble, gib, validate

if TYPE_CHECKING:  # JAX is imported after the environment is set
    import jax

    from model.config import TransformerConfig
    from train.config.run import RunConfig

# Share of a device's memory that the rule may plan for: it is within a tenth of the compiler.
USABLE = 0.9
TENSOR = (1, 2, 4, 8)
REMAT = ("none", "minimal", "matmuls", "qkv", "projections", "full")
# Bytes of a logit and its gradient at the peak, as the programs of docs/recipes.json fit it. In
# parts (`loss.chunk`) float32 and once in bfloat16; whole, multiples of the activations' bytes, as
# the backward pass writes most of the gradient over what the forward pass kept.
_LOGIT_BYTES_IN_PARTS = 6
_WHOLE_LOGIT = 1.5
# Features that a layer computes besides what `minimal` saves, all of which are alive in its
# backward pass, as multiples of F and D; of a mixture, `_MIXTURE` times as many for each row.
_FULL_LAYER = (4, 9)
_MIXTURE = 1.125


class Settings(NamedTuple):
    """The execution of a run on some devices.

    Attributes:
      mesh: {axis: size}. accumulate: microbatches a step. decode_tensor: of rollouts.
      peak: GiB of a device by the rule; None where the memory of a device is unknown.
    """

    mesh: dict[str, int]
    accumulate: int
    remat: str
    decode_tensor: int
    peak: float | None

    def values(self) -> dict[str, Any]:
        """{setting of a run: value}."""
        mesh = {f"mesh.{axis}": size for axis, size in self.mesh.items()}
        others = (self.accumulate, self.remat, self.decode_tensor)
        return mesh | dict(
            zip(("accumulate", "model.remat", "rl.decode_tensor"), others, strict=True)
        )

    def __str__(self) -> str:
        mesh = " × ".join(f"{axis} {size}" for axis, size in self.mesh.items() if size > 1)
        count = "1 microbatch" if self.accumulate == 1 else f"{self.accumulate} microbatches"
        peak = "" if self.peak is None else f", about {self.peak:.3g} GiB a device"
        return f"mesh {mesh or 'one device'}, {count}, remat {self.remat}{peak}"


def derive(
    config: RunConfig,
    devices: int,
    slices: int = 1,
    hbm: float | None = None,
    models: Mapping[str, TransformerConfig] | int = 0,
    typed: Collection[str] = (),
) -> Settings:
    """The settings with which a run fits some devices; batch and rows stay.

    The rule: `mesh.data` joins the slices, `expert` and `sequence` stay, `fsdp` takes the rest; the
    smallest `tensor` whose shards divide the rows, then the fewest microbatches, then the least
    recomputation with which a device needs at most `USABLE` of its memory.

    Args:
      hbm: GiB of a device; None: unknown, microbatches and remat stay if they can.
      models: see `abstract.assemble`.
      typed: settings that stay as they are, such as `mesh.tensor`.

    Raises:
      ConfigError, ShardingError: none does; the message says what is missing.
    """
    reason, least = "", math.inf
    architecture: Any = config.model  # its class is created at run time (train/config/model.py)
    for mesh in _meshes(config, devices, slices, typed):
        run, counts = None, _microbatches(config, mesh, hbm, typed)
        if not counts:
            reason = reason or (
                f"its {devices} devices are {_shards(mesh)} shards of a batch (data × fsdp × "
                f"expert), which do not divide its {config.data.batch_size} rows "
                f"(data.batch_size), and no mesh.tensor of {', '.join(map(str, TENSOR))} makes "
                "fewer that do"
            )
        for accumulate in counts:
            changed = dataclasses.replace(
                config,
                accumulate=accumulate,
                rl=dataclasses.replace(config.rl, decode_tensor=_decode(config, mesh, typed)),
            )
            try:
                validate(changed, abstract_mesh(mesh))
                run = run or assemble(changed, abstract_mesh(mesh), models)
            except ValueError as error:  # heads or rows that this mesh does not divide
                reason = reason or str(error)
                continue
            keeps = hbm is None or "model.remat" in typed
            for remat in (architecture.remat,) if keeps else REMAT:
                peak = None if hbm is None else peak_gib(run, mesh, accumulate, remat)
                if peak is None or peak <= USABLE * (hbm or 0):
                    decode = changed.rl.decode_tensor
                    return Settings(mesh, accumulate, remat, decode, peak)
                least = min(least, peak)
    if math.isfinite(least):
        raise ConfigError(
            f"it needs about {least:.1f} GiB a device, and {USABLE:.0%} of {hbm:g} are to be had "
            "(tpu.fit compiles it); name more chips, or set --config.loss.chunk=512"
        )
    raise ConfigError(reason)


def _meshes(
    config: RunConfig, devices: int, slices: int, typed: Collection[str]
) -> list[dict[str, int]]:
    """The meshes to try, {axis: size}. Raises ShardingError if there is none."""
    from model.sharding import MESH_AXES, ShardingError

    sizes = {axis: getattr(config.mesh, axis) for axis in MESH_AXES}
    kept = {axis for axis in sizes if f"mesh.{axis}" in typed} | {"expert", "sequence"}
    given = {"data": slices, "fsdp": -1} | {axis: sizes[axis] for axis in kept}
    if given["data"] == -1:
        given["fsdp"] = max(sizes["fsdp"], 1)
    meshes, error = [], None
    for tensor in (sizes["tensor"],) if "tensor" in kept else TENSOR:
        mesh = dataclasses.replace(config.mesh, **(given | {"tensor": tensor}))
        try:
            meshes.append(dict(zip(MESH_AXES, mesh.shape(devices), strict=True)))
        except ShardingError as e:
            error = error or e
    if not meshes and error:
        raise error
    return meshes


def abstract_mesh(mesh: Mapping[str, int]) -> jax.sharding.AbstractMesh:
    """The mesh of some sizes, without devices."""
    from jax.sharding import AbstractMesh, AxisType

    return AbstractMesh(tuple(mesh.values()), tuple(mesh), (AxisType.Auto,) * len(mesh))


def _shards(mesh: Mapping[str, int]) -> int:
    from model.sharding import BATCH_AXES

    return math.prod(mesh[axis] for axis in BATCH_AXES)


def _microbatches(
    config: RunConfig, mesh: Mapping[str, int], hbm: float | None, typed: Collection[str]
) -> list[int]:
    """Numbers of microbatches whose rows the mesh divides, the fewest first."""
    rows, shards = config.data.batch_size, _shards(mesh)
    if "accumulate" in typed:
        return [config.accumulate]
    counts = [n for n in range(1, rows // shards + 1) if rows % (n * shards) == 0]
    if hbm is None and config.accumulate in counts:
        return [config.accumulate]
    return counts


def _decode(config: RunConfig, mesh: Mapping[str, int], typed: Collection[str]) -> int:
    """`rl.decode_tensor`, halved until `fsdp` is a multiple of it."""
    times = config.rl.decode_tensor
    if "rl.decode_tensor" in typed:
        return times
    if mesh["expert"] * mesh["sequence"] > 1:
        return 1
    while mesh["fsdp"] % times:
        times = times // 2 if times % 2 == 0 else 1
    return times


def peak_gib(run: AbstractRun, mesh: Mapping[str, int], accumulate: int, remat: str) -> float:
    """GiB of a device at the peak of a step, or of a rollout."""
    config, shards = run.config, _shards(mesh)
    state = run.state
    resident = gib((state.trainable, state.opt_state, state.ema, run.frozen))
    gradients = gib(state.trainable) * (1 if accumulate == 1 else 2)  # a microbatch's, and the sum
    rows = config.data.batch_size / accumulate / shards
    tokens = rows * _row_tokens(run) / mesh["sequence"]
    saved = transient = gathered = 0.0
    for role in state.trainable:
        model = run.models[role]
        per_token = _saved_features(model, remat, mesh["tensor"]) * model.num_layers
        saved += tokens * per_token * _bytes(model)
        vocabulary = model.padded_vocab_size / mesh["tensor"] if role == "policy" else 0
        length, chunk = tokens / rows, config.loss.chunk or math.inf
        positions, whole = min(chunk, length) * rows, chunk >= length
        logit = _WHOLE_LOGIT * _bytes(model) if whole else _LOGIT_BYTES_IN_PARTS
        layer = tokens * _layer_features(model, mesh) * _bytes(model)
        transient = max(transient, positions * vocabulary * logit, layer)
        gathered = max(gathered, _gathered_bytes(model, mesh, vocabulary))
    step = resident + gradients + (saved + transient + gathered) / GIB
    return max(step, resident + _decoding_gib(run, mesh)) if run.objective.rollouts else step


def _bytes(model: TransformerConfig) -> int:
    """Bytes of an activation."""
    return 2 if model.dtype == "bfloat16" else 4


def _row_tokens(run: AbstractRun) -> int:
    """Tokens in a row of the batch."""
    from train.runtime.flops import row_length

    several = run.config.data.sub_rows if run.objective.schema == "preference" else 1
    return row_length(run.config) * several


def _saved_features(model: TransformerConfig, remat: str, tensor: int) -> float:
    """Features of a layer that are saved for each token: its input, the products that the table
    of weights names for a policy, and with `qkv` and `minimal` also attention's result."""
    from model import weights

    if remat in ("full", "offload"):  # `offload` saves them in the host's memory
        return model.embed_dim if remat == "full" else 0
    if remat == "none":
        return _saved_features(model, "minimal", tensor) + _mlp_features(model, tensor)
    names = weights.saved_outputs(remat)
    features = model.embed_dim
    if remat not in ("matmuls", "projections"):
        features += model.num_heads * model.head_dim / tensor
    for weight in weights.rows(model, "layers"):
        if (weight.output or weight.name) in names and weight.inputs:
            _, outputs = weights.inner_axes(weight, model)
            sizes = weights.shape(weight, model)[-len(outputs) :]
            times = model.experts_per_token if weight.stacked == 2 else 1
            split = 1 if outputs == ("embed",) else tensor
            features += math.prod(sizes) * times / split
    return features


def _mlp_features(model: TransformerConfig, tensor: int) -> float:
    wide, narrow = _FULL_LAYER
    experts = max(model.experts_per_token, 1)
    return experts * wide * model.mlp_dim / tensor + narrow * model.embed_dim


def _layer_features(model: TransformerConfig, mesh: Mapping[str, int]) -> float:
    """Features of a layer that are alive for each token in its backward pass. Of a mixture a device
    holds rows for the tokens of all shards of `expert` (model/layers/moe.py)."""
    features = _mlp_features(model, mesh["tensor"])
    if not model.num_experts:
        return features
    k, here = model.experts_per_token, model.num_experts // mesh["expert"]
    return features * _MIXTURE * mesh["expert"] * min(k, here) / k


def _gathered_bytes(model: TransformerConfig, mesh: Mapping[str, int], vocabulary: float) -> float:
    """Bytes of the weights of a layer and of the vocabulary's table, gathered from `fsdp`; of a
    table that is read at both ends twice."""
    from model import weights

    if mesh["fsdp"] * mesh["sequence"] == 1:
        return 0.0
    layer = sum(
        math.prod(weights.shape(weight, model)) / (mesh["expert"] if weight.stacked == 2 else 1)
        for weight in weights.rows(model, "layers")
    )
    table = vocabulary * model.embed_dim * (2 if model.tie_embeddings else 1)
    return (layer / mesh["tensor"] + table) * _bytes(model)


def _decoding_gib(run: AbstractRun, mesh: Mapping[str, int]) -> float:
    """GiB of the policy's weights for decoding, if they are resharded, and of the cache of keys and
    values."""
    rl, model = run.config.rl, run.models["policy"]
    times = rl.decode_tensor
    weights = 0.0
    if times > 1:
        import jax

        count = sum(math.prod(x.shape) for x in jax.tree.leaves(run.whole["policy"]))
        weights = count * _bytes(model) / (mesh["tensor"] * times * mesh["expert"])
    rows = rl.answers_at_once
    if 0 < rl.slots < rows:
        from model.decoding.refill import PARTS

        rows = rl.slots * (1 + 1 / PARTS)
    rows /= _shards(mesh) / times
    length = rl.prompt_length + rl.response_length
    per_token = 2 * model.num_kv_heads * model.head_dim * model.num_layers
    per_token *= 1 if rl.int8_cache else _bytes(model)
    return (weights + rows * length * per_token / (mesh["tensor"] * times)) / GIB
