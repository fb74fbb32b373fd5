"""Standard JSON: NaN and Infinity, which the standard does not have, are written as null."""

from __future__ import annotations

import json
import math
from typing import Any


def finite(value: Any) -> Any:
    """A value for JSON with None in place of every float that is not finite."""
    if isinstance(value, dict):
        return {name: finite(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [finite(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def dumps(value: Any, **options: Any) -> str:
    """`json.dumps` of a value with null in place of every float that is not finite."""
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:  # a number that is not finite
        return json.dumps(finite(value), allow_nan=False, **options)
