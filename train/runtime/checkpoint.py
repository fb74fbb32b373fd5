"""Checkpoints: the whole `TrainState`, one Orbax item a trained model, so that a later stage reads
just the model it starts from.

A workdir holds `checkpoints/<step>/{<role>…, opt_state, source, meta}` and `models.json`, the
architecture of each role. Where weights are frozen, a role's item holds what was trained alone, and
`parts.json` says where the rest came from; loading puts both together.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Literal, TypedDict

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
from train.runtime import finite, outputs
from train.step import TrainState
from train.trainable import Parts

# What kind of network a role is.
NETWORKS = {
    "policy": Transformer,
    "reference": Transformer,
    "value": value_model,
    "value_head": ValueHead,
    "reward": reward_model,
    "judge": reward_model,
}
Models = Annotated[dict[str, dict], msgspec.Meta(min_length=1)]


Origin = TypedDict("Origin", {"from": str, "role": str, "fingerprint": str})


class PartsFacts(TypedDict):
    """What parts.json says of a model with frozen weights (`save_parts`)."""

    origin: Origin
    frozen: list[str]
    adapted: list[str]
    lora: dict
    dtype: Literal[tuple(DTYPES)]


# The item of a checkpoint that holds a role's weights.
ITEM_OF = {"reference": "policy", "judge": "reward"}


def init_params(role: str, config: TransformerConfig, key):
    """Fresh parameters of a role's network, boxed with their logical axes."""
    tokens, hidden = jnp.zeros((1, 2), jnp.int32), jnp.zeros((1, config.embed_dim))
    read = hidden if role == "value_head" else tokens
    return NETWORKS[role](config).init(key, read)["params"]


def abstract_params(role: str, config: TransformerConfig, mesh):
    """Shapes, dtypes and shardings of a role's parameters, without making any."""
    boxed = jax.eval_shape(lambda key: init_params(role, config, key), jax.random.key(0))
    return with_shardings(nn.unbox(boxed), parameter_shardings(boxed, mesh))


def with_shardings(abstract, shardings):
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
    )


@jax.jit
def _fingerprint(tree):
    def one(x):
        bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32).reshape(-1)
        place = jnp.arange(bits.size, dtype=jnp.uint32) * jnp.uint32(2654435761) | 1
        return jnp.sum((bits ^ (bits >> 15)) * place, dtype=jnp.uint32)

    return jax.tree.map(one, tree)


def fingerprint(tree) -> str:
    """A checksum of parameters, eight hex digits; the same on any mesh, other for any other bit."""
    return fold(checksums(tree))


def checksums(tree) -> list:
    """A number a parameter, in the order of the tree."""
    return jax.tree.leaves(_fingerprint(tree))


def fold(sums) -> str:
    """The `fingerprint` of parameters with these `checksums`."""
    total = 0
    for value in sums:
        total = (total * 1_000_003 + int(value)) % 2**32
    return f"{total:08x}"


