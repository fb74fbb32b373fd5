"""Averages of the weights of several models: of steps of one run, or of runs that start from the
same weights (model soups, Wortsman et al. 2022, arXiv:2203.05482)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from data.text import tokenizer as tokenizers
from model.sharding import MeshConfig, make_mesh
from ranges import ConfigError
from train.checkpoints import loading, networks, saved_models
from train.checkpoints.leaves import Leaves
from train.config.run_names import split_name
from train.interop import unfinished, workdirs
from train.runtime.finite import finite
from train.terminal.console import console
from train.terminal.progress import phase


def parts_of_one(names: Sequence[str], texts: Sequence[str]) -> list[float]:
    """The shares of some models, which sum to 1; equal ones if no texts are given.

    Raises:
      ConfigError: there are fewer than two models, or the shares do not fit them.
    """
    if len(names) < 2:
        raise ConfigError("an average needs two models or more, as RUN@60 RUN@80, or RUN RUN")
    if not texts:
        return [1 / len(names)] * len(names)
    if len(texts) != len(names):
        raise ConfigError(f"--shares has {len(texts)} numbers, and there are {len(names)} models")
    try:
        shares = [float(text) for text in texts]
    except ValueError:
        shares = []
    total = math.fsum(shares)
    if not (math.isfinite(total) and total > 0 and min(shares) >= 0):
        raise ConfigError(f"--shares={','.join(texts)}: give numbers from 0 up, and not all 0")
    return [share / total for share in shares]


def average(
    names: Sequence[str], workdir: epath.PathLike, given: Sequence[str] = (), role: str = ""
) -> None:
    """Writes a workdir with the average of the weights of some models, adapters merged.

    Args:
      names: of runs, RUN@STEP, or RUN@ema for its moving averages. given: the share of each, by
        default equal.
      role: `policy`, `reward` or `value`; by default the first that the first run trained.

    Raises:
      ConfigError: they are not of one architecture and tokenizer, or `workdir` is in use.
    """
    shares = parts_of_one(names, given)
    paths = [split_name(name).workdir for name in names]
    role = role or next(iter(saved_models.read_models(paths[0])))
    for path in paths:
        if role not in (models := saved_models.read_models(path)):
            raise ConfigError(f"{path} trained {', '.join(models)}, and no {role} model")
    config = saved_models.model_config(paths[0], role)
    tokenizer = tokenizers.load(paths[0])
    for name, path in zip(names, paths, strict=True):
        if saved_models.model_config(path, role) != config:
            raise ConfigError(f"{path} has another architecture than {paths[0]}")
        if (other := tokenizers.load(path).fingerprint) != tokenizer.fingerprint:
            raise ConfigError(
                f"{path} has another tokenizer ({other}) than {paths[0]} "
                f"({tokenizer.fingerprint}): ids would mean other text"
            )
        loading.check_names({role: name})
    record: dict[str, Any] = {"stage": "average", "from": list(names), "shares": shares}
    record |= {"init_from": {role: paths[0]}}
    unfinished.check_free(workdir, "workdir", record)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    abstract = networks.abstract_params(role, config, mesh)
    networks.check_memory(abstract, f"the average of {len(names)} models")
    with phase("averaging", len(names)) as progress:
        total = dict[tuple[str, ...], jax.Array]()
        for number, (name, share) in enumerate(zip(names, shares, strict=True), 1):
            leaves = Leaves(name, role, abstract)
            for key, like in flatten_dict(abstract).items():
                value = leaves.read(key).astype(jnp.float32) * share
                total[key] = (total[key] + value if number > 1 else value).astype(like.dtype)
            progress.count(number)
    for key, value in total.items():
        if not finite(value, 0):
            raise ConfigError(f"the average of {'/'.join(key)} is beyond float32")
    with unfinished.directory(workdir, "workdir", record) as directory:
        tokenizer.save(directory / "tokenizer")
        saved_models.save_models(directory, {role: config})
        (directory / "config.json").write_text(json.dumps(record, indent=2) + "\n")
        workdirs.save_weights(directory, role, unflatten_dict(total), record)
    parts = " + ".join(f"{share:.3g} × {name}" for share, name in zip(shares, names))
    console.print(f"{role}: {parts} -> {workdir}")
