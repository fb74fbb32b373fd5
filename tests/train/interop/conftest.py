import open_models
import pytest

from train.interop import convert


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
