"""Budgets in place of a number of steps: `20x`, `1e9tokens`, `1e18flops`, `2h`.

They are turned into steps where the model and the rows are known (train/assembly/budget.py).
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from ranges import ConfigError

# {the end of a budget: what it counts}
UNITS = {"x": "tokens a parameter", "tokens": "tokens", "flops": "FLOPs", "h": "hours of steps"}
_FORM = re.compile(rf"([\d.]+(?:e[+-]?\d+)?) *({'|'.join(UNITS)})", re.IGNORECASE)


class Budget(NamedTuple):
    """An amount of one of `UNITS`."""

    amount: float
    unit: str


def parse(text: str, setting: str = "budget") -> Budget:
    """The budget that a text such as `20x` denotes.

    Raises:
      ConfigError: it has another form, or is nothing.
    """
    match = _FORM.fullmatch(text.strip())
    try:
        amount = float(match[1]) if match else 0.0
    except ValueError:
        amount = 0.0
    if not match or not (0 < amount < math.inf):
        raise ConfigError(
            f"{setting}={text!r:.80} is no budget; write a number of steps, 20x (tokens a "
            "parameter), 1e9tokens, 1e18flops or 2h (hours)"
        )
    return Budget(amount, match[2].lower())


def from_steps(text: str) -> dict[str, Any]:
    """The settings that `steps=TEXT` stands for.

    Raises:
      ConfigError: it is neither a number nor a budget.
    """
    if re.fullmatch(r"\d+", text.strip()):
        return {"steps": int(text), "budget": ""}
    parse(text, "steps")
    return {"budget": text}
