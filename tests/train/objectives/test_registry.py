"""The registry: the one place that names stages, and what derives from its rows."""

import ast
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
from etils import epath

from ranges import ConfigError
from train.config.run import RunConfig, build, default, keys
from train.objectives import registry
from train.objectives.reporting import Finished

ROOT = Path(__file__).resolve().parents[3]
ROOMS = ("model", "train", "data", "tpu")
# Words that are names of stages and of something else too: of roles and of their kinds of network.
ROLES = {role for row in registry.STAGES.values() for role in (*row.roles, *row.trainable)}


def named_stages(path: Path):
    """(line, name) of each stage that a file compares with, or lists beside another."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        parts = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
            mentions = any(isinstance(p, ast.Attribute) and p.attr == "stage" for p in parts)
        elif isinstance(node, ast.List | ast.Tuple | ast.Set):
            parts, mentions = node.elts, False
        elif isinstance(node, ast.Dict):
            parts, mentions = node.keys, False
        elif isinstance(node, ast.Match):
            parts, mentions = [case.pattern for case in node.cases], True
        for part in parts:
            for leaf in ast.walk(part) if part else ():
                value = getattr(leaf, "value", None)
                known = isinstance(leaf, ast.Constant) and value in registry.STAGES
                if known and (mentions or value not in ROLES):
                    yield leaf.lineno, value


def test_no_other_file_tests_for_a_stage():
    this = ROOT / "train" / "objectives" / "registry.py"
    files = [p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py")) if p != this]
    comparisons = [
        f"{p.relative_to(ROOT)}:{line}: {name}" for p in files for line, name in named_stages(p)
    ]
    assert not comparisons, (
        "a row of train/objectives/registry.py says what differs:\n" + "\n".join(comparisons)
    )
    assert {name for _, name in named_stages(this)} == set(registry.STAGES) - ROLES


def test_settings_of_an_objective_are_settings_of_a_run():
    for name, (settings, usual) in registry.fields().items():
        assert getattr(RunConfig(), name) == usual == settings()
        for field in dataclasses.fields(settings):
            assert f"{name}.{field.name}" in keys() and field.name in default()[name]
    recipe = default()
    recipe.simpo.gamma = 0.5
    assert build(recipe).simpo.gamma == 0.5
    assert set(default().init_from) == set(registry.roles())


@pytest.mark.parametrize("stage", registry.STAGES)
def test_a_run_that_measured_nothing_is_reported_without_a_result(stage):
    row = registry.STAGES[stage]
    run = Finished("a", stage, RunConfig(stage=stage), epath.Path("a"), [], [], 1.0)
    values = {k: v for k, v in row.report.numbers(run).items() if v is not None}
    assert not values or row.report.result(run, values, {stage: values}) is None


def test_the_folder_of_a_chain_is_no_run_to_start_from(tmp_path):
    for name in ("sft", "pretrain"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "models.json").write_text("{}")
    config = SimpleNamespace(init_from={"policy": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"of a chain; did you mean .*/pretrain or .*/sft\?"):
        registry.check_origins(config)
    (tmp_path / "config.json").write_text("{}")
    registry.check_origins(config)
