"""The settings of a run that there is, to change some of them.

    python -m train --config=configs/of_run.py:run=runs/first --workdir=runs/other --config.seed=1

Choices: `run`, a workdir, or WORKDIR@STEP for the settings with which that checkpoint was saved.
`--fork=WORKDIR@STEP` implies this recipe.

Hardware: as of that run.
Time: as of that run.
Expect: with nothing changed, the same numbers.
"""

import ml_collections

from configs import base
from train.config import saved


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    name = base.choices(arg, run="")["run"]
    if not name:
        raise ValueError("name a run: --config=configs/of_run.py:run=WORKDIR")
    return saved.recipe_of(name)
