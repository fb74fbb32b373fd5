"""The program of a run's step, compiled while the run is set up."""

import json

import pytest
from sample_runs.stage_runs import stages_dir  # noqa: F401, a fixture
from stage_fixtures import ORIGINS


@pytest.mark.parametrize("stage", ORIGINS)
def test_the_step_is_compiled_once_in_a_thread(stages_dir, stage):  # noqa: F811
    path = (stages_dir / stage).with_suffix(".compiled.json")
    # Arguments of other types or places than the run's own would compile it again.
    assert json.loads(path.read_text()) == ["compile"]
