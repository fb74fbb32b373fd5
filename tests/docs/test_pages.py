"""Links, paths, settings and Python in the documentation are those of the code."""

import ast
import importlib
import importlib.util
import re

import documentation
import pytest
from documentation import PACKAGES, ROOT

from configs import base
from train.config.run import build, default, keys

# docs/extending.md is tested by doing what it says: test_extending.py. Decisions, log and
# benchmarks also speak of what was once, and the checklist of functions.
OTHERS = ("extending.md", "decisions.md", "log.md", "benchmarks.md", "ppo_checklist.md")
# Pages whose Python a test of their own runs, block by block.
RUN = ("inspect.md",)
CURRENT = [path for path in documentation.pages() if path.name not in OTHERS]
GROUPS = {name for name, value in default().items() if hasattr(value, "items")}


def ids(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", documentation.pages(), ids=ids)
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#]+)\)", documentation.prose(path.read_text())):
        assert link.startswith("https://") or (path.parent / link).exists(), link


@pytest.mark.parametrize("path", CURRENT, ids=ids)
def test_paths_and_settings_exist(path):
    known = keys()
    for span in documentation.spans(path.read_text()):
        name = span.removeprefix("--config.").partition("=")[0].rstrip("…")
        if re.fullmatch(
            rf"({'|'.join(PACKAGES)}|docs|scripts)/[\w/-]*(\.(py|md|sh))?(:\S+)?", span
        ):
            assert (ROOT / span.partition(":")[0]).exists(), span
        elif re.fullmatch(r"[a-z]\w*(\.\w+)+", name) and name.partition(".")[0] in GROUPS:
            free = ("data.fields.", "data.filters.", "data.mixture.", "init_from.", "evals.")
            free += ("model.rope_scaling.", "data.transforms.", "data.passages.weights.")
            if importlib.util.find_spec(name.partition(".")[0]) and is_module(name):
                continue
            assert name in known or name.startswith(free), span


def is_module(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("path", CURRENT, ids=ids)
def test_python_compiles_and_imports_what_there_is(path):
    for block in documentation.blocks(path.read_text()):
        if block.language != "python":
            continue
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")
        if "import" not in block.text and path.name not in RUN:  # settings of a recipe
            config = base.get_config()
            exec(compile(block.text, str(path), "exec"), {"config": config})
            build(config)


def test_paths_in_code_exist():
    path_pattern = re.compile(
        rf"(?<![\w./-])(?<!ggml's )(?:{'|'.join(PACKAGES)}|docs)/[a-z_/]+\.(?:py|md)\b"
    )
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for folder in PACKAGES
        if folder != "tests"  # which invent some
        for path in (ROOT / folder).rglob("*.py")
        for name in path_pattern.findall(path.read_text())
        if not (ROOT / name).exists()
    }
    assert not missing


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "docs/architecture.md"], ids=ids)
def test_trees_show_what_there_is(path):
    trees = [b.text for b in documentation.blocks(path.read_text()) if b.text.startswith("model/")]
    assert len(trees) == 1
    folder = ROOT
    for line in trees[0].splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = ROOT / name
            assert folder.exists(), name
        elif line.startswith("  ") and not line.startswith("   "):
            assert (folder / name).exists(), f"{folder.name}/{name}"
