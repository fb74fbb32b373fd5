"""Patterns of weights in settings: `query,value`, `layers/.*`, `value/backbone/embedding`.

Patterns are regular expressions, separated by commas. One matches a parameter if it matches its
whole path or the end of it from some name on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ranges import ConfigError
from suggestions import nearest

Path = tuple[str, ...]


def path_text(path: Path) -> str:
    """A path as a pattern matches it, such as `layers/mlp/up`."""
    return "/".join(path)


def select(patterns: str, paths: Iterable[Path], setting: str, groups: Mapping = {}) -> set[Path]:
    """The parameters that patterns match.

    Args:
      setting: the key of the patterns, for messages.
      groups: {path: the name of its group}, which a pattern may match too.

    Raises:
      ConfigError: one matches none, or is no regular expression.
    """
    names = {path: [path_text(path[i:]) for i in range(len(path))] for path in paths}
    for path, group in groups.items():
        names[path].append(group)
    selected = set()
    for pattern in filter(None, (p.strip() for p in patterns.split(","))):
        try:
            expression = re.compile(pattern)
        except re.error as e:
            raise ConfigError(f"{setting}: {pattern!r} is no regular expression: {e}") from e
        matched = {path for path, texts in names.items() if any(map(expression.fullmatch, texts))}
        if not matched:
            known = {text: path for path, texts in names.items() for text in texts}
            near = nearest(pattern, known, cutoff=0)
            raise ConfigError(
                f"{setting}: {pattern!r} matches no parameter"
                + (f"; the nearest is {path_text(known[near])}" if near else "")
            )
        selected |= matched
    return selected
