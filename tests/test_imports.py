"""The rules between the rooms (docs/architecture.md), read from the imports of every file.

Imports inside functions count; those under `if TYPE_CHECKING` do not. Tests may import commands.
"""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("model", "data", "train", "tpu", "configs", "benchmarks", "notebooks", "tests")
ROOMS = ("model", "data", "train", "tpu")
# What a room may import of the tree; files at the root may be imported by all, and import nothing.
FLOORS = {
    "model": ("model",),
    "data": ("data",),
    "train": ("train", "model", "data", "tpu.chips"),
    "tpu": ("tpu", "train", "model", "data"),
    "tpu.chips": ("tpu.slices",),
    "tpu.slices": (),
    "configs": ("configs", "train.config"),
}
MOST_LINES, MOST_COMMAND_LINES, MOST_FILES = 400, 60, 15


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def statements_of(tree: ast.AST):
    """All statements but those under `if TYPE_CHECKING`, and what is between them and those inside
    them."""
    parents = [tree]
    while parents:
        for node in ast.iter_child_nodes(parents.pop()):
            if not isinstance(node, ast.expr) and not is_type_checking(node):
                yield node
                parents.append(node)


def imports_of(source: str, modules) -> set[str]:
    """The modules among `modules` that a file imports."""
    names = set()
    for node in statements_of(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write imports from the root"
            # Of `from a import b`, b is a module or a name in a.
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inner & modules or {node.module}
            names |= {node.module} if inner - modules else set()
    return names & modules


def is_command(path: Path, source: str) -> bool:
    return path.name == "__main__.py" or '\nif __name__ == "__main__":' in source


@functools.cache
def sources() -> dict[str, tuple[Path, str]]:
    """{module: (file, its source)} of the tree."""
    paths = [*ROOT.glob("*.py"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.py"))]
    found = {}
    for path in paths:
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path, path.read_text()
    return found


@functools.cache
def graph() -> dict[str, set[str]]:
    """{module: the modules of the tree that it imports}."""
    modules = sources().keys()
    return {name: imports_of(text, modules) - {name} for name, (_, text) in sources().items()}


def commands() -> set[str]:
    return {
        name for name, (path, text) in sources().items()
        if name.split(".")[0] in ROOMS and is_command(path, text)
    }  # fmt: skip


def within(name: str, floor: str) -> bool:
    return name == floor or name.startswith(floor + ".")


def arrows_upward(graph, commands, root_files) -> list[str]:
    """`a imports b` for each import that its floor does not allow."""
    wrong = []
    for name, imported in sorted(graph.items()):
        floor = max((f for f in FLOORS if within(name, f)), key=len, default=None)
        if name in commands or (floor is None and name not in root_files):
            continue
        allowed = FLOORS.get(floor, ())
        for other in sorted(imported - root_files):
            if not any(within(other, a) for a in allowed):
                wrong.append(f"{name} imports {other}")
    return wrong


def cycles(graph) -> list[list[str]]:
    """Groups of modules that reach each other (Tarjan's strongly connected components)."""
    index, low, stack, groups = {}, {}, [], []

    def visit(name):
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == index[name]:
            at = stack.index(name)
            if stack[at + 1 :]:
                groups.append(sorted(stack[at:]))
            del stack[at:]

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return groups


def test_no_arrow_points_upward():
    root_files = {name for name, (path, _) in sources().items() if path.parent == ROOT}
    assert arrows_upward(graph(), commands(), root_files - {"setup"}) == []


def test_no_cycle_between_files():
    assert cycles(graph()) == []


def test_nothing_imports_a_command_and_a_command_is_short():
    product = [name for name in graph() if not within(name, "tests")]
    imported = [f"{name} imports {c}" for name in product for c in graph()[name] & commands()]
    lines = {name: len(sources()[name][1].splitlines()) for name in commands()}
    assert sorted(imported) == []
    assert {name: n for name, n in lines.items() if n > MOST_COMMAND_LINES} == {}


def test_files_and_folders_are_small():
    lengths = {str(p.relative_to(ROOT)): len(text.splitlines()) for p, text in sources().values()}
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}
    folders = {}
    for path, _ in sources().values():
        folders[path.parent] = folders.get(path.parent, 0) + 1
    assert {str(folder): n for folder, n in folders.items() if n > MOST_FILES} == {}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import model.a", {"model.a"}),
        ("from model import a, name", {"model", "model.a"}),
        ("def f():\n    from model.a import g", {"model.a"}),
        ("if TYPE_CHECKING:\n    import model.a", set()),
        ("import numpy", set()),
    ],
)
def test_imports_are_read(source, expected):
    assert imports_of(source, {"model", "model.a"}) == expected


def test_a_wrong_tree_is_told():
    tree = {
        "model.a": {"train.b"},
        "train.b": {"model.a", "tpu.chips", "tpu.fit.c"},
        "tpu.fit.c": set(),
        "tpu.chips": set(),
        "data.d": {"model.a"},
        "data.__main__": {"model.a"},
    }
    assert arrows_upward(tree, {"data.__main__"}, set()) == [
        "data.d imports model.a",
        "model.a imports train.b",
        "train.b imports tpu.fit.c",
    ]
    assert cycles(tree) == [["model.a", "train.b"]]
