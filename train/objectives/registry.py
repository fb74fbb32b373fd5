"""The objectives by the name of their stage. No other file of model/, train/, data/ or tpu/ tests
for one of these names; the differences between objectives are in their rows
(train/objectives/base.py)."""

from __future__ import annotations

import re
from typing import Any

import jax
from etils import epath

from interpreter import python
from model import sharding
from ranges import ConfigError
from registry import Registry
from suggestions import did_you_mean, nearest
from train.assembly import ramps
from train.config.run_names import split_step
from train.objectives import dpo, grpo, kto, next_token, orpo, ppo, reward, simpo
from train.objectives.base import Objective

STAGES: Registry[Objective] = Registry("stage", "stage")
for _name, _objective in {
    "pretrain": next_token.PRETRAIN,
    "sft": next_token.SFT,
    "reward": reward.OBJECTIVE,
    "dpo": dpo.OBJECTIVE,
    "kto": kto.OBJECTIVE,
    "orpo": orpo.OBJECTIVE,
    "simpo": simpo.OBJECTIVE,
    "ppo": ppo.OBJECTIVE,
    "grpo": grpo.OBJECTIVE,
}.items():
    STAGES.register(_name, _objective)


def fields() -> dict[str, tuple]:
    """{stage: (class, default)} of the groups of settings that objectives add to a run's."""
    return {name: (row.settings, row.settings()) for name, row in STAGES.items() if row.settings}


def roles() -> tuple[str, ...]:
    """The roles that `init_from` may name in any stage."""
    return tuple(dict.fromkeys(role for row in STAGES.values() for role in row.roles))


def find(config: Any) -> Objective:
    """The objective of a run, configured by its settings.

    Raises:
      ConfigError: an unknown stage.
    """
    objective = STAGES.find(config.stage)
    return objective.configure(objective, config)


def validate(config: Any, mesh: jax.sharding.Mesh) -> Objective:
    """The objective of a run, once its settings pass every check that needs no data.

    Raises:
      ConfigError: an unknown stage or role, a role that is missing, sizes that do not divide.
    """
    objective = find(config)
    for role in config.init_from:
        if role not in objective.roles:
            raise ConfigError(
                f"init_from.{role}: stage {config.stage} reads {', '.join(sorted(objective.roles))}"
            )
    for role in objective.required:
        if role not in config.init_from:
            raise ConfigError(
                f"stage {config.stage} starts from a trained {role}; "
                f"type --config.init_from.{role}=WORKDIR"
            )
    if config.model.mimetic and config.init_from:
        raise ConfigError(
            "model.mimetic initializes a new model, and this one starts from "
            f"{', '.join(config.init_from.values())}; set --config.model.mimetic=False"
        )
    objective.validate(config)
    micro = config.data.batch_size // config.accumulate
    sizes = {"the microbatch (data.batch_size / accumulate)": micro, **objective.divisible(config)}
    shards = sharding.batch_shards(mesh)
    for name, value in sizes.items():
        if value % shards:
            raise ConfigError(
                f"{name} is {value}, which the mesh's {shards} batch shards (data × fsdp × "
                "expert) do not divide; change it or --config.mesh"
            )
    ramps.check(config, objective, mesh)
    return objective


def _stages_in(path: epath.Path) -> list[str]:
    """The runs inside a folder that is none itself."""
    if not path.is_dir() or any((path / f).exists() for f in ("models.json", "config.json")):
        return []
    return sorted(str(p) for p in path.iterdir() if (p / "models.json").exists())


def check_origins(config: Any) -> None:
    """Raises ConfigError for a run to start from that does not exist, or is the folder of a chain,
    and for a new model without a size."""
    for role, name in config.init_from.items():
        path, _ = split_step(name)
        if epath.Path(path).exists():
            if stages := _stages_in(epath.Path(path)):
                raise ConfigError(
                    f"init_from.{role}={path} is the folder of a chain{did_you_mean(*stages)}"
                )
            continue
        if re.fullmatch(r"(hf:)?[\w.-]+/[\w.-]+", path) and not epath.Path(path).parent.exists():
            name = path.removeprefix("hf:")
            hint = f"; import an open model first: {python()} -m train.convert import --from={name}"
        else:
            folder = epath.Path(path).parent
            names = [p.name for p in folder.iterdir()] if folder.exists() else []
            near = nearest(epath.Path(path).name, names)
            hint = did_you_mean(str(folder / near)) if near else ""
        raise ConfigError(f"init_from.{role}={path} does not exist{hint}")
    if not config.init_from:
        config.model.build(vocab_size=8)  # the tokenizer is not known yet
