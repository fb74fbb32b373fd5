"""FLOPs by hand: 2 a weight and token forward, 2 for the gradient of its input, 2 for its own."""

import dataclasses

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from model import sharding
from model.config import TransformerConfig
from model.lora import LoRA
from model.weights import flops_per_token
from train.assembly.partition import Partition, divide
from train.checkpoints import networks
from train.config import run as configs
from train.objectives.grpo import GRPOConfig
from train.objectives.ppo import PPOConfig
from train.runtime import flops

MODEL = TransformerConfig(
    vocab_size=32, embed_dim=16, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=8,
    mlp_dim=24, vocab_multiple=32,
)  # fmt: skip
ATTENTION = 16 * 8 * (2 * 4 + 2 * 2)
LAYERS, VOCABULARY = 3 * (ATTENTION + 3 * 16 * 24), 32 * 16
LENGTH = 10
PAIRS = 3 * 2 * 4 * 8 * LENGTH / 2  # of attention, half of all as it is causal


def whole(role="policy", model=MODEL):
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    return networks.abstract_params(role, model, mesh)


def parts(tree, role="policy", **settings):
    lora = LoRA(**settings.pop("lora", {}))
    config = configs.RunConfig(lora=lora, freeze=configs.FreezeConfig(**settings))
    return divide(config, {role: tree})[role]


def test_all_trained():
    got = flops.trained(MODEL, whole(), Partition(), LENGTH)
    assert got == (6 * LAYERS + 6 * PAIRS, 6 * VOCABULARY)
    assert sum(got) == flops_per_token(MODEL, LENGTH)
    assert flops.forward(MODEL, LENGTH) == pytest.approx((2 * LAYERS + 2 * PAIRS, 2 * VOCABULARY))


def test_adapters_save_the_frozen_weights_gradients():
    tree = whole()
    got = flops.trained(MODEL, tree, parts(tree, lora=dict(rank=2)), LENGTH)
    adapters = 3 * 2 * (16 + 4 * 8 + 16 + 2 * 8)  # of query and value
    assert got == (4 * LAYERS + 6 * adapters + 6 * PAIRS, 4 * VOCABULARY)


def test_frozen_weights_by_pattern():
    tree = whole()
    got = flops.trained(MODEL, tree, parts(tree, trained="gate,up,down"), LENGTH)
    assert got == (6 * LAYERS - 2 * 3 * ATTENTION + 6 * PAIRS, 4 * VOCABULARY)
    # Below the lowest trained weight there is no backward pass.
    got = flops.trained(MODEL, tree, parts(tree, trained="final_norm"), LENGTH)
    assert got == (2 * LAYERS + 2 * PAIRS, 4 * VOCABULARY)
    untied = dataclasses.replace(MODEL, tie_embeddings=False)
    tree = whole(model=untied)
    got = flops.trained(untied, tree, parts(tree, trained="unembedding"), LENGTH)
    assert got == (2 * LAYERS + 2 * PAIRS, 4 * VOCABULARY)
    got = flops.trained(untied, tree, parts(tree, frozen="unembedding"), LENGTH)
    assert got == (6 * LAYERS + 6 * PAIRS, 4 * VOCABULARY)


def test_scores_and_values_have_no_vocabulary():
    for role in ("reward", "value"):
        got = flops.trained(MODEL, whole(role), Partition(), LENGTH)
        assert got == (6 * LAYERS + 6 * PAIRS, 0)
    tree = whole("reward")
    got = flops.trained(MODEL, tree, parts(tree, "reward", trained="head"), LENGTH)
    assert got == (2 * LAYERS + 2 * PAIRS, 0)


def test_a_token_has_some_of_the_experts():
    mixture = dataclasses.replace(MODEL, num_experts=4, experts_per_token=2)
    got = flops.trained(mixture, whole(model=mixture), Partition(), LENGTH)
    np.testing.assert_allclose(sum(got), flops_per_token(mixture, LENGTH))


P, R, ROWS = 6, 4, 8


def run(stage, shared_critic=False, **rl):
    rl = dict(prompt_length=P, response_length=R, rollout_batch=2 * ROWS) | rl
    data = dataclasses.replace(configs.RunConfig().data, length=999, batch_size=ROWS)
    return configs.RunConfig(
        stage=stage, data=data, rl=configs.RLConfig(**rl),
        ppo=PPOConfig(shared_critic=shared_critic), grpo=GRPOConfig(group_size=4),
        pretrain_data=dataclasses.replace(data, length=5, batch_size=3),
    )  # fmt: skip


def test_a_step_of_ppo_reads_prompt_and_response_and_has_logits_of_the_response():
    trees = {"policy": whole(), "value": whole("value")}
    divided = dict.fromkeys(trees, Partition())
    models = dict.fromkeys(("policy", "value", "reference", "reward"), MODEL)
    tokens, answers = ROWS * (P + R), ROWS * R
    layers = 6 * (LAYERS + PAIRS)  # P + R is LENGTH
    got = flops.of_step(run("ppo"), models, trees, divided, tokens)
    assert got == 2 * layers * tokens + 6 * VOCABULARY * answers
    got = flops.of_step(run("ppo", pretrain_coef=0.1), models, trees, divided, tokens)
    text = flops_per_token(MODEL, 5) * 3 * 5
    assert got == 2 * layers * tokens + 6 * VOCABULARY * answers + text
    shared = {"policy": trees["policy"], "value_head": whole("value_head")}
    models |= {"value_head": MODEL}
    got = flops.of_step(run("ppo", shared_critic=True), models, shared,
                        dict.fromkeys(shared, Partition()), tokens)  # fmt: skip
    assert got == layers * tokens + 6 * VOCABULARY * answers


def test_a_step_of_kto_reads_as_many_tokens_without_a_gradient():
    args = {"policy": MODEL}, {"policy": whole()}, {"policy": Partition()}, 100
    extra = flops.of_step(run("kto"), *args) - flops.of_step(run("dpo"), *args)
    assert extra == pytest.approx(100 * sum(flops.forward(MODEL, 999)))


def test_a_rollout_samples_scores_and_values():
    n, layers = 2 * ROWS, 2 * (LAYERS + PAIRS)
    tokens, answers = n * (P + R), n * R
    models = dict.fromkeys(("policy", "value", "reference", "reward"), MODEL)
    got = flops.of_rollout(run("ppo"), models)
    # Sampled, twice for log-probabilities, valued, scored.
    assert got == pytest.approx(5 * layers * tokens + 3 * 2 * VOCABULARY * answers)
    del models["value"]
    draw = layers * (n // 4 * P + answers) + 2 * VOCABULARY * answers + layers * tokens
    rest = 2 * (layers * tokens + 2 * VOCABULARY * answers)
    assert flops.of_rollout(run("grpo"), models, draws=3) == pytest.approx(3 * draw + rest)


def test_every_matmul_weight_is_counted():
    names = {path[-1] for path in flatten_dict(whole())}
    assert names == {"embedding", "final_norm", "attention_norm", "mlp_norm", "query", "key",
                     "value", "out", "gate", "up", "down"}  # fmt: skip
