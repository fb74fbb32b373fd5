"""docs/inspect.md, run statement by statement beside tiny checkpoints under the names it uses.

The part on runs is that of test_inspect_records.py.
"""

import ast
import dataclasses

import documentation
import matplotlib.figure
import numpy as np
from documentation import ROOT
from sample_runs.random_runs import CONFIG, write_run

PAGE = ROOT / "docs/inspect.md"
MODEL = dataclasses.replace(CONFIG, num_layers=4, max_length=128)


def test_every_statement_runs_and_every_result_shows_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs/demo/ppo", MODEL, {"policy": 1, "value": 2}, step=60)
    write_run(tmp_path / "runs/demo/sft", MODEL, {"policy": 3})
    write_run(tmp_path / "runs/demo/reward", MODEL, {"reward": 4})
    names, figures = {}, 0
    page, heading, _ = PAGE.read_text().partition("## Runs and rollouts")
    assert heading
    for block in documentation.blocks(page):
        for node in ast.parse(block.text).body if block.language == "python" else []:
            if not isinstance(node, ast.Expr):
                exec(compile(ast.Module([node], []), str(PAGE), "exec"), names)
                continue
            result = eval(compile(ast.Expression(node.value), str(PAGE), "eval"), names)
            if isinstance(result, matplotlib.figure.Figure):
                result.draw_without_rendering()
                assert result.get_suptitle() and result.axes[0].get_ylabel()
                figures += 1
            elif hasattr(result, "_repr_html_"):
                assert result._repr_html_().count("<") > 5
            assert result is None or repr(result)
    assert figures > 5
    assert names["lens"].logits(-1).shape == (len(names["lens"].tokens.ids), MODEL.vocab_size)
    assert np.isfinite(names["losses"].mean) and np.isfinite(names["rewards"].score)
