"""The architecture's settings: a named size, and any field of `TransformerConfig` that differs."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import ranges
from model.config import RopeScaling, TransformerConfig
from model.sizes import SIZES
from ranges import ConfigError
from suggestions import did_you_mean, nearest

T = TypeVar("T")

# Settings of the execution, which start with TransformerConfig's defaults, whatever the size.
EXECUTION = (
    "dtype", "matmul", "scan_unroll", "remat", "replicate_kv_heads", "attention", "attention_block",
    "attention_compute_block",
)  # fmt: skip
# Fields with another origin: the size of the vocabulary (the tokenizer), `pool` (`loss.pool`).
_ELSEWHERE = ("vocab_size", "pool")
# Settings in which older versions wrote 0 to keep the setting of the size. None of them can be 0.
_ONCE_ZERO = (
    "embed_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_dim",
    "vocab_multiple", "max_length", "rope_base",
)  # fmt: skip


def _fields() -> Iterator[tuple[str, Any, Any]]:
    """The fields of `ModelConfig`: (name, type, default)."""
    hints = typing.get_type_hints(TransformerConfig, include_extras=True)
    yield "size", str, ""
    for field in dataclasses.fields(TransformerConfig):
        if field.name in EXECUTION:
            yield field.name, hints[field.name], field.default
        elif field.name == "rope_scaling":
            yield field.name, Mapping[str, object] | None, None
        elif field.name not in _ELSEWHERE:
            yield field.name, hints[field.name] | None, None
    yield "mimetic", bool, False


def _with_fields(cls: type[T]) -> type[T]:
    """Decorates a class that becomes a frozen dataclass with the fields of `_fields`."""
    namespace = {"__doc__": cls.__doc__, "__module__": cls.__module__}
    return dataclasses.make_dataclass(
        cls.__name__, _fields(), bases=(cls,), frozen=True, namespace=namespace
    )


@_with_fields
class ModelConfig:
    """A named size, and the settings in which the model differs from it.

    None keeps the setting of the size; 0, False or an empty value switches it off.

    Attributes:
      size: a row of model/sizes.py; `Llama3_1_8B` is `llama3.1-8b`. Empty takes the whole
        architecture from the run that `init_from` names.
      rope_scaling: settings of RopeScaling (model/config.py); empty switches it off.
      mimetic: initial weights for little text (model/mimetic.py).
    """

    size: str
    rope_scaling: Mapping[str, object] | None
    mimetic: bool

    def __post_init__(self):
        ranges.check(self, "model.")

    def build(self, vocab_size: int) -> TransformerConfig:
        if not self.size:
            raise ConfigError(
                "model.size is empty: type --config.model.size=NAME, or start from a run with "
                "--config.init_from.policy=WORKDIR"
            )
        size = next((name for name in SIZES if _letters(name) == _letters(self.size)), "")
        if not size:
            raise ConfigError(
                f"model.size={self.size!r:.80}; the sizes are {', '.join(SIZES)}"
                + did_you_mean(*_meant(self.size))
            )
        fields = SIZES[size] | self.execution() | self.changes(SIZES[size].get("rope_scaling"))
        return TransformerConfig(vocab_size=vocab_size, **fields)

    def changes(self, rope_scaling: Mapping | None = None) -> dict:
        """The settings that replace those of the size.

        Args:
          rope_scaling: that of the size, of which given settings replace some.
        """
        others = {"size", "mimetic", *EXECUTION}
        given = {k: v for k, v in vars(self).items() if v is not None and k not in others}
        if settings := given.get("rope_scaling"):
            given["rope_scaling"] = _rope_scaling({**(rope_scaling or {}), **settings})
        elif "rope_scaling" in given:
            given["rope_scaling"] = None
        return given

    def execution(self) -> dict:
        """Settings that change neither the parameters nor the architecture."""
        return {name: getattr(self, name) for name in EXECUTION}


def _letters(name: str) -> str:
    """A size's name without case and punctuation, so that llama3.1-8b and Llama3_1_8B are equal."""
    return re.sub(r"[._-]", "", name.lower())


def _parameters(name: str) -> float:
    """The number of parameters that a size's name says, as in 10m and qwen3-0.6b; 0.0 without."""
    said = re.search(r"(?:^|[-_])(\d+(?:\.\d+)?)([mb])(?![a-z])", name.lower())
    return float(said[1]) * {"m": 1e6, "b": 1e9}[said[2]] if said else 0.0


def _meant(name: str) -> list[str]:
    """The sizes that an unknown name may mean: of a number of parameters alone the nearest ones
    within a factor of two, else the one that is spelled most like it."""
    count = _parameters(name) if re.fullmatch(r"[\d.]+[mb]", name.lower()) else 0.0
    if not count:
        return [nearest(name.lower(), SIZES)]
    factors = {size: abs(math.log2(n / count)) for size in SIZES if (n := _parameters(size))}
    least = min(factors.values())
    return [size for size, factor in factors.items() if factor == least <= 1][:3]


def _rope_scaling(settings: Mapping) -> RopeScaling:
    known = [field.name for field in dataclasses.fields(RopeScaling)]
    for key in settings:
        if key not in known:
            raise ConfigError(
                f"unknown config key model.rope_scaling.{key}; known: {', '.join(known)}"
            )
    for key in ("kind", "factor"):
        if key not in settings:
            raise ConfigError(f"model.rope_scaling.{key} is missing, and has no default")
    return RopeScaling(**settings)


def read_saved(settings: Mapping) -> dict:
    """{dotted key: value} of a run's saved config, in which 0 may still mean None."""
    return {
        key: None if value == 0 and key in {f"model.{name}" for name in _ONCE_ZERO} else value
        for key, value in settings.items()
    }
