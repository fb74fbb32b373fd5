"""Imports are of this checkout, installations are complete, and tests run in the right place."""

import ast
import importlib
import re
import runpy
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["model", "train", "data", "configs", "tpu", "benchmarks"]
# What a benchmark runs with another Python, which has packages of its own.
OTHERS = {
    *(ROOT / "benchmarks").rglob("*_side.py"),
    ROOT / "benchmarks" / "evaluation" / "harness.py",
}
MODULES = ["interpreter", "loopback", "plugins", "printable", "ranges", "registry", "suggestions"]
SOURCES = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
SINGLE = [ROOT / f"{name}.py" for name in MODULES]


@pytest.fixture
def setup_arguments(monkeypatch):
    """The keyword arguments of setup.py's setup(), without building anything."""
    captured = {}
    monkeypatch.setattr("setuptools.setup", captured.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    return captured


def distribution_names(requirements):
    """['Jax[tpu]>=0.10', ...] -> {'jax', ...}, in the normal form of PEP 503."""
    return {normalize(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


def normalize(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def imports(path):
    """Yields (top-level name, whether it runs when the file is imported) for absolute imports."""

    def visit(node, at_import):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], at_import
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0], at_import
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Try)
        lazy |= isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_import and not lazy)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), True)


@pytest.mark.parametrize("name", PACKAGES)
def test_the_package_imported_is_ours(name):
    """`data` and `model` are common names: another one on the path must not shadow ours."""
    module = importlib.import_module(name)
    assert Path(module.__file__).resolve() == ROOT / name / "__init__.py"


def test_setup_finds_every_directory_of_code_and_no_other(setup_arguments):
    assert setup_arguments["py_modules"] == MODULES
    of_code = {".".join(path.parent.relative_to(ROOT).parts) for path in SOURCES}
    assert set(setup_arguments["packages"]) == of_code


def test_setup_takes_every_file_that_is_no_code(setup_arguments):
    data = setup_arguments["package_data"].items()
    taken = {
        path for package, patterns in data for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }  # fmt: skip
    kept = ("*.html", "*.css", "*.js")
    files = {path for name in PACKAGES for kind in kept for path in (ROOT / name).rglob(kind)}
    assert taken == files


def test_test_directories_are_not_packages():
    """A tests/data/__init__.py would make pytest import tests/data as `data`."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_requirements_cover_every_import(setup_arguments):
    """An import at the top of a file needs install_requires; a lazy one may need an extra."""
    required = distribution_names(setup_arguments["install_requires"])
    optional = {
        name
        for requirements in setup_arguments["extras_require"].values()
        for name in distribution_names(requirements)
    }
    distributions = metadata.packages_distributions()
    missing = []
    for path in {*SOURCES, *SINGLE} - OTHERS:
        for name, at_import in imports(path):
            if name in sys.stdlib_module_names or name in PACKAGES + MODULES:
                continue
            providers = {normalize(d) for d in distributions.get(name, [name])}
            if not providers & (required if at_import else required | optional):
                missing.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not missing, "add to install_requires in setup.py:\n" + "\n".join(missing)


def test_what_is_required_is_locked(setup_arguments):
    """Workers of a pod and the container install these versions."""
    lock = (ROOT / "tpu" / "launch" / "requirements.txt").read_text().splitlines()
    required = setup_arguments["install_requires"] + setup_arguments["extras_require"]["tpu"]
    assert distribution_names(required) <= distribution_names(lock)


def test_setup_wants_the_python_that_ruff_checks_for(setup_arguments):
    assert setup_arguments["python_requires"] == ">=3.11"
    assert 'target-version = "py311"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_there_are_eight_cpu_devices():
    import jax

    assert [device.platform for device in jax.devices()] == ["cpu"] * 8
