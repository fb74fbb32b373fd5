"""The settings with which a run was trained, as a recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import ml_collections
from etils import epath
from flax.traverse_util import flatten_dict

import plugins
from data.read import json_files
from ranges import ConfigError
from train.config.model import read_saved
from train.config.names import RENAMED
from train.config.run import default, keys
from train.config.run_names import check_step, split_step

NOT_SETTINGS = ("earlier", "lineage")  # of config.json


def recipe_of(name: str) -> ml_collections.ConfigDict:
    """The settings of a workdir, or those with which WORKDIR@STEP was saved, as a recipe.

    Raises:
      ConfigError: there is no such run or checkpoint, or it has a setting that is unknown here.
      DataError: its file is damaged.
    """
    saved = _saved(*split_step(name))
    if isinstance(named := saved.get("plugins"), list):
        plugins.load(named)
    config, known = default(), set(keys())
    left_out = (*NOT_SETTINGS, "budget")  # which has become a number of steps
    flat = flatten_dict({k: v for k, v in saved.items() if k not in left_out}, sep=".")
    for old, value in read_saved(flat).items():
        _set(config, RENAMED.get(old, old), value, known, name)
    return config


def _saved(workdir: str, step: int | None) -> Mapping[str, Any]:
    path, folder = epath.Path(workdir) / "config.json", epath.Path(workdir) / "checkpoints"
    if not (epath.Path(workdir) / "models.json").exists():
        raise ConfigError(f"{workdir} is not the workdir of a run; it has no models.json")
    if step is not None:
        path = folder / str(step) / "meta" / "metadata"
        names = [p.name for p in folder.iterdir()] if folder.exists() else []
        steps = [int(name) for name in names if name.isdigit()]
        check_step(workdir, step, steps)
    saved = json_files.read(path, dict[str, Any])
    if step is not None:
        saved = json.loads(saved["config"]) if isinstance(saved.get("config"), str) else {}
    if "steps" not in saved:
        raise ConfigError(f"{path} has no settings of a run; was {workdir} imported?")
    return saved


def _set(config: ml_collections.ConfigDict, key: str, value: Any, known: set[str], name: str):
    """Sets a dotted key; inside a mapping with keys of the user's choice it may be new."""
    group, _, leaf = key.rpartition(".")
    if key not in known and group in known and any(k.startswith(f"{group}.") for k in known):
        raise ConfigError(
            f"{name} has a setting {key}, which this version of Seedpod does not know; a plugin or "
            "a later version may have it"
        )
    for part in filter(None, group.split(".")):
        if part not in config:
            config[part] = ml_collections.ConfigDict(type_safe=False)
        config = config[part]
    config[leaf] = value
