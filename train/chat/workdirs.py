"""The workdirs that a conversation opens: refused with a hint unless they hold the right model."""

from __future__ import annotations

from etils import epath

from data.read import json_files
from train.checkpoints import saved_models
from train.config.run_names import split_step
from train.objectives import registry


def check_workdir(workdir: epath.PathLike, flag: str = "workdir", role: str = "policy") -> None:
    """Refuses a workdir without a model of a role, and names nearby ones that have one.

    Args:
      flag: the flag that names the workdir.

    Raises:
      ValueError: no such model was trained there.
    """

    def roles(path: epath.Path) -> list[str]:
        return list(saved_models.read_models(path)) if (path / "models.json").exists() else []

    path = epath.Path(workdir)
    if role in roles(path):
        return
    if roles(path):
        lacks = "does not write text" if role == "policy" else "does not score answers"
        problem = f"holds a {' and a '.join(roles(path))} model, which {lacks}"
        nearby = path.parent
    else:
        problem = "is not the workdir of a run" if path.exists() else "does not exist"
        nearby = path if path.exists() else path.parent
    siblings = sorted(nearby.iterdir()) if nearby.is_dir() else []
    fitting = [str(p) for p in siblings if p.is_dir() and role in roles(p)]
    hint = f"; try --{flag}={' or '.join(fitting)}" if fitting else ""
    raise ValueError(f"--{flag}={workdir} {problem}{hint}")


def answers(workdir: epath.PathLike) -> bool:
    """Whether a workdir's model was trained to answer; true if its config.json names no stage."""
    path = epath.Path(split_step(str(workdir))[0]) / "config.json"
    stage = json_files.read(path).get("stage", "") if path.exists() else ""
    return registry.STAGES[stage].answers if stage in registry.STAGES else True
