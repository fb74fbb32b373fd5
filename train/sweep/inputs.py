"""The inputs of the runs of a sweep: tokenizer and rows are made once, and linked into each run.

The first run of each group that reads the same gets them; each other run links the files before it
begins, as if it had made them itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax
from etils import epath

from data.atomic import is_remote
from model import sharding
from model.sharding import MeshConfig
from train.assembly.inputs import open_context
from train.checkpoints import loading
from train.config.run import RunConfig
from train.evals import registry as evals
from train.objectives import registry
from train.runtime import outputs
from train.sweep.trials import Run, flatten
from train.terminal.progress import phase

# The settings on which tokenizer and rows depend.
_READ = ("stage", "data", "pretrain_data", "tokenizer", "init_from", "evals", "plugins")
_FILES = ("tokenizer/*", "rows/*", "*.npz", "evals/*/*.npz")


def key(config: RunConfig) -> str:
    """A hash of the settings on which the inputs depend."""
    values = {
        name: value
        for name, value in flatten(config).items()
        if name.split(".")[0] in _READ or name == "rl.prompt_length"
    }
    values = {k: v for k, v in values.items() if not k.startswith("data.batch_")}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def check(runs: Sequence[Run], mesh_of: Callable[[MeshConfig], Any]) -> None:
    """Checks the settings of all runs, as far as that needs no data.

    Args:
      mesh_of: mesh settings -> a mesh of the devices of a run, or its shape.

    Raises:
      ConfigError, ShardingError: bad input, of any run.
    """
    for run in {run.trial: run for run in runs}.values():
        objective = registry.validate(run.config, mesh_of(run.config.mesh))
        evals.validate(run.config, objective)
        registry.check_origins(run.config)
        loading.check_names(run.config.init_from)


def prepare(runs: Sequence[Run]) -> dict[str, epath.Path]:
    """Checks the settings of all runs, and makes the inputs of each group in its first run.

    Returns:
      {key: the workdir that has the inputs}.

    Raises:
      ConfigError, DataError: bad input, of any run.
    """
    check(runs, sharding.make_mesh)
    sources = dict[str, epath.Path]()
    for run in runs:
        name = key(run.config)
        if name not in sources:
            if not (run.workdir / "tokenizer" / "tokenizer.json").exists():
                _make(run)
            sources[name] = run.workdir
    return sources


def _make(run: Run) -> None:
    """Makes the tokenizer and the row caches of a run in its workdir."""
    mesh = sharding.make_mesh(run.config.mesh)
    outputs.make_folder(run.workdir)
    with jax.set_mesh(mesh), phase("preparing"):
        objective = registry.find(run.config)
        context = open_context(run.config, objective, run.workdir, mesh, None, None)
        for save in context.save_rows:
            save()
        # The tokenizer's files appear together, or a process that is killed would leave a part.
        folder = run.workdir / (
            "tokenizer" if is_remote(run.workdir) else f"tokenizer.{os.getpid()}"
        )
        context.tokenizer.save(folder)
        if folder.name != "tokenizer":
            folder.rename(run.workdir / "tokenizer")


def share(source: epath.Path, run: Run) -> None:
    """Links the inputs of another run into a run's workdir, unless it has its own.

    Raises:
      OSError: a file can be neither linked nor copied.
    """
    if source == run.workdir or (run.workdir / "tokenizer" / "tokenizer.json").exists():
        return
    paths = [path for pattern in _FILES for path in source.glob(pattern) if path.is_file()]
    # The tokenizer's own file comes last: it marks the others as whole.
    for path in sorted(paths, key=lambda path: path.name == "tokenizer.json"):
        target = run.workdir / path.relative_to(source)
        outputs.make_folder(target.parent)
        if is_remote(source):
            path.copy(target, overwrite=True)
        else:
            _link(path, target)


def _link(source: epath.Path, target: epath.Path) -> None:
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
