import shutil
from pathlib import Path

import jax
import open_models
import pytest

from train.interop import convert, published


@pytest.fixture(scope="session")
def hf_dir(tmp_path_factory):
    """A Hugging Face directory; tests read it alone."""
    return open_models.write(tmp_path_factory.mktemp("hf") / "model", open_models.VALUES)


@pytest.fixture(scope="session")
def run(hf_dir, tmp_path_factory):
    """The workdir of its import; tests read it alone."""
    path = tmp_path_factory.mktemp("run") / "base"
    convert.import_model(str(hf_dir), path)
    return path


@pytest.fixture(scope="session")
def steps_run(hf_dir, run, tmp_path_factory):
    """A copy of `run` with two more steps, whose weights are those of step 0 times 3, and at step 7
    times 7; tests read it alone."""
    path = Path(shutil.copytree(run, tmp_path_factory.mktemp("steps") / "run"))
    for step in (3, 7):
        scaled = jax.tree.map(lambda x, k=step: x * k, published.load(hf_dir)[1])
        open_models.save_role(path, "policy", scaled, step=step)
    return path
