"""All fuzz targets, grouped by the input that a user gives to Seedpod."""

from __future__ import annotations

import sys

from tests.fuzz.engine import ROOT

sys.path.insert(0, str(ROOT / "tests/helpers"))

from tests.fuzz import data_targets, model_targets, ranking_targets, run_targets

TARGETS = [
    *data_targets.TARGETS,
    *model_targets.TARGETS,
    *ranking_targets.TARGETS,
    *run_targets.TARGETS,
]
