import dataclasses
import json
import os
import sys
import typing

import jax
import jax.numpy as jnp
import pytest
from stage_fixtures import ORIGINS, Stages, recipe, write_files

from model import sharding
from model.config import TransformerConfig
from model.lora import LoRA
from model.sizes import SIZES
from model.transformer import Transformer
from train import loop
from train.assembly.partition import divide
from train.config import run as configs
from train.config.run import RunConfig


def config_classes(cls=configs.RunConfig):
    yield cls
    for kind in typing.get_type_hints(cls).values():
        if dataclasses.is_dataclass(kind):
            yield from config_classes(kind)


def record_reads(patch) -> set:
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


def trace_other_branches() -> None:
    """Reads what a dense model on a CPU does not: a mixture's settings, attention in blocks; and
    what stands beside frozen weights."""
    adapted = RunConfig(lora=LoRA(rank=1))
    part = divide(adapted, {"policy": {"layers": {"query": 0, "value": 0}}})["policy"]
    assert part.lora.scale == 16
    mixture = TransformerConfig(
        vocab_size=9, num_experts=2, experts_per_token=1, attention="chunked", **SIZES["tiny"]
    )
    model, tokens = Transformer(mixture), jnp.zeros((1, 4), jnp.int32)
    jax.eval_shape(lambda: model.apply(model.init(jax.random.key(0), tokens), tokens))


@pytest.fixture(scope="session")
def stages_dir(tmp_path_factory):
    """Every stage trained for 8 steps on one device when a test first asks for it; tests of stages
    start from them. Beside each, STAGE.fields.json names the settings that its run read."""

    def train(stage, stages):
        paths = {role: stages / origin for role, origin in ORIGINS[stage].items()}
        with pytest.MonkeyPatch.context() as patch:
            reads = record_reads(patch)
            one = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
            loop.run(recipe(stage, stages, **paths), stages.directory / stage, one)
        (stages.directory / f"{stage}.fields.json").write_text(json.dumps(sorted(reads)))

    directory = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = directory.parent  # which the workers share
    return Stages(directory / "stages", train)


@pytest.fixture(scope="session")
def fields_read(stages_dir):
    """The settings that the stages read, all of them trained."""
    with pytest.MonkeyPatch.context() as patch:
        reads = record_reads(patch)
        trace_other_branches()
    for stage in ORIGINS:
        reads |= {*json.loads((stages_dir / stage).with_suffix(".fields.json").read_text())}
    return reads


@pytest.fixture
def tiny(tmp_path):
    """A recipe of a few steps, with checkpoints between them."""
    write_files(tmp_path)
    config = recipe("pretrain", tmp_path)
    config.model.num_layers = 1
    config.data.heldout_limit = 16
    config.steps, config.log_every, config.checkpoint.every = 4, 3, 2
    config.evaluate.at_start = False
    return config
