"""The settings that a resumed run may change: one table, and the names of `--allow_change`."""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from ranges import ConfigError
from train.config.names import suggest
from train.config.run import keys


class Kind(enum.Enum):
    """Whether a setting may change."""

    FREE = "free"
    NAMED = "allowed when named"
    REFUSED = "refused"


# {setting, or group: whether it may change}; the longest name decides. The settings of an objective
# and those that a plugin adds are `NAMED`.
CHANGES = {
    # The execution, which changes numbers by rounding alone: microbatches add exactly, and rows are
    # a function of seed and step, not of the mesh. In rollouts rounding may change a sampled token.
    "accumulate": Kind.FREE,
    "mesh": Kind.FREE,
    "model.scan_unroll": Kind.FREE,
    "model.remat": Kind.FREE,
    "model.replicate_kv_heads": Kind.FREE,
    "model.attention": Kind.FREE,
    "model.attention_block": Kind.FREE,
    "model.attention_compute_block": Kind.FREE,
    "loss.chunk": Kind.FREE,
    "rl.prompt_buckets": Kind.FREE,
    "rl.decode_tensor": Kind.FREE,
    "rl.slots": Kind.FREE,
    "rl.sample_batch": Kind.FREE,
    # What a run writes, and when it ends by a fault.
    "log_every": Kind.FREE,
    "statistics": Kind.FREE,
    "trackers": Kind.FREE,
    "tracking": Kind.FREE,
    "budget": Kind.FREE,  # its number of steps is compared
    "evaluate": Kind.FREE,
    "evals": Kind.FREE,
    "rl.eval_prompts": Kind.FREE,
    "rl.record": Kind.FREE,
    "checkpoint": Kind.FREE,
    "watchdog": Kind.FREE,
    "guard": Kind.FREE,
    "guard.spike": Kind.NAMED,
    "rewards.on_error": Kind.FREE,
    "rewards.max_errors": Kind.FREE,
    "rewards.timeout": Kind.FREE,
    "plugins": Kind.FREE,
    # Workdirs may move: fingerprints identify the tokenizer and the frozen models.
    "tokenizer.path": Kind.FREE,
    "init_from": Kind.FREE,
    # What is learned, and how fast.
    "steps": Kind.NAMED,
    "optimizer": Kind.NAMED,
    "value_optimizer": Kind.NAMED,
    "loss": Kind.NAMED,
    "rl": Kind.NAMED,
    "rewards": Kind.NAMED,
    "model.dtype": Kind.NAMED,
    "model.matmul": Kind.NAMED,
    # What would not restore, or would not be the same run.
    "stage": Kind.REFUSED,
    "seed": Kind.REFUSED,
    "model": Kind.REFUSED,
    "tokenizer": Kind.REFUSED,
    "data": Kind.REFUSED,
    "pretrain_data": Kind.REFUSED,
    "optimizer.name": Kind.REFUSED,
    "optimizer.state_dtype": Kind.REFUSED,
    "value_optimizer.name": Kind.REFUSED,
    "value_optimizer.state_dtype": Kind.REFUSED,
    "loss.pool": Kind.REFUSED,
    "rl.prompt_length": Kind.REFUSED,
    "rl.response_length": Kind.REFUSED,
    "rl.rollout_batch": Kind.REFUSED,
    "rl.rollouts_ahead": Kind.REFUSED,  # so many rollouts are in the state
    "ppo.shared_critic": Kind.REFUSED,
    "grpo.group_size": Kind.REFUSED,
    "lora": Kind.REFUSED,
    "freeze": Kind.REFUSED,
}
# Settings that switch a part of the state, or a role, on and off; that is refused.
SWITCHES = ("optimizer.clip_norm", "value_optimizer.clip_norm", "optimizer.ema",
            "value_optimizer.ema", "init_from.policy", "init_from.reward",
            "init_from.value")  # fmt: skip
# The location of data, which is free where its rows are known to be the same.
LOCATIONS = re.compile(
    r"(data|pretrain_data)\.((mixture|decontaminate)\.[^.]+\.source|source|heldout_source|tfds_dir|"
    r"passages\.source|passages\.cache_dir)"
)
# The groups whose rows are trained on; naming one allows other rows.
ROWS = ("data", "pretrain_data")
MOST_SHOWN = 20  # differences in a message


class Difference(NamedTuple):
    """A setting that differs from the checkpoint's.

    Attributes:
      rows: whether it is the hash of the rows of the data that the setting describes.
    """

    setting: str
    before: Any
    now: Any
    kind: Kind
    rows: bool = False

    def __str__(self) -> str:
        rows = "rows " * self.rows
        return f"{self.setting}: {rows}{_text(self.before)} -> {rows}{_text(self.now)}"

    def is_named(self, names: Collection[str]) -> bool:
        """Whether `--allow_change` has its name, or that of its group."""
        parts = self.setting.split(".")
        return any(".".join(parts[: n + 1]) in names for n in range(len(parts)))


def _text(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def kind_of(setting: str, before: Any, now: Any, rows_known: bool = False) -> Kind:
    """Whether a setting may change from one value to another.

    Args:
      rows_known: whether the rows of data are compared too, so that it may move.
    """
    if LOCATIONS.fullmatch(setting):
        return Kind.FREE if rows_known else Kind.NAMED
    if setting in SWITCHES and bool(before) != bool(now):
        return Kind.REFUSED
    parts = setting.split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((CHANGES[name] for name in names if name in CHANGES), Kind.NAMED)


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names that `--allow_change` gives.

    Raises:
      ConfigError: there is no such setting or group.
    """
    for name in names:
        if name not in keys():
            raise ConfigError(
                f"--allow_change={name}: there is no such setting{suggest(name, keys())}"
            )
    return tuple(names)


def _name(setting: str) -> str:
    """The name with which a setting is allowed: of an entry of a mapping, the mapping's."""
    known = keys()
    while setting not in known and "." in setting:
        setting = setting.rpartition(".")[0]
    return setting


def refusal(
    workdir: Any, differences: Iterable[Difference], names: Collection[str], role: str
) -> str:
    """The error about a run that would be resumed with other settings; "" if all may change.

    Args:
      names: those of `--allow_change`. role: one that the run trains.
    """
    differences = sorted(differences, key=lambda d: -list(Kind).index(d.kind))
    refused = any(d.kind is Kind.REFUSED for d in differences)
    named = [d for d in differences if d.kind is Kind.NAMED]
    if not refused and all(d.is_named(names) for d in named):
        return ""
    lines = [f"{d} ({d.kind.value})" for d in differences]
    if lines[MOST_SHOWN:]:
        lines[MOST_SHOWN:] = [f"and {len(lines) - MOST_SHOWN} more"]
    flag = f"--allow_change={','.join(dict.fromkeys(_name(d.setting) for d in named))}"
    if refused:
        ways = "Type the old values of what is refused" + f", and add {flag}" * bool(named)
    else:
        ways = f"Type the old values, or add {flag}"
    return "\n".join(
        [
            f"{workdir} was begun with other settings:",
            *lines,
            f"{ways}; or start from its weights with the new ones: --workdir=NEW "
            f"--config.init_from.{role}={workdir}",
        ]
    )
