"""Runs of `tpu.launch local` as subprocesses: all stages of tiny recipes, and what they logged."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quick_compile import FLAGS

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
from pathlib import Path

import ml_collections
from stage_fixtures import recipe

ORIGINS = {"pretrain": {}, "sft": {"policy": "pretrain"}, "reward": {"policy": "sft"},
           "ppo": {"policy": "sft", "reward": "reward"}}


def get_config(tensor="1"):
    config = ml_collections.ConfigDict()
    config.order = tuple(ORIGINS)
    config.stages = {s: recipe(s, Path(__file__).parent, **o) for s, o in ORIGINS.items()}
    for stage in config.stages.values():
        stage.mesh.tensor = int(tensor)
    return config
"""
ONE = """
from pathlib import Path

from stage_fixtures import recipe


def get_config(steps):
    config = recipe("pretrain", Path(__file__).parent)
    config.steps = int(steps)
    config.checkpoint.every = 5
    config.checkpoint.keep = 3
    return config
"""
TIMING = ("elapsed_seconds", "tokens_per_second", "data_wait", "rollout/seconds", "mfu",
          "rollout/tokens_per_second", "rollout/share")  # fmt: skip


def start(arguments: Iterable[object], **settings: Any) -> subprocess.Popen[str]:
    """`python <arguments>` with the tests' helpers to import, and compiled in a hurry."""
    env = dict(os.environ, JAX_PLATFORMS="cpu", XLA_FLAGS=FLAGS)
    env["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'helpers'}"
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **settings,
    )  # fmt: skip


def launch(*arguments: object, timeout: float = 600) -> tuple[int, str]:
    """(exit code, output) of `python -m tpu.launch <arguments>`."""
    process = start(["-m", "tpu.launch", *arguments])
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        process.terminate()
    return process.returncode, output


def records(workdir: Path | str) -> list[dict]:
    """metrics.jsonl without what differs between two runs of the same numbers: times, and saves
    that had to be tried again."""
    lines = (Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in r.items() if k not in TIMING and not k.startswith("checkpoint/")}
        for r in map(json.loads, lines)
    ]


def last_step(workdir: Path | str) -> int:
    """The last step that a run which may be at work has logged."""
    path = Path(workdir) / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return max((json.loads(line)["step"] for line in lines), default=0)


def workers(workdir: Path | str) -> dict[int, int]:
    """{number: pid} of the processes of the run in `workdir`."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
        except OSError:
            continue
        if f"--workdir={workdir}" in words and "-m" in words and "tpu.launch" not in words:
            number = next((w for w in words if w.startswith("--process_id=")), None)
            if number:
                found[int(number.split("=")[1])] = int(path.parent.name)
    return found
