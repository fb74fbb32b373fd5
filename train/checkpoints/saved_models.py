"""The files of a workdir that describe its models: `models.json`, the architecture of each role,
and `parts.json`, the origin of frozen weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

import msgspec
from etils import epath

from data.atomic import write_atomically
from data.read import json_files
from model.config import TransformerConfig
from model.lora import LoRA
from model.quantized import DTYPES
from ranges import ConfigError
from train.assembly.partition import Partition
from train.config.model import EXECUTION
from train.config.run_names import split_name, split_step

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
# The end of the name of an item with the moving averages of a role's weights.
AVERAGES = "_ema"


def save_models(workdir: epath.PathLike, models: dict[str, TransformerConfig]) -> None:
    """Writes the architectures of the roles that a run trains, which `read_models` reads.

    `matmul` is left out: what opens the run's weights multiplies by them as they are.
    """
    settings = {role: dataclasses.asdict(config) for role, config in models.items()}
    for role in settings:
        del settings[role]["matmul"]
    write_atomically(epath.Path(workdir) / "models.json", json.dumps(settings, indent=2) + "\n")


def item_of(name: epath.PathLike, role: str) -> str:
    """The item of a checkpoint with a role's weights, or, of a name RUN@ema, with their averages.

    Raises:
      ConfigError: no checkpoint of the run has averages.
    """
    item, (workdir, _, averages) = ITEM_OF.get(role, role), split_name(name)
    if not averages:
        return item
    steps = (epath.Path(workdir) / "checkpoints").glob("*")
    if not any((step / f"{item}{AVERAGES}").exists() for step in steps):
        raise ConfigError(
            f"{name}: the checkpoints of {workdir} hold no averages of its {item}; a run keeps "
            "them with --config.optimizer.ema=0.999"
        )
    return f"{item}{AVERAGES}"


def model_config(name: epath.PathLike, role: str, **execution: Any) -> TransformerConfig:
    """The architecture of a role in a run, with other execution settings if given.

    Raises:
      ConfigError: no such workdir, or it trained no such role.
    """
    workdir, _ = split_step(name)
    item, models = ITEM_OF.get(role, role), read_models(workdir)
    if item not in models:
        raise ConfigError(
            f"init_from.{role}={name}: that run trained {', '.join(models)}, not a {item} model"
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


def read_models(name: epath.PathLike) -> dict[str, dict]:
    """{role: settings of its architecture} of the models that a run trained.

    Raises:
      ConfigError: this is not a workdir. DataError: models.json is damaged.
    """
    workdir, _ = split_step(name)
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


def read_parts(name: epath.PathLike, role: str) -> tuple[Partition, Origin] | None:
    """(Partition, origin) of a model with frozen weights; None for one without."""
    item, (workdir, _) = ITEM_OF.get(role, role), split_step(name)
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


def hashes(workdir: epath.PathLike) -> dict[str, str]:
    """{file: hash} of the files of a workdir on which the meaning of its weights depends: the
    architectures and the partitions, without what a resumed or moved run may change, and the
    tokenizer."""
    workdir = epath.Path(workdir)
    contents = dict[str, bytes]()
    if (workdir / "models.json").exists():
        models = {role: decisive(model_config(workdir, role)) for role in read_models(workdir)}
        contents["models.json"] = json.dumps(models, sort_keys=True).encode()
    if (workdir / "parts.json").exists():
        records = json_files.read(workdir / "parts.json", dict[str, PartitionRecord])
        for record in records.values():
            record["origin"]["from"] = ""
        contents["parts.json"] = json.dumps(records, sort_keys=True).encode()
    for path in (workdir / "tokenizer").glob("*"):
        contents[f"tokenizer/{path.name}"] = path.read_bytes()
    return {name: hashlib.sha256(content).hexdigest()[:16] for name, content in contents.items()}


def decisive(config: TransformerConfig) -> dict[str, Any]:
    """The settings that are not defaults, those of execution left out: a later version of Seedpod
    has more of both."""
    settings = dataclasses.asdict(config)
    return {
        field.name: settings[field.name]
        for field in dataclasses.fields(config)
        if field.name not in EXECUTION and getattr(config, field.name) != field.default
    }


def check_files(workdir: epath.PathLike, saved: Mapping[str, str]) -> None:
    """Refuses a workdir whose files are not those with the `hashes` that a checkpoint saved.

    Raises:
      ConfigError: naming the first that differs or is missing.
    """
    now = hashes(workdir) if saved else {}
    for name, value in saved.items():
        if now.get(name) != value:
            happened = "was changed or damaged after" if name in now else "is missing since"
            raise ConfigError(
                f"{workdir}/{name} {happened} the checkpoints were saved, and the weights would "
                "mean something else. Restore that file"
            )
