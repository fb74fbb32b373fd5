"""The steps that are saved in a workdir, read from the names of its folders alone."""

from __future__ import annotations

from etils import epath

NOTHING = "nothing saved yet: the run starts again from step 0"


def committed_steps(workdir: epath.PathLike) -> dict[str, int]:
    """{stage: the step of its newest committed checkpoint}; of a run, which is no chain, the stage
    is ""."""
    workdir, newest = epath.Path(workdir), dict[str, int]()
    for pattern in ("checkpoints/*", "*/checkpoints/*"):
        for path in workdir.glob(pattern) if workdir.exists() else ():
            if path.name.isdigit():  # an uncommitted checkpoint has a longer name
                folder = path.parent.parent
                name = "" if folder == workdir else folder.name
                newest[name] = max(newest.get(name, 0), int(path.name))
    return newest


def describe(workdir: epath.PathLike) -> str:
    """The step from which the command that trains in a workdir resumes."""
    workdir, steps = epath.Path(workdir), committed_steps(workdir)
    if not workdir.exists():
        return NOTHING
    stages = {path.parent.name for path in workdir.glob("*/checkpoints")}
    done = {path.parent.name for path in workdir.glob("*/DONE")}
    again = "the same command resumes there"
    if not stages:
        if "" not in steps:
            return NOTHING
        return f"saved at step {steps['']}; {again}"
    texts = [f"{name} saved at step {steps[name]}" for name in stages - done if name in steps]
    texts += [f"{name} starts again from step 0" for name in stages - done - steps.keys()]
    kept = [f"{', '.join(sorted(done))} done"] if done else []
    return f"{'; '.join([*kept, *sorted(texts)])}; {again}"
