"""Public functions say what they take and return; mypy (`make lint`) holds them to it."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHECKED = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["files"]
FILES = sorted(
    str(path.relative_to(ROOT))
    for name in CHECKED
    for path in ([ROOT / name] if name.endswith(".py") else (ROOT / name).rglob("*.py"))
)


def public_functions(
    body: list[ast.stmt], owner: str = ""
) -> Iterator[tuple[str, ast.FunctionDef]]:
    """(name, definition) of a module's public functions and of its public classes' methods."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, f"{node.name}.")
        if isinstance(node, ast.FunctionDef) and (
            node.name in ("__init__", "__call__") or not node.name.startswith("_")
        ):
            yield owner + node.name, node


def missing(function: ast.FunctionDef, method: bool) -> list[str]:
    """The parameters without a hint, and `return`."""
    given = function.args
    parameters = given.posonlyargs + given.args + given.kwonlyargs
    static = any(
        isinstance(d, ast.Name) and d.id == "staticmethod" for d in function.decorator_list
    )
    names = [a.arg for a in parameters[method and not static :] if a.annotation is None]
    return names + ["return"] * (function.returns is None and function.name != "__init__")


@pytest.mark.parametrize("file", FILES)
def test_public_functions_have_type_hints(file):
    tree = ast.parse((ROOT / file).read_text())
    missing_hints = {name: missing(f, "." in name) for name, f in public_functions(tree.body)}
    assert {name: hints for name, hints in missing_hints.items() if hints} == {}
