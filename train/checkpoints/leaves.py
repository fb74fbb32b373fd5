"""A run's weights read one parameter at a time, without ever holding a whole model."""

from __future__ import annotations

import functools
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from model import lora
from train.assembly.partition import Partition
from train.checkpoints import checkpointer, fingerprints, loading, saved_models, verification
from train.config.run_names import split_step


class Leaves:
    """A role's weights in a run, adapters merged as `loading.load_params` merges.

    Args:
      name: as of `loading.load_params`.
      abstract: shapes, dtypes and shardings of its parameters.
      dtype: of parameters that are read unchanged; merged ones have the dtype in `abstract`.

    Raises:
      ConfigError: there is no finished checkpoint, or its frozen weights have changed.
    """

    def __init__(self, name: epath.PathLike, role: str, abstract: Any, dtype: Any = None):
        self._workdir, step = split_step(name)
        self._item, self._abstract = saved_models.item_of(name, role), flatten_dict(abstract)
        parts = saved_models.read_parts(name, role)
        self._dtype, self._fingerprint = dtype, ""
        self._part: Partition | None = None
        if parts is None:
            self._checkpoint, sums = verification.newest_valid(self._workdir, self._verify, step)
            self._fingerprint = fingerprints.fold(sums)
            return
        self._part, origin = parts
        like = self._part.trained(abstract)
        trained = checkpointer.restore_item(name, role, like)
        self._trained = flatten_dict(trained)
        trained_role = saved_models.ITEM_OF.get(role, role)
        self._same = origin["role"] == trained_role
        shapes = loading.origin_shapes(origin["from"], origin["role"], trained_role, abstract)
        self._base = Leaves(origin["from"], origin["role"], shapes)
        loading.check_origin(name, origin, self._base.fingerprint())
        self._fingerprint = f"{origin['fingerprint']}+{fingerprints.fingerprint(trained)}"

    def _verify(self, checkpoint: epath.Path, meta: dict[str, Any]) -> list[int]:
        """The checksums of the parameters, in order. All are read, since a checkpoint that turned
        out to be damaged halfway could not be replaced by an older one.

        Raises:
          verification.Damaged: one is.
        """
        saved_models.check_files(self._workdir, meta.get("files", {}))
        sums = []
        for path in sorted(self._abstract):
            name, like = "/".join(path), self._abstract[path]
            dtype = verification.saved_dtype(meta, self._item, name, like.dtype)
            read = functools.partial(self._restore, checkpoint, path, dtype)
            tree = verification.readable(checkpoint, self._item, read)
            texts = verification.check({self._item: tree}, meta, partly=True)
            sums.append(int(texts[self._item][name].rsplit(" ", 1)[1], 16))
        return sums

    def fingerprint(self) -> str:
        """The fingerprint of the weights, equal to `identity`."""
        return self._fingerprint

    def shapes(self) -> dict[tuple[str, ...], tuple[int, ...]]:
        """{path: shape} of all saved parameters, adapters merged, even if `abstract` lacks them."""
        if not self._part:
            saved = ocp.PyTreeCheckpointHandler().metadata(self._checkpoint / self._item).tree
            return {path: tuple(x.shape) for path, x in flatten_dict(saved).items()}
        base = self._base.shapes()
        if not self._same:  # the backbone of another kind of network
            base = {("backbone", *p[p[0] == "backbone" :]): s for p, s in base.items()}
            base = {path: shape for path, shape in base.items() if path[1] != "head"}
        plain = {p: x for p, x in self._trained.items() if not p[-1].endswith((lora.A, lora.B))}
        return base | {path: x.shape for path, x in plain.items()}

    def read(self, path: tuple[str, ...]) -> Any:
        """One parameter, with the sharding of its abstract."""
        if not self._part:
            tree = self._restore(self._checkpoint, path, self._dtype or self._abstract[path].dtype)
            return flatten_dict(tree)[path]
        if path in self._trained:
            return self._trained[path]
        inside = path if self._same or path in self._base._abstract else path[1:]
        frozen = self._part.freeze(unflatten_dict({path: self._base.read(inside)}))
        names = (path[-1] + suffix for suffix in (lora.A, lora.B))
        beside = {(*path[:-1], name): self._trained.get((*path[:-1], name)) for name in names}
        trained = unflatten_dict({k: v for k, v in beside.items() if v is not None})
        sharding = unflatten_dict({path: self._abstract[path].sharding})
        merge = jax.jit(self._part.merge, out_shardings=sharding)
        return flatten_dict(merge(trained, frozen))[path]

    def _restore(self, checkpoint, path, dtype):
        """The tree of one parameter of a checkpoint."""
        like = self._abstract[path]
        wanted = unflatten_dict(
            {path: jax.ShapeDtypeStruct(like.shape, dtype, sharding=like.sharding)}
        )
        return ocp.PyTreeCheckpointHandler().restore(
            checkpoint / self._item,
            args=ocp.args.PyTreeRestore(
                wanted,
                restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                partial_restore=True,
            ),
        )
