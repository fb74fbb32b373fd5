import pytest
from scoring import fixture_models
from scoring.fixture_models import CHARACTERS

from train.tasks.scoring.scorer import Scorer


@pytest.fixture(scope="module")
def model():
    """(scorer, parameters, config) on one device."""
    mesh = fixture_models.make_mesh()
    config, params, _ = fixture_models.load("smollm2", mesh)
    return Scorer(config, CHARACTERS, mesh, tokens=512), params, config
