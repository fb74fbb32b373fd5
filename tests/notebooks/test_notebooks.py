"""The notebooks run from their first cell to their last on the runs of a small chain."""

import os
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient", reason="pip install 'seedpod[test]'")
import nbformat  # noqa: E402, comes with nbclient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# {notebook: the number of its figures}
FIGURES = {
    "compare_runs": 4, "evaluate": 1, "inspect_checkpoint": 3, "rollouts": 1, "talk_to_it": 0
}  # fmt: skip
# Forgets what a notebook has defined, and begins where Jupyter would.
RESET = "%reset -f\nimport os\nos.chdir({folder!r})\ndel os"


@pytest.fixture(scope="module")
def runs(stages_dir, tmp_path_factory):
    """The workdirs of the demo, by its names."""
    folder = tmp_path_factory.mktemp("demo")
    for name in ("pretrain", "sft", "reward", "ppo"):
        (folder / name).symlink_to(stages_dir / name)
    (folder / "judge").symlink_to(stages_dir / "reward")
    return folder


@pytest.fixture(scope="module")
def executed(runs):
    """{name: cells with their outputs}. One kernel runs them all, as most of the time of a short
    notebook goes into imports and compiling."""
    whole, names = nbformat.v4.new_notebook(), []
    for path in NOTEBOOKS:
        reset = nbformat.v4.new_code_cell(RESET.format(folder=str(path.parent)))
        cells = [reset, *nbformat.read(path, 4).cells]
        whole.cells += cells
        names += [path.stem] * len(cells)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests/helpers")])  # which has a reward function
    env = os.environ | {"SEEDPOD_RUNS": str(runs), "PYTHONPATH": path}
    env.pop("MPLBACKEND", None)
    nbclient.NotebookClient(whole, timeout=120, allow_errors=True).execute(env=env)
    return {
        name: [cell for cell, of in zip(whole.cells, names) if of == name] for name in set(names)
    }


def outputs(cells):
    return [output for cell in cells for output in cell.get("outputs", ())]


@pytest.mark.parametrize("name", FIGURES)
def test_a_notebook_runs_and_draws_its_figures(executed, name):
    found = outputs(executed[name])
    errors = ["\n".join(o.traceback) for o in found if o.output_type == "error"]
    assert not errors, errors[0]
    shown = [o.data for o in found if "data" in o]
    pictures = [d for d in shown if "image/png" in d or "data:image/png" in d.get("text/html", "")]
    assert len(pictures) == FIGURES[name]


def test_what_a_notebook_says_is_so(executed):
    texts = {
        name: "\n".join(o.data["text/plain"] for o in outputs(cells) if "data" in o)
        for name, cells in executed.items()
    }
    assert "is equal bit for bit" in texts["rollouts"]
    assert "no token differs in rollouts 0, 4" in texts["rollouts"]
    assert "finished" in texts["compare_runs"]


def test_every_notebook_is_tested_and_kept_without_outputs():
    assert [path.stem for path in NOTEBOOKS] == sorted(FIGURES)
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, 4)
        first, second = notebook.cells[:2]
        assert first.cell_type == "markdown" and second.source.startswith("# What is imported")
        assert "google.colab" in second.source and "SEEDPOD_RUNS" in second.source
        for cell in notebook.cells:
            assert not cell.get("outputs") and cell.get("execution_count") is None
