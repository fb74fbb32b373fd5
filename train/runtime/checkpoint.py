"""Checkpoints: the whole `TrainState`, with one Orbax item per trained model, so that a later stage
reads only the model that it starts from.

A workdir holds `checkpoints/<step>/{<role>…, opt_state, source, meta}` and `models.json`, the
architecture of each role. Where weights are frozen, a role's item holds only the trained ones, and
`parts.json` names the origin of the frozen ones; loading joins both.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from data.atomic import write_atomically
from data.read import json_files
from model.config import TransformerConfig
from model.heads import ValueHead, reward_model, value_model
from model.lora import LoRA
from model.quantized import DTYPES
from model.sharding import MeshConfig, make_mesh, parameter_shardings
from model.transformer import Transformer
from ranges import ConfigError
from train.runtime import outputs
from train.runtime.finite import require_finite
from train.step import TrainState
from train.terminal.progress import phase
from train.trainable import Partition

# {role: its network}
NETWORKS: dict[str, Callable] = {
    "policy": Transformer,
    "reference": Transformer,
    "value": value_model,
    "value_head": ValueHead,
    "reward": reward_model,
    "judge": reward_model,
}
Models = Annotated[dict[str, dict], msgspec.Meta(min_length=1)]


Origin = TypedDict("Origin", {"from": str, "role": str, "fingerprint": str})


class PartitionRecord(TypedDict):
    """The entry of parts.json for a model with frozen weights (`save_parts`)."""

    origin: Origin
    frozen: list[str]
    adapted: list[str]
    lora: dict
    dtype: Annotated[str, msgspec.Meta(pattern=f"^({'|'.join(DTYPES)})$")]


# {role: the item of a checkpoint that holds its weights}, where it is not the role's own.
ITEM_OF = {"reference": "policy", "judge": "reward"}


def init_params(role: str, config: TransformerConfig, key: jax.Array) -> Any:
    """Fresh parameters of a role's network, boxed with their logical axes."""
    tokens, hidden = jnp.zeros((1, 2), jnp.int32), jnp.zeros((1, config.embed_dim))
    inputs = hidden if role == "value_head" else tokens
    return NETWORKS[role](config).init(key, inputs)["params"]


def abstract_params(role: str, config: TransformerConfig, mesh: jax.sharding.Mesh) -> Any:
    """A tree of `jax.ShapeDtypeStruct` with the shardings of a role's parameters."""
    boxed = jax.eval_shape(lambda key: init_params(role, config, key), jax.random.key(0))
    return with_shardings(nn.unbox(boxed), parameter_shardings(boxed, mesh))


