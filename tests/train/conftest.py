import dataclasses
import sys
import typing

import jax
import jax.numpy as jnp
import pytest
from stage_fixtures import recipe, write_files

from model import sharding
from model.config import TransformerConfig
from model.lora import LoRA
from model.sizes import SIZES
from model.transformer import Transformer
from train import loop
from train.config import run as configs
from train.config.run import RunConfig
from train.trainable import divide


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
def fields_read():
    return set()


@pytest.fixture(scope="session")
def stages_dir(tmp_path_factory, fields_read):
    """Every stage trained once for 8 steps on one device; tests of stages start from them."""
    directory = tmp_path_factory.mktemp("stages")
    write_files(directory)
    with pytest.MonkeyPatch.context() as patch:
        reads = record_reads(patch)
        one = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
        for stage, roles in (
            ("pretrain", {}),
            ("sft", {"policy": "pretrain"}),
            ("reward", {"policy": "sft"}),
            ("dpo", {"policy": "sft"}),
            ("ppo", {"policy": "sft", "reward": "reward"}),
            ("grpo", {"policy": "sft", "reward": "reward"}),
        ):
            paths = {role: directory / origin for role, origin in roles.items()}
            loop.run(recipe(stage, directory, **paths), directory / stage, one)
        trace_other_branches()
        fields_read |= reads
    return directory
