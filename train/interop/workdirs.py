"""Workdirs that no training wrote: the weights of an import or of an average, as checkpoint 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from train.checkpoints import chunks, fingerprints, saved_models, verification


def save_weights(workdir: epath.Path, role: str, params: Any, meta: Mapping[str, Any]) -> None:
    """Writes checkpoint 0, fetching a few GB at a time. By default Orbax fetches all arrays to the
    host before it writes one, so that training can continue meanwhile; here there is none.

    Args:
      meta: JSON, saved with the arrays.
    """
    handlers = {
        role: ocp.PyTreeCheckpointHandler(save_device_host_concurrent_gb=8),
        "meta": ocp.JsonCheckpointHandler(),
    }
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    directory = (workdir / "checkpoints").resolve()
    with ocp.CheckpointManager(directory, item_handlers=handlers, options=options) as manager:
        arrays, _ = fingerprints.survey({role: params})
        sealed = verification.seal(meta, arrays, saved_models.hashes(workdir))
        saved = ocp.args.PyTreeSave(params, chunks.save_args(role, params))
        items = {role: saved, "meta": ocp.args.JsonSave(sealed)}
        manager.save(0, args=ocp.args.Composite(**items))
