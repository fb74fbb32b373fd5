"""Verified reading of checkpoints: arrays, dtypes, shapes and JSON must be those that were saved.

Orbax and TensorStore notice a missing or truncated file, with an exception that depends on where
they stumble, but neither a changed value nor a wrong dtype, which is cast. `meta` therefore holds a
fingerprint of every array, hashes of the workdir's other files on which the weights depend, and a
checksum of itself.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from ranges import ConfigError
from train.checkpoints import fingerprints
from train.checkpoints.agreement import objection
from train.config.run_names import check_step
from train.runtime import outputs, processes
from train.terminal.console import print_error

T = TypeVar("T")
LONGEST = 200  # characters of a reason
# Errors of a network or of permissions, which say nothing about the files.
_ELSEWHERE = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "UNAUTHENTICATED")
_warned: set[epath.Path] = set()  # damaged checkpoints that this process has named


class Damaged(Exception):
    """A checkpoint that is not what was saved; the message is the reason."""


def seal(
    meta: Mapping[str, Any], arrays: Mapping[str, Any], files: Mapping[str, str]
) -> dict[str, Any]:
    """`meta` with what `read_meta`, `restore` and `check_files` verify.

    Args:
      arrays: of `fingerprints.survey`. files: of `saved_models.hashes`.
    """
    sealed = json.loads(json.dumps({**meta, "arrays": arrays, "files": files}))
    return sealed | {"checksum": _checksum(sealed)}


def _checksum(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def steps(workdir: epath.PathLike) -> list[int]:
    """The steps of the committed checkpoints of a workdir, the newest first."""
    folder = epath.Path(workdir) / "checkpoints"
    found = ocp.path.step.standard_name_format().find_all(folder)
    return sorted((metadata.step for metadata in found), reverse=True)


def read_meta(checkpoint: epath.Path) -> dict[str, Any]:
    """The `meta` of a checkpoint. All processes call it.

    Raises:
      Damaged: it is not what was saved.
    """
    meta, reason = _attempt(lambda: dict(ocp.JsonCheckpointHandler().restore(checkpoint / "meta")))
    if not reason and meta.keys() & {"arrays", "checksum"}:  # an old checkpoint has neither
        checksum = meta.pop("checksum", "")
        if checksum != _checksum(meta):
            reason = "its checksum is wrong"
    if not checkpoint.exists() or not any(checkpoint.iterdir()):
        reason = "it is empty"
    elif reason:
        reason = f"meta: {reason}"
    if reason := objection(reason):
        raise Damaged(reason)
    return meta


def restore(
    checkpoint: epath.Path, meta: Mapping[str, Any], abstract: Mapping[str, Any]
) -> dict[str, Any]:
    """{item: tree} of a checkpoint, verified and then cast. All processes call it.

    Args:
      abstract: {item: shapes, dtypes and shardings}.

    Raises:
      Damaged: one cannot be read, is not what was saved, or has weights that are not finite.
    """
    items, reason = dict[str, Any](), ""
    for item, tree in _as_saved(abstract, meta).items():
        # Not by Orbax's manager: it ends in a barrier that a process with an error never reaches.
        items[item], reason = _attempt(
            functools.partial(
                ocp.StandardCheckpointHandler().restore,
                checkpoint / item,
                args=ocp.args.StandardRestore(tree),
            )
        )
        if reason:
            reason = _about(checkpoint, item, reason)
            break
    if reason := objection(reason):
        raise Damaged(reason)
    check(items, meta)

    def cast(x, like):
        return x if x.dtype == like.dtype else x.astype(like.dtype)

    return {item: jax.tree.map(cast, tree, abstract[item]) for item, tree in items.items()}


def saved_dtype(meta: Mapping[str, Any], item: str, path: str, default: Any) -> Any:
    """The dtype with which an array was saved; `default` if the checkpoint has no fingerprints."""
    text = meta.get("arrays", {}).get(item, {}).get(path)
    return jnp.dtype(text.partition("[")[0]) if text else default


def _as_saved(abstract, meta):
    """`abstract` with the dtypes that were saved: a cast would change the fingerprints."""

    def like(item, path, x):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        dtype = saved_dtype(meta, item, name, x.dtype)
        if dtype == x.dtype:
            return x
        return jax.ShapeDtypeStruct(x.shape, dtype, sharding=getattr(x, "sharding", None))

    return {
        item: jax.tree_util.tree_map_with_path(functools.partial(like, item), tree)
        for item, tree in abstract.items()
    }


def check(items: Mapping[str, Any], meta: Mapping[str, Any], partly: bool = False) -> Any:
    """Compares the arrays of some items with the `meta` of their checkpoint.

    Args:
      partly: whether `items` may lack arrays.

    Returns:
      {item: {path: `dtype[shape] checksum`}}.

    Raises:
      Damaged: one differs, or has weights that are not finite.
    """
    texts, not_finite = fingerprints.survey(items)
    saved_texts = meta.get("arrays") or texts  # an old checkpoint has no fingerprints
    for item, now in texts.items():
        saved = saved_texts.get(item, {})
        for path in saved.keys() | now.keys() if not partly else now.keys():
            if saved.get(path) != now.get(path):
                raise Damaged(f"{item}/{path} {_difference(saved.get(path), now.get(path))}")
    for name in not_finite:
        if not name.startswith("source/"):
            kind = "optimizer state" if name.startswith("opt_state/") else "weights"
            raise Damaged(f"it holds NaN or infinity in its {kind} {name}")
    return texts


def _difference(saved: str | None, now: str | None) -> str:
    if saved is None or now is None:
        return "was not saved" if saved is None else "is missing"
    (saved_kind, saved_sum), (kind, now_sum) = saved.rsplit(" ", 1), now.rsplit(" ", 1)
    if saved_kind != kind:
        return f"was saved as {saved_kind}, and is wanted as {kind}"
    return f"is not what was saved: its fingerprint is {now_sum} instead of {saved_sum}"


def _about(checkpoint: epath.Path, item: str, reason: str) -> str:
    return f"{item}: {reason}" if (checkpoint / item).exists() else f"{item} is missing"


def readable(checkpoint: epath.Path, item: str, read: Callable[[], T]) -> T:
    """read(), a part of an item of a checkpoint; Damaged if it cannot be read."""
    part, reason = _attempt(read)
    if reason:
        raise Damaged(_about(checkpoint, item, reason))
    return part


def _attempt(read: Callable[[], T]) -> tuple[T | Any, str]:
    """(the result, "") or (None, why it cannot be read)."""
    try:
        return read(), ""
    # Orbax, TensorStore and the parsers raise whatever the damage leads them to.
    except Exception as error:
        elsewhere = any(sign in str(error) for sign in _ELSEWHERE)
        if elsewhere or isinstance(error, PermissionError) or processes.is_lost_peer(error):
            raise
        return None, brief(error)


def brief(error: BaseException) -> str:
    """The message of an error in at most a line, that of its first cause: Orbax wraps others."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(outputs.reason(error).split()).partition(" [tensorstore_spec")[0]
    return text if len(text) <= LONGEST else f"{text[:60]} … {text[60 - LONGEST :]}"


def newest_valid(
    workdir: epath.PathLike,
    read: Callable[[epath.Path, dict[str, Any]], T],
    step: int | None = None,
) -> tuple[epath.Path, T]:
    """(path, what `read` made of it) of the newest valid checkpoint of another run, which stays as
    it is; damaged ones are named on standard error.

    Args:
      read: (path of a checkpoint, its `meta`) -> anything; raises Damaged.
      step: of the checkpoint to read, in place of the newest.

    Raises:
      ConfigError: there is no valid checkpoint, or not of `step`.
    """
    damaged, folder = dict[int, str](), (epath.Path(workdir) / "checkpoints").resolve()
    if step is not None:
        check_step(workdir, step, steps(workdir))
        try:
            return folder / str(step), read(folder / str(step), read_meta(folder / str(step)))
        except Damaged as error:
            raise ConfigError(f"{workdir}: checkpoint {step} is damaged ({error})") from None
    for step in steps(workdir):
        checkpoint = folder / str(step)
        try:
            result = read(checkpoint, read_meta(checkpoint))
        except Damaged as error:
            damaged[step] = str(error)
            continue
        for bad, reason in damaged.items():
            if checkpoint.parent / str(bad) not in _warned and jax.process_index() == 0:
                _warned.add(checkpoint.parent / str(bad))
                print_error(
                    f"warning: {workdir}: checkpoint {bad} is damaged ({reason}); step {step} is "
                    "read instead"
                )
        return checkpoint, result
    if damaged:
        raise ConfigError(f"{none_valid(workdir, damaged)}. Restore one, or train that stage again")
    raise ConfigError(f"{workdir} holds no checkpoint; train that stage first")


def none_valid(workdir: epath.PathLike, damaged: Mapping[int, str]) -> str:
    """A text with the reason for each rejected checkpoint of a workdir that has no other."""
    reasons = "; ".join(f"checkpoint {step}: {reason}" for step, reason in damaged.items())
    return f"{workdir} holds no valid checkpoint ({reasons})"
