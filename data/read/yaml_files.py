"""YAML files that people write, whose keys have lines for errors, and stand once each."""

from __future__ import annotations

from typing import Any

import yaml
from etils import epath

from data.errors import DataError
from data.read import paths


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a second key of the same name, of which it would drop the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = set[str]()
        for key, _ in node.value:
            if (name := str(key.value)) in names:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {name!r:.40} is there twice", problem_mark=key.start_mark
                )
            names.add(name)
        return super().construct_mapping(node, deep)


def read(path: str, wanted: str) -> tuple[dict[str, Any], dict[str, int]]:
    """({key: value}, {key: its line}) of a file.

    Args:
      wanted: how such a file begins, for the error about one that has no keys.

    Raises:
      DataError: with file and line: it cannot be read, is not YAML, or has a key twice.
    """
    if not epath.Path(path).exists():
        paths.expand(path)  # names the nearest file
    try:
        loader = _Loader(epath.Path(path).read_text())
        node = loader.get_single_node()
        values = loader.construct_document(node) if node else None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        why = "" if isinstance(error, yaml.constructor.ConstructorError) else "not YAML: "
        raise DataError(f"{path}:{line}: {why}{error.problem}") from None
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not YAML: {' '.join(str(error).split()):.200}") from None
    if not isinstance(values, dict) or not values:
        raise DataError(f"{path}: {wanted}")
    lines = {str(key.value): key.start_mark.line + 1 for key, _ in node.value}
    return {str(key): value for key, value in values.items()}, lines
