"""The settings of a run on each kind of machines that it may move to, before any is asked for."""

from __future__ import annotations

import dataclasses
import operator
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpu.launch.history import Candidate
from tpu.slices import parse

if TYPE_CHECKING:  # JAX is imported after the environment is set
    from model.config import TransformerConfig
    from train.config.run import RunConfig

# The size of a tokenizer that is not read here, which bounds the memory of logits.
VOCABULARY = 131_072
Models = Mapping[str, "TransformerConfig"]


def of_slices(
    command: Sequence[str], workdir: str, accelerators: Sequence[str], zones: Sequence[str],
    slices: int, read: Callable[[str], str],
) -> list[Candidate]:  # fmt: skip
    """The candidates in order: the first accelerator in every zone, then the next.

    Args:
      command: [module, flags…] of the run. slices: their number, joined by DCN.
      read: path -> the content of a file, as the workers see it; raises ValueError.

    Raises:
      ValueError: machines of a kind cannot hold the run; all such kinds are named.
    """
    from tpu.chips import HBM_GIB

    kinds = {}
    for name in accelerators:
        row = parse(name, "--accelerators")
        kinds[name] = row.devices * slices, HBM_GIB[row.device_kind]
    settings = derive_all(command, workdir, kinds, slices, read, "--accelerators")
    return [
        Candidate(name, zone, *settings[name]) for name in accelerators for zone in zones
    ]  # fmt: skip


def of_devices(
    command: Sequence[str], workdir: str, counts: Sequence[int], processes: int
) -> list[Candidate]:
    """The candidates of numbers of devices a process on this machine. Raises: see `of_slices`."""
    kinds = {f"{count * processes} devices": (count * processes, None) for count in counts}
    settings = derive_all(
        command, workdir, kinds, 1, lambda path: Path(path).read_text(), "--devices"
    )  # fmt: skip
    return [Candidate(name, "", *settings[name]) for name in kinds]


def derive_all(
    command: Sequence[str], workdir: str, kinds: Mapping[str, tuple[int, float | None]],
    slices: int, read: Callable[[str], str], flag: str,
) -> dict[str, tuple[tuple[str, ...], str]]:  # fmt: skip
    """{kind: (flags of its settings, the same for people)}.

    Args:
      kinds: {name: (devices, GiB of one or None)}. flag: the flag that names them.

    Raises:
      ValueError: a kind cannot hold the run.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # shapes alone: no accelerator is opened
    from tpu.fit import rules
    from train.assembly import ramps

    runs, typed = read_command(command, workdir)
    for config in runs.values():
        if not config.budget:
            ramps.check_steps(config)
    models = architectures(runs, workdir, read)
    found, problems = {}, []
    for name, (devices, hbm) in kinds.items():
        flags, texts = [], []
        for stage, config in runs.items():
            prefix = f"stages.{stage}." if stage else ""
            stays = {key.removeprefix(prefix) for key in typed if key.startswith(prefix)}
            try:
                settings = rules.derive(config, devices, slices, hbm, models[stage], stays)
            except ValueError as error:
                problems.append(f"{name}{f', stage {stage}' if stage else ''}: {error}")
                break
            flags += [
                f"--config.{prefix}{key}={value}"
                for key, value in settings.values().items()
                if key not in stays and value != operator.attrgetter(key)(config)
            ]
            texts.append(f"{stage}: {settings}" if stage else str(settings))
        found[name] = tuple(flags), "; ".join(texts)
    if problems:
        raise ValueError(f"{flag} names machines that cannot hold the run: {'. '.join(problems)}")
    return found


def read_command(
    command: Sequence[str], workdir: str
) -> tuple[dict[str, RunConfig], frozenset[str]]:
    """({stage: its settings}, the settings that are typed) of a command; the stage of `train` is
    "".

    Raises:
      ValueError: it neither trains a run nor a chain, or a setting is wrong.
    """
    from absl import flags
    from ml_collections import config_flags

    from train.cli import recipe
    from train.config.run import build
    from train.workflows import multistage

    module, *words = command
    if module not in ("train", "train.chain"):
        raise ValueError(f"-m {module}: train and train.chain can be moved between machines")
    argv = recipe.check([module, *words])
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", values, lock_config=True, sys_argv=argv)
    try:
        values(argv, known_only=True)
    except flags.Error as error:
        raise ValueError(str(error)) from None
    if values.config is None:
        raise ValueError("--config is missing; name a recipe after --")
    typed = frozenset(config_flags.get_override_values(values["config"]))
    if module == "train":
        return {"": build(values.config)}, typed
    return multistage.resolve(values.config, workdir), typed


def architectures(
    runs: Mapping[str, RunConfig], workdir: str, read: Callable[[str], str]
) -> dict[str, Models]:
    """{stage: {role: architecture}}; those of runs to start from are read from models.json.

    Raises:
      ValueError: a file cannot be read, or settings do not fit together.
    """
    from train.assembly.inputs import resolve_models
    from train.checkpoints import saved_models
    from train.objectives import registry

    models: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        earlier: dict[str, Path] = {}  # {workdir of a stage or run: its folder here}
        for number, (stage, config) in enumerate(runs.items()):
            origins = {}
            for role, path in config.init_from.items():
                path = re.sub(r"(@\d+)?(@ema)?$", "", path).rstrip("/")
                if path not in earlier:
                    earlier[path] = Path(folder) / f"{number}-{role}"
                    earlier[path].mkdir()
                    text = read(f"{path}/models.json")
                    (earlier[path] / "models.json").write_text(text)
                origins[role] = str(earlier[path])
            row = registry.find(config)
            if missing := [role for role in row.required if role not in origins]:
                raise ValueError(
                    f"stage {config.stage} starts from a trained {missing[0]}; type "
                    f"--config.init_from.{missing[0]}=WORKDIR"
                )
            vocabulary = VOCABULARY if config.tokenizer.path else config.tokenizer.vocab_size
            local = dataclasses.replace(config, init_from=origins)
            models[stage] = resolve_models(local, row, vocabulary)
            own = earlier[f"{workdir.rstrip('/')}/{stage}"] = Path(folder) / f"{number}"
            own.mkdir()
            saved_models.save_models(own, {role: models[stage][role] for role in row.trainable})
    return models