def with_shardings(abstract: Any, shardings: Any) -> Any:
    """A tree of `jax.ShapeDtypeStruct` with a tree of shardings."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
    )


@jax.jit
def _checksums(tree):
    def checksum(x):
        bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32).reshape(-1)
        factors = jnp.arange(bits.size, dtype=jnp.uint32) * jnp.uint32(2654435761) | 1
        return jnp.sum((bits ^ (bits >> 15)) * factors, dtype=jnp.uint32)

    return jax.tree.map(checksum, tree)


def fingerprint(tree: Any) -> str:
    """A checksum of parameters, eight hex digits: independent of the mesh, sensitive to any bit."""
    return fold(checksums(tree))


def checksums(tree: Any) -> list[jax.Array]:
    """One checksum per parameter, in the order of the tree."""
    return jax.tree.leaves(_checksums(tree))


def fold(sums: Iterable[Any]) -> str:
    """The `fingerprint` of parameters with these `checksums`."""
    total = 0
    for value in sums:
        total = (total * 1_000_003 + int(value)) % 2**32
    return f"{total:08x}"


class Checkpointer:
    """Saves and restores one workdir's `TrainState`s."""

    def __init__(self, workdir: epath.PathLike, keep: int):
        self._directory = epath.Path(workdir) / "checkpoints"
        outputs.make_folder(self._directory)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(self._directory.resolve(), options=options)

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, meta: dict) -> None:
        """Starts to save, while training continues. `meta` is JSON, saved with the arrays."""
        items = {name: ocp.args.StandardSave(tree) for name, tree in state.trainable.items()}
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                **items,
                opt_state=ocp.args.StandardSave(state.opt_state),
                source=ocp.args.StandardSave(state.source),
                meta=ocp.args.JsonSave(meta | {"skipped": int(state.skipped)}),
            ),
            force=True,  # asking Orbax whether to save would advance the preemption service's count
        )

    def meta(self, step: int) -> dict:
        """The `meta` that was saved at `step`."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args).meta

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """The state saved at `step`, with the shardings of `abstract`."""
        items = {name: ocp.args.StandardRestore(t) for name, t in abstract.trainable.items()}
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                **items,
                opt_state=ocp.args.StandardRestore(abstract.opt_state),
                source=ocp.args.StandardRestore(abstract.source),
            ),
        )
        trainable = {name: restored[name] for name in abstract.trainable}
        arrays = {**trainable, "opt_state": restored.opt_state}
        require_finite(arrays, f"{self._directory}/{step}", "weights or optimizer state")
        counts = (jnp.asarray(n, jnp.int32) for n in (step, self.meta(step).get("skipped", 0)))
        step_array, skipped = counts
        return TrainState(step_array, trainable, restored.opt_state, restored.source, skipped)

    def wait(self) -> None:
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()


def save_models(workdir: epath.PathLike, models: dict[str, TransformerConfig]) -> None:
    """Writes the architectures of the roles that a run trains, which `read_models` reads."""
    settings = {role: dataclasses.asdict(config) for role, config in models.items()}
    write_atomically(epath.Path(workdir) / "models.json", json.dumps(settings, indent=2) + "\n")


def model_config(workdir: epath.PathLike, role: str, **execution: Any) -> TransformerConfig:
    """The architecture of a role in a workdir, with other execution settings if given.

    Raises:
      ConfigError: no such workdir, or it trained no such role.
    """
    item, models = ITEM_OF.get(role, role), read_models(workdir)
    if item not in models:
        raise ConfigError(
            f"init_from.{role}={workdir}: that run trained {', '.join(models)}, not a {item} model"
        )
    return _settings(TransformerConfig, models[item] | execution, f"{workdir}/models.json: {item}")


def _settings(cls, given: dict, label: str):
    """A dataclass of the settings `given` in a workdir's file, which errors call `label`.

    Raises:
      ConfigError: one is unknown, or out of its range.
    """
    known = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(given.keys() - known):
        raise ConfigError(
            f"{label} has a setting {unknown[0]!r:.80}, which this version of Seedpod does not "
            "know; a later one may have written it"
        )
    try:
        return cls(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{label}: {error}") from None


def read_models(workdir: epath.PathLike) -> dict[str, dict]:
    """{role: settings of its architecture} of the models that a run trained.

    Raises:
      ConfigError: this is not a workdir. DataError: models.json is damaged.
    """
    path = epath.Path(workdir) / "models.json"
    if not path.exists():
        exists = path.parent.exists()
        reason = "is not a Seedpod workdir: it has no models.json" if exists else "does not exist"
        raise ConfigError(f"{workdir} {reason}")
    return json_files.read(path, Models)


def save_parts(
    workdir: epath.PathLike, parts: dict[str, Partition], origins: Mapping[str, Origin]
) -> None:
    """Writes the partitions of the models with frozen weights, and the origins of those weights."""
    records = {
        role: {
            "origin": origins[role],
            "frozen": sorted("/".join(p) for p in part.frozen),
            "adapted": sorted("/".join(p) for p in part.adapted),
            "lora": dataclasses.asdict(part.lora),
            "dtype": part.dtype,
        }
        for role, part in parts.items()
        if part.frozen
    }
    if records:
        write_atomically(epath.Path(workdir) / "parts.json", json.dumps(records, indent=2) + "\n")


def read_parts(workdir: epath.PathLike, item: str) -> tuple[Partition, Origin] | None:
    """(Partition, origin) of a model with frozen weights; None for one without."""
    path = epath.Path(workdir) / "parts.json"
    records = json_files.read(path, dict[str, PartitionRecord]) if path.exists() else {}
    if item not in records:
        return None
    record = records[item]
    frozen, adapted = (
        frozenset(tuple(p.split("/")) for p in paths)
        for paths in (record["frozen"], record["adapted"])
    )
    adapters = _settings(LoRA, record["lora"], f"{path}: {item}.lora")
    return Partition(frozen, adapted, adapters, record["dtype"]), record["origin"]


def load_params(workdir: epath.PathLike, role: str, abstract: Any) -> Any:
    """A role's newest weights in a workdir, adapters merged, with the shardings of `abstract`.

    Raises:
      ConfigError: there is no finished checkpoint, or its frozen weights have changed.
    """
    item = ITEM_OF.get(role, role)
    parts = read_parts(workdir, item)
    if parts is None:
        return restore_item(workdir, item, abstract)
    part, origin = parts
    trained = restore_item(workdir, item, part.trained(abstract))
    base, base_fingerprint = load_base(origin["from"], origin["role"], item, abstract)
    check_origin(workdir, origin, base_fingerprint)
    frozen = part.freeze(part.split(base)[1])
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    return jax.jit(part.merge, out_shardings=shardings)(trained, frozen)


def check_origin(workdir: epath.PathLike, origin: Origin, fingerprint_now: str) -> None:
    """Refuses frozen weights with another fingerprint than those that the run was trained with.

    Raises:
      ConfigError: it is another.
    """
    if fingerprint_now != origin["fingerprint"]:
        raise ConfigError(
            f"{workdir} was trained with the frozen weights of {origin['from']} "
            f"({origin['fingerprint']}), which have changed ({fingerprint_now}). Restore them"
        )


def load_base(workdir: epath.PathLike, origin: str, role: str, abstract: Any) -> tuple[Any, str]:
    """Another run's weights for a role to start from.

    Args:
      origin: the role of those weights; from another kind of network only the backbone is taken.
      abstract: shapes and shardings of `role`'s parameters.

    Returns:
      (parameters, fingerprint of the whole model they are from).
    """
    params = load_params(workdir, origin, origin_shapes(workdir, origin, role, abstract))
    whole = identity(workdir, origin, params)
    return (params if origin == role else _backbone(params, abstract)), whole


def load_from(workdir: epath.PathLike, origin: str, role: str, abstract: Any) -> Any:
    """The parameters of `load_base`, without the fingerprint."""
    params = load_params(workdir, origin, origin_shapes(workdir, origin, role, abstract))
    return params if origin == role else _backbone(params, abstract)


def origin_shapes(workdir: epath.PathLike, origin: str, role: str, abstract: Any) -> Any:
    """Shapes and shardings of the parameters of `origin` in a workdir, from which `role` starts."""
    if origin == role:
        return abstract
    mesh = jax.tree.leaves(abstract)[0].sharding.mesh
    return abstract_params(origin, model_config(workdir, origin), mesh)


def _backbone(params, abstract):
    weights = params.get("backbone", params)
    return {"backbone": {k: weights[k] for k in abstract["backbone"]}}


def identity(workdir: epath.PathLike, role: str, params: Any) -> str:
    """The fingerprint of a role's loaded weights. For merged weights it joins those of the base and
    of the trained part, which do not depend on how a mesh rounds the sum."""
    parts = read_parts(workdir, ITEM_OF.get(role, role))
    if parts is None:
        return fingerprint(params)
    part, origin = parts
    trained = part.trained(to_abstract(params))
    return f"{origin['fingerprint']}+{fingerprint(restore_item(workdir, role, trained))}"


def newest(workdir: epath.PathLike) -> tuple[ocp.CheckpointManager, int]:
    """(Orbax's manager of a workdir's checkpoints, the newest finished step).

    Raises:
      ConfigError: there is no checkpoint.
    """
    directory = epath.Path(workdir) / "checkpoints"
    manager = ocp.CheckpointManager(directory.resolve()) if directory.exists() else None
    step = manager.latest_step() if manager else None
    if manager is None or step is None:
        raise ConfigError(f"{workdir} holds no checkpoint; train that stage first")
    return manager, step


def restore_item(workdir: epath.PathLike, role: str, abstract: Any) -> Any:
    """The item of a role in a workdir's newest checkpoint."""
    item = ITEM_OF.get(role, role)
    manager, step = newest(workdir)
    with phase(f"loading {role} of {workdir}"):
        restored = manager.restore(
            step, args=ocp.args.Composite(**{item: ocp.args.StandardRestore(abstract)})
        )
    manager.close()
    check_finite(restored[item], workdir, step, item)
    return restored[item]


def check_finite(params: Any, workdir: epath.PathLike, step: int, item: str) -> None:
    """Refuses weights with a NaN or an infinity (train/runtime/finite.py)."""
    require_finite({item: params}, f"{workdir}, checkpoint {step},", "weights")


def load(
    workdir: epath.PathLike, item: str = "", mesh: jax.sharding.Mesh | None = None
) -> tuple[TransformerConfig, Any]:
    """Loads a model of a workdir, whatever mesh it was saved on.

    Args:
      item: `policy`, `value` or `reward`; by default the first that the run trained.
      mesh: the devices that the weights go to; by default one device.

    Returns:
      (TransformerConfig, params) for `Transformer(config)`, `value_model(config)` or
      `reward_model(config)`.
    """
    item = item or next(iter(read_models(workdir)))
    config = model_config(workdir, item)
    mesh = mesh or make_mesh(MeshConfig(), jax.devices()[:1])
    return config, load_params(workdir, item, abstract_params(item, config, mesh))


def to_abstract(tree: Any) -> Any:
    """Device arrays -> `jax.ShapeDtypeStruct` with shardings; host arrays stay as they are."""
    return jax.tree.map(
        lambda x: (
            x
            if isinstance(x, np.ndarray)
            else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        ),
        tree,
    )
