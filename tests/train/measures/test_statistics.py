"""Statistics of an update, against NumPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ranges import ConfigError
from train.config.run import RunConfig
from train.measures import statistics
from train.objectives.base import Stage
from train.step import TrainState, make_train_step

NEW = np.random.default_rng(0)
PARAMS = {
    "policy": {
        "embedding": NEW.normal(size=(5, 4)), "unembedding": NEW.normal(size=(4, 5)),
        "final_norm": np.ones(4), "mine": NEW.normal(size=3),
        "layers": {"query": NEW.normal(size=(3, 4, 1, 4)), "up_lora_a": NEW.normal(size=(3, 4, 2)),
                   "mlp_norm": np.ones((3, 4))},
    },
    "value": {"head": np.zeros((4, 1))},
}  # fmt: skip
PARAMS = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), PARAMS)
WEIGHTS = jax.tree.map(lambda x: jnp.sin(7 * x + 1), PARAMS)  # of the loss, thus its gradient


def stage() -> Stage:
    def loss(trainable, frozen, batch):
        products = jax.tree.map(lambda w, c: jnp.sum(w * c), trainable, WEIGHTS)
        return {"all": sum(jax.tree.leaves(products))}, {}

    return Stage(lambda batch: {"all": jnp.float32(1)}, loss, None, None)


def take_step(*measure: str):
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1))
    step = jax.jit(make_train_step(stage(), tx, 1, 0.0, measure))
    state = TrainState(jnp.int32(0), PARAMS, tx.init(PARAMS), ())
    state, values = step(state, {}, {"x": jnp.zeros(1)})
    return state.trainable, statistics.numbers(values)


def rms(*arrays) -> float:
    values = np.concatenate([np.asarray(x, np.float64).ravel() for x in arrays])
    return float(np.sqrt(np.mean(values**2)))


def norm(*arrays) -> float:
    return rms(*arrays) * sum(x.size for x in arrays) ** 0.5


def test_statistics_are_those_of_numpy_by_group_and_layer():
    new, values = take_step("layers")
    old, new, grads = PARAMS["policy"], new["policy"], WEIGHTS["policy"]
    layer = [{k: tree["layers"][k][1] for k in tree["layers"]} for tree in (old, new, grads)]
    expected = {
        "grad_norm/hidden": norm(grads["layers"]["query"], grads["layers"]["up_lora_a"]),
        "grad_norm/vector": norm(grads["final_norm"], grads["layers"]["mlp_norm"]),
        "grad_norm/output": norm(grads["unembedding"]),
        "grad_norm/other": norm(grads["mine"]),
        "weight_rms/embedding": rms(new["embedding"]),
        "update_rms/embedding": rms(new["embedding"] - old["embedding"]),
        "update_ratio/embedding": rms(new["embedding"] - old["embedding"]) / rms(new["embedding"]),
        "grad_norm/layer_1": norm(*layer[2].values()),
        "weight_rms/layer_1": rms(*layer[1].values()),
        "update_rms/layer_1": rms(*(layer[1][k] - layer[0][k] for k in layer[0])),
        "value_grad_norm/output": norm(WEIGHTS["value"]["head"]),
    }
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, rel=1e-4), name
    groups = [v for k, v in values.items() if "grad_norm/" in k and "layer" not in k]
    assert norm(np.array(groups)) == pytest.approx(values["grad_norm"], rel=1e-5)
    assert {k for k in values if "layer_" in k and k.startswith("grad")} == {
        f"grad_norm/layer_{i}" for i in range(3)
    }


def test_statistics_change_no_weight():
    (plain, none), (measured, groups) = take_step(), take_step("groups")
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(measured), strict=True):
        np.testing.assert_array_equal(a, b)
    assert set(none) == {"loss", "grad_norm", "skipped", "fault"} < set(groups)
    assert not any("layer_" in name for name in groups)


def test_an_unknown_choice_is_refused():
    with pytest.raises(ConfigError, match="statistics='all'; choose groups, layers, noise"):
        RunConfig(statistics="groups,all")
