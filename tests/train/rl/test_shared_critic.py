"""PPO whose critic is a head on the policy: its numbers, whom its loss moves, and whole runs."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_ppo
from episodes import CONFIG, MASK, B, R, make, make_batch, random_params

from model import sharding
from model.heads import ValueHead, value_model
from model.transformer import Transformer
from ranges import ConfigError
from train import loop
from train.assembly.run import init_state, setup
from train.checkpoints import loading
from train.config import run as configs
from train.objectives import registry
from train.step import accumulate_gradients


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("shared")
    tiny_ppo.write_origins(directory)
    return directory


def recipe(directory, **ppo):
    config = tiny_ppo.recipe("ppo", directory)
    config.ppo.shared_critic = True
    config.ppo.update(ppo)
    return config


def test_values_are_the_heads_of_the_policys_hidden_states():
    head = np.random.default_rng(0).normal(size=(CONFIG.embed_dim, 1)).astype(np.float32)
    policy, reference = (random_params(Transformer(CONFIG), seed) for seed in (0, 1))
    batch, roles = make_batch(), {"policy": policy, "reference": reference}
    experience, _, metrics = make(batch, roles | {"value_head": {"head": head}})
    args = batch["tokens"], batch["positions"], batch["segment_ids"]
    hidden, _ = Transformer(CONFIG).apply({"params": policy}, *args, method=Transformer.hidden)
    values = np.asarray(hidden, np.float64) @ head.astype(np.float64)
    values = values[:, -R - 1 : -1, 0]
    np.testing.assert_allclose(experience["old_values"] * MASK, values * MASK, atol=1e-5)
    assert experience["returns"].shape == (B, R) and "explained_variance" in metrics
    alone, _, _ = make(batch, roles | {"value": random_params(value_model(CONFIG), 2)})
    np.testing.assert_array_equal(experience["old_logprobs"], alone["old_logprobs"])


def one_device():
    return sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])


def gradients(directory, tmp_path, **ppo):
    config = configs.build(recipe(directory, **ppo))
    mesh = one_device()
    with jax.set_mesh(mesh):
        run = setup(config, tmp_path, mesh, open_data=tiny_ppo.OPEN_DATA)
        state = init_state(run)
        batch, _, _ = run.stage.source.next(state, run.frozen, state.source, 0)
        head = {"head": jnp.ones_like(state.trainable["value_head"]["head"])}
        trainable = state.trainable | {"value_head": head}
        quiet = batch | {"policy_mask": jnp.zeros_like(batch["policy_mask"])}
        return accumulate_gradients(run.stage, trainable, run.frozen, quiet, 1)[1]


@pytest.mark.slow
def test_the_critics_loss_moves_the_policys_layers_by_its_weight(directory, tmp_path):
    """With nothing for the policy to learn, what moves it is the value loss."""
    once = gradients(directory, tmp_path / "a", value_coef=0.1)
    twice = gradients(directory, tmp_path / "b", value_coef=0.2)
    assert np.max(np.abs(once["policy"]["layers"]["query"])) > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(2 * a, b, rtol=1e-5), once, twice)


def test_a_run_trains_the_head_and_holds_one_network(directory, tmp_path):
    config = recipe(directory)
    loop.run(config, tmp_path, one_device(), open_data=tiny_ppo.OPEN_DATA)
    model, params = loading.load(tmp_path)
    assert Transformer(model).apply({"params": params}, jnp.ones((1, 2), jnp.int32)).shape[1] == 2
    _, head = loading.load(tmp_path, item="value_head")
    assert jax.tree.map(jnp.shape, head) == {"head": (32, 1)}
    assert ValueHead(model).apply({"params": head}, jnp.ones(32)) != 0
    items = {path.name for path in next((tmp_path / "checkpoints").iterdir()).iterdir()}
    assert {"policy", "value_head"} <= items and "value" not in items


def test_a_warm_up_of_a_shared_critic_is_an_error(directory):
    with pytest.raises(ConfigError, match=r"critic_warmup=2 needs a separate critic"):
        configs.build(recipe(directory, critic_warmup=2))
    config = recipe(directory)
    config.init_from.value = "runs/value"
    with pytest.raises(ConfigError, match=r"init_from\.value: stage ppo reads"):
        registry.validate(configs.build(config), SimpleNamespace(shape={}))
