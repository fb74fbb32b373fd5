"""The stages of stage_fixtures, trained when a test first asks for one."""

import dataclasses
import json
import os
import sys
import threading
import typing
from collections.abc import Iterator
from typing import Any

import jax
import pytest
from stage_fixtures import ORIGINS, Stages, recipe

from model import sharding
from model.config import TransformerConfig
from train import loop
from train.config import run as configs


def config_classes(cls: Any = configs.RunConfig) -> Iterator[Any]:
    yield cls
    for kind in typing.get_type_hints(cls).values():
        if dataclasses.is_dataclass(kind):
            yield from config_classes(kind)


def record_reads(patch: pytest.MonkeyPatch) -> set[str]:
    """Makes every config dataclass note which fields are read, but by its own checks and copies."""
    read = set()
    for cls in {*config_classes(), TransformerConfig}:
        names = {f.name for f in dataclasses.fields(cls)}

        def get(self, name, cls=cls, names=names):
            if name in names:
                code = sys._getframe(1).f_code
                generated = code.co_filename in ("<string>", dataclasses.__file__)
                if not generated and code.co_name != "__post_init__":
                    read.add(f"{cls.__name__}.{name}")
            return object.__getattribute__(self, name)

        patch.setattr(cls, "__getattribute__", get)
    return read


@pytest.fixture(scope="session")
def stages_dir(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """Every stage trained for 8 steps on one device when a test first asks for it; tests of stages
    start from them. Beside each, STAGE.fields.json names the settings that its run read, and
    STAGE.compiled.json the thread in which its step was traced, each time."""

    def train(stage, stages):
        paths = {role: stages / origin for role, origin in ORIGINS[stage].items()}
        with pytest.MonkeyPatch.context() as patch:
            reads = record_reads(patch)
            one = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
            threads = list[str]()

            def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
                if event.endswith("jaxpr_trace_duration") and kwargs["fun_name"] == "train_step":
                    threads.append(threading.current_thread().name.partition("_")[0])

            jax.monitoring.register_event_duration_secs_listener(note)
            loop.run(recipe(stage, stages, **paths), stages.directory / stage, one)
            jax.monitoring.unregister_event_duration_listener(note)
        (stages.directory / f"{stage}.compiled.json").write_text(json.dumps(threads))
        (stages.directory / f"{stage}.fields.json").write_text(json.dumps(sorted(reads)))

    directory = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = directory.parent  # which the workers share
    return Stages(directory / "stages", train)
