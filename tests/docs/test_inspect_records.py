"""The part of docs/inspect.md on runs and rollouts, run on the stages that other tests train."""

import ast

import documentation
import pytest
from documentation import ROOT

PAGE = ROOT / "docs/inspect.md"


@pytest.mark.slow
def test_every_statement_runs_and_every_result_shows_itself(stages_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, names in {"demo": ("pretrain", "sft", "reward", "ppo"), "other": ("ppo",)}.items():
        (tmp_path / "runs" / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / "runs" / folder / name).symlink_to(stages_dir / name)
    _, _, part = PAGE.read_text().partition("## Runs and rollouts")
    names = {}
    exec("from train import inspect", names)
    for block in documentation.blocks(part):
        for node in ast.parse(block.text).body if block.language == "python" else []:
            if not isinstance(node, ast.Expr):
                exec(compile(ast.Module([node], []), str(PAGE), "exec"), names)
                continue
            result = eval(compile(ast.Expression(node.value), str(PAGE), "eval"), names)
            assert result is None or repr(result)
    runs = [f"runs/demo/{name}" for name in ("ppo", "pretrain", "reward", "sft")]
    assert names["frame"].index.tolist() == runs
    assert names["curves"].figure.axes[0].get_ylabel() == "nats a token, nats a pair"
    assert names["step"] == 4 and names["replay"].equal and names["comparison"].equal
