"""Runs and checkpoints opened in Python: weights, the values inside a forward pass, records.

    from train import inspect

    m = inspect.open("runs/demo/ppo@60")

docs/inspect.md shows what can be asked. Each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {
    "open": "opening",
    "Model": "model",
    "curves": "records.curves",
    "first_difference": "records.rollouts",
    "replay": "records.replay",
    "rollouts": "records.rollouts",
    "runs": "records.runs",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_MODULES)