class Checkpointer:
    """Saves and restores one workdir's `TrainState`s."""

    def __init__(self, workdir, keep: int):
        self._directory = epath.Path(workdir) / "checkpoints"
        outputs.make_folder(self._directory)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(self._directory.resolve(), options=options)

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, meta: dict) -> None:
        """Starts to save; training may go on. `meta` is JSON kept beside the arrays."""
        items = {name: ocp.args.StandardSave(tree) for name, tree in state.trainable.items()}
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                **items,
                opt_state=ocp.args.StandardSave(state.opt_state),
                source=ocp.args.StandardSave(state.source),
                meta=ocp.args.JsonSave(meta | {"skipped": int(state.skipped)}),
            ),
            force=True,  # the loop decides; asked, Orbax also moves the preemption service's count
        )

    def meta(self, step: int) -> dict:
        """What was saved as `meta` at `step`."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args).meta

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """The state saved at `step`, placed as `abstract` says."""
        items = {name: ocp.args.StandardRestore(t) for name, t in abstract.trainable.items()}
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(
                **items,
                opt_state=ocp.args.StandardRestore(abstract.opt_state),
                source=ocp.args.StandardRestore(abstract.source),
            ),
        )
        trainable = {name: found[name] for name in abstract.trainable}
        state = {**trainable, "opt_state": found.opt_state}
        finite.check(state, f"{self._directory}/{step}", "weights or optimizer state")
        counts = (jnp.asarray(n, jnp.int32) for n in (step, self.meta(step).get("skipped", 0)))
        step_array, skipped = counts
        return TrainState(step_array, trainable, found.opt_state, found.source, skipped)

    def wait(self) -> None:
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()


def save_models(workdir, models: dict[str, TransformerConfig]) -> None:
    facts = {r: dataclasses.asdict(c) for r, c in models.items()}
    write_atomically(epath.Path(workdir) / "models.json", json.dumps(facts, indent=2) + "\n")


def model_config(workdir, role: str, **execution) -> TransformerConfig:
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


def _settings(cls, given: dict, where: str):
    """A dataclass of settings that a workdir keeps.

    Raises:
      ConfigError: one is unknown, or not of its range.
    """
    known = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(given.keys() - known):
        raise ConfigError(
            f"{where} has a setting {unknown[0]!r:.80}, which this Seedpod does not know; it may "
            "be of a later version"
        )
    try:
        return cls(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from None


def read_models(workdir) -> dict[str, dict]:
    """{role: settings of its architecture} of the models that a run trained.

    Raises:
      ConfigError: it is no workdir. DataError: models.json is damaged.
    """
    path = epath.Path(workdir) / "models.json"
    if not path.exists():
        raise ConfigError(f"{workdir} is not a Seedpod workdir: it has no models.json")
    return json_files.read(path, Models)


def save_parts(workdir, parts: dict[str, Parts], origins) -> None:
    """Writes how the models with frozen weights are divided, and where those came from."""
    facts = {
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
    if facts:
        write_atomically(epath.Path(workdir) / "parts.json", json.dumps(facts, indent=2) + "\n")


def read_parts(workdir, item: str):
    """(Parts, origin) of a model with frozen weights; (None, None) of one without."""
    path = epath.Path(workdir) / "parts.json"
    facts = json_files.read(path, dict[str, PartsFacts]).get(item) if path.exists() else None
    if not facts:
        return None, None
    paths = (frozenset(tuple(p.split("/")) for p in facts[k]) for k in ("frozen", "adapted"))
    origin = {key: facts["origin"][key] for key in ("from", "role", "fingerprint")}
    adapters = _settings(LoRA, facts["lora"], f"{path}: {item}.lora")
    return Parts(*paths, adapters, facts["dtype"]), origin


def load_params(workdir, role: str, abstract):
    """A role's newest weights in a workdir, adapters merged, placed as `abstract` says.

    Raises:
      ConfigError: it holds no finished checkpoint, or its frozen weights are others now.
    """
    item = ITEM_OF.get(role, role)
    part, origin = read_parts(workdir, item)
    if not part:
        return restore_item(workdir, item, abstract)
    trained = restore_item(workdir, item, part.trained(abstract))
    base, found = load_base(origin["from"], origin["role"], item, abstract)
    check_origin(workdir, origin, found)
    frozen = part.freeze(part.split(base)[1])
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    return jax.jit(part.merge, out_shardings=shardings)(trained, frozen)


def check_origin(workdir, origin, found: str) -> None:
    """Refuses frozen weights with another fingerprint than those that were trained beside.

    Raises:
      ConfigError: they are others.
    """
    if found != origin["fingerprint"]:
        raise ConfigError(
            f"{workdir} holds what was trained beside the frozen weights of {origin['from']} "
            f"({origin['fingerprint']}), which are others now ({found}). Restore those"
        )


def load_base(workdir, origin: str, role: str, abstract):
    """What a role takes of another run's weights.

    Args:
      origin: the role of those weights; of another kind of network the backbone is taken.
      abstract: of `role`'s parameters.

    Returns:
      (parameters, their fingerprint).
    """
    params = load_params(workdir, origin, origin_shapes(workdir, origin, role, abstract))
    found = identity(workdir, origin, params)
    return (params if origin == role else _backbone(params, abstract)), found


def load_from(workdir, origin: str, role: str, abstract):
    """The parameters of `load_base` alone."""
    params = load_params(workdir, origin, origin_shapes(workdir, origin, role, abstract))
    return params if origin == role else _backbone(params, abstract)


def origin_shapes(workdir, origin: str, role: str, abstract):
    """Shapes of the parameters of `origin` in a workdir, from which `role` starts."""
    if origin == role:
        return abstract
    mesh = jax.tree.leaves(abstract)[0].sharding.mesh
    return abstract_params(origin, model_config(workdir, origin), mesh)


def _backbone(params, abstract):
    weights = params.get("backbone", params)
    return {"backbone": {k: weights[k] for k in abstract["backbone"]}}


def identity(workdir, role: str, params) -> str:
    """The fingerprint of a role's loaded weights; of merged ones, those of what was merged, which
    do not depend on how a mesh rounds the sum."""
    part, origin = read_parts(workdir, ITEM_OF.get(role, role))
    if not part:
        return fingerprint(params)
    trained = part.trained(to_abstract(params))
    return f"{origin['fingerprint']}+{fingerprint(restore_item(workdir, role, trained))}"


def newest(workdir):
    """(Orbax's manager of a workdir's checkpoints, the newest finished step).

    Raises:
      ConfigError: it holds none.
    """
    directory = epath.Path(workdir) / "checkpoints"
    manager = ocp.CheckpointManager(directory.resolve()) if directory.exists() else None
    step = manager.latest_step() if manager else None
    if step is None:
        raise ConfigError(f"{workdir} holds no checkpoint; train that stage first")
    return manager, step


def restore_item(workdir, role: str, abstract):
    """The item of a role in a workdir's newest checkpoint."""
    item = ITEM_OF.get(role, role)
    manager, step = newest(workdir)
    found = manager.restore(
        step, args=ocp.args.Composite(**{item: ocp.args.StandardRestore(abstract)})
    )
    manager.close()
    check_finite(found[item], workdir, step, item)
    return found[item]


def check_finite(params, workdir, step: int, item: str) -> None:
    """Refuses weights with a NaN or an infinity (train/runtime/finite.py)."""
    finite.check({item: params}, f"{workdir}, checkpoint {step},", "weights")


def load(workdir, item: str = "", mesh=None):
    """Opens a workdir for a notebook, whatever mesh it was saved on.

    Args:
      item: `policy`, `value` or `reward`; by default the first that the run trained.
      mesh: where the weights go; by default one device.

    Returns:
      (TransformerConfig, params) for `Transformer(config)`, `value_model(config)` or
      `reward_model(config)`.
    """
    item = item or next(iter(read_models(workdir)))
    config = model_config(workdir, item)
    mesh = mesh or make_mesh(MeshConfig(), jax.devices()[:1])
    return config, load_params(workdir, item, abstract_params(item, config, mesh))


def to_abstract(tree):
    """Arrays -> what a restore needs to know of them; host arrays stay themselves."""
    return jax.tree.map(
        lambda x: (
            x
            if isinstance(x, np.ndarray)
            else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        ),
        tree,
    )
