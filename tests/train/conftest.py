import jax
import pytest

from model import sharding
from train import loop


@pytest.fixture(scope="session")
def stages_dir(tmp_path_factory):
    """The four stages trained once for 8 steps on one device; tests of stages start from them."""
    from stage_fixtures import recipe, write_files

    directory = tmp_path_factory.mktemp("stages")
    write_files(directory)
    one = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    loop.run(recipe("pretrain", directory), directory / "pretrain", one)
    loop.run(recipe("sft", directory, policy=directory / "pretrain"), directory / "sft", one)
    loop.run(recipe("reward", directory, policy=directory / "sft"), directory / "reward", one)
    roles = {"policy": directory / "sft", "reward": directory / "reward"}
    loop.run(recipe("ppo", directory, **roles), directory / "ppo", one)
    return directory
