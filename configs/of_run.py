"""The settings of a run that there is, to change some of them.

    python -m train --config=configs/of_run.py:runs/first --workdir=runs/second --config.seed=1

The argument is a workdir, or WORKDIR@STEP for the settings with which that checkpoint was saved.
`--fork=WORKDIR@STEP` implies it.

Hardware, time and what to expect: as of that run.
"""

import ml_collections

from train.config import saved


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    if not arg:
        raise ValueError("this recipe needs a run: --config=configs/of_run.py:WORKDIR[@STEP]")
    return saved.recipe_of(arg)
