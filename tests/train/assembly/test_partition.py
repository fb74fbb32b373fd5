"""Frozen weights and adapters: what is trained, what is saved, and what comes back."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax.traverse_util import flatten_dict
from open_models import CONFIG
from stage_fixtures import recipe, sharing
from stage_steps import assert_same, five_steps, make_mesh

from configs import specialise
from model import lora
from model.config import TransformerConfig
from model.lora import LoRA
from model.sizes import SIZES
from model.transformer import Transformer
from ranges import ConfigError
from train import loop
from train.assembly.partition import divide
from train.assembly.run import init_state, setup
from train.checkpoints import checkpointer, loading, networks
from train.config import run as configs
from train.config.run import FreezeConfig, RunConfig

POLICY = {
    "embedding": 0,
    "final_norm": 0,
    "layers": {"query": 0, "value": 0, "out": 0, "mlp_norm": 0, "attention_norm": 0},
}
MODELS = {"policy": POLICY, "value": {"backbone": POLICY, "head": 0}}


def divided(models=None, rank=0, targets="query,value", **freeze):
    config = RunConfig(lora=LoRA(rank, 16.0, targets), freeze=FreezeConfig(**freeze))
    return divide(config, models or MODELS)


def names(paths):
    return {"/".join(p) for p in paths}


def test_without_settings_all_is_trained():
    assert all(not p.frozen and not p.adapted for p in divided().values())


def test_beside_adapters_only_heads_are_trained():
    parts = divided(rank=2, targets="layers/(query|out)")
    assert names(parts["policy"].adapted) == {"layers/query", "layers/out"}
    trained, frozen = parts["value"].split(MODELS["value"])
    assert trained == {"head": 0} and frozen == {"backbone": POLICY}


def test_patterns_match_the_end_of_a_path():
    frozen = divided(frozen="embedding,policy/layers/.*norm")
    assert names(frozen["policy"].frozen) == {
        "embedding", "layers/mlp_norm", "layers/attention_norm"
    }  # fmt: skip
    assert names(frozen["value"].frozen) == {"backbone/embedding"}
    trained = divided(trained="layers/.*,head")
    assert names(trained["value"].frozen) == {"backbone/embedding", "backbone/final_norm"}
    divided(trained="layers/.*,head", frozen="embedding,final_norm")


@pytest.mark.parametrize(
    "settings,message",
    [
        (dict(frozen="embeding"), r"freeze\.frozen: 'embeding' matches no parameter; the nearest "
         r"is (policy|value/backbone)/embedding"),
        (dict(frozen="embedding,layers/("), r"'layers/\(' is no regular expression"),
        (dict(rank=1, targets="final_norm"), r"lora\.targets: 'final_norm' matches no parameter"),
        (dict(frozen="embedding", trained="layers/.*,head"), r"policy/final_norm matches neither"),
        (dict(frozen=".*", trained="head"), r"value/head matches both"),
        (dict(frozen="policy/.*"), r"nothing of the policy is trained"),
        (dict(dtype="int8"), r"freeze\.dtype=int8 applies to frozen weights, and there are none"),
        (dict(rank=1, trained="query,head"), r"lora\.targets adapts policy/layers/query, which is"),
    ],
)  # fmt: skip
def test_a_division_that_leaves_doubt_is_an_error(settings, message):
    with pytest.raises(ConfigError, match=message):
        divided(**settings)


def test_an_unknown_dtype_is_an_error():
    with pytest.raises(ConfigError, match=r"freeze\.dtype='int4'; choose float32, bfloat16, int8"):
        FreezeConfig(dtype="int4")


# Stages


HOOKS = sharing()


def adapt(config, dtype="float32"):
    config.lora.rank = 2
    config.lora.targets = "query,value,out,down"
    config.freeze.dtype = dtype


def adapted_recipe(stage, directory, steps=4, **init_from):
    config = recipe(stage, directory, **init_from)
    config.steps, config.checkpoint.every = steps, 2
    adapt(config)
    return config


@pytest.mark.parametrize(
    "stage,mesh,dtype",
    [
        pytest.param("sft", "all", "float32", marks=pytest.mark.slow),
        ("sft", "all", "int8"),
        pytest.param("sft", "fsdp", "float32", marks=pytest.mark.slow),
        pytest.param("reward", "all", "float32", marks=pytest.mark.slow),
        pytest.param("ppo", "all", "float32", marks=pytest.mark.slow),
    ],
)
def test_one_device_equals_eight(stages_dir, tmp_path, stage, mesh, dtype):
    def change(config):
        adapt(config, dtype)

    one = five_steps(stage, "one", stages_dir, tmp_path, change=change)
    assert_same(five_steps(stage, mesh, stages_dir, tmp_path, change=change), one)
    assert np.ptp(one[1]) > 1e-4
    for path, gradient in flatten_dict(one[0]).items():
        assert path[-1].endswith((lora.A, lora.B)) or path[-1] == "head"
        # B starts at zero, so A's first gradient is zero and B's is not; nor does anything go
        # through a critic's head, which starts at zero too.
        through_zeros = path[-1].endswith(lora.A) or path[:2] == ("value", "backbone")
        assert gradient.any() != through_zeros, path


@pytest.fixture(scope="module")
def adapted(stages_dir, tmp_path_factory):
    """The workdir of an SFT with adapters from the pretrained model, four steps."""
    workdir = tmp_path_factory.mktemp("adapted") / "sft"
    config = adapted_recipe("sft", stages_dir, policy=stages_dir / "pretrain")
    loop.run(config, workdir, make_mesh("one"), hooks=HOOKS)
    return workdir


def saved_shapes(workdir, item, step=4):
    """{path: shape} of an item of a checkpoint, as it is on disk."""
    with ocp.CheckpointManager(
        (workdir / "checkpoints").resolve(), item_names=(item,),
        item_handlers={item: ocp.StandardCheckpointHandler()},
    ) as manager:  # fmt: skip
        tree = manager.item_metadata(step)[item]
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x.shape for p, x in leaves}


def test_a_checkpoint_holds_adapters_alone(adapted):
    shapes = saved_shapes(adapted, "policy")
    tiny = TransformerConfig(vocab_size=1, **SIZES["tiny"])
    D, H, N, L = tiny.embed_dim, tiny.num_heads, tiny.head_dim, tiny.num_layers
    K, F = tiny.num_kv_heads, tiny.mlp_dim
    assert shapes == {
        "layers/query_lora_a": (L, D, 2), "layers/query_lora_b": (L, 2, H, N),
        "layers/value_lora_a": (L, D, 2), "layers/value_lora_b": (L, 2, K, N),
        "layers/out_lora_a": (L, H, N, 2), "layers/out_lora_b": (L, 2, D),
        "layers/down_lora_a": (L, F, 2), "layers/down_lora_b": (L, 2, D),
    }  # fmt: skip
    moments = {s for s in saved_shapes(adapted, "opt_state").values() if len(s) > 1}
    assert moments == set(shapes.values())
    facts = json.loads((adapted / "parts.json").read_text())["policy"]
    assert facts["origin"]["from"].endswith("pretrain") and "embedding" in facts["frozen"]


def test_a_run_starts_as_its_base_and_moves(adapted, stages_dir):
    def heldout(path):
        lines = [json.loads(x) for x in (path / "metrics.jsonl").read_text().splitlines()]
        return [x for x in lines if x["kind"] == "eval"]

    fields = [k for k in heldout(adapted)[0] if "nats" in k or "loss" in k]
    assert fields
    config, base = loading.load(stages_dir / "pretrain")
    _, now = loading.load(adapted)
    flat, merged = flatten_dict(base), flatten_dict(now)
    moved = {"/".join(k) for k in flat if not np.array_equal(flat[k], merged[k])}
    assert moved == {"layers/query", "layers/value", "layers/out", "layers/down"}
    first = heldout(stages_dir / "sft")[0]  # the same held-out rows, from the same weights
    assert {k: heldout(adapted)[0][k] for k in fields} == {k: first[k] for k in fields}


def test_loading_gives_the_model_that_was_trained(adapted, stages_dir, tmp_path):
    """Base and adapters as the run holds them, against the merged weights."""
    config = adapted_recipe("sft", stages_dir, policy=stages_dir / "pretrain")
    mesh = make_mesh("one")
    with jax.set_mesh(mesh):
        run = setup(configs.build(config), tmp_path, mesh)
        saved = checkpointer.Checkpointer(adapted, 10)
        state = saved.restore(4, run.abstract)
        saved.close()
        whole = run.parts["policy"].whole(state.trainable["policy"], run.frozen["policy"])
    tokens = np.arange(12).reshape(1, 12)
    model, params = loading.load(adapted)
    got = Transformer(model).apply({"params": params}, tokens)
    want = Transformer(run.ctx.models["policy"]).apply({"params": whole}, tokens)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_a_reference_with_adapters_is_that_policy(adapted):
    """Another role than trained it reads the same weights, and knows them by the same name."""
    config, policy = loading.load(adapted)
    mesh = make_mesh("one")
    with jax.set_mesh(mesh):
        abstract = networks.abstract_params("reference", config, mesh)
        reference = loading.load_params(adapted, "reference", abstract)
        names = [loading.identity(adapted, r, reference) for r in ("reference", "policy")]
    assert names[0] == names[1]
    for got, want in zip(jax.tree.leaves(reference), jax.tree.leaves(policy), strict=True):
        np.testing.assert_array_equal(got, want)


def test_resumed_equals_uninterrupted(adapted, stages_dir, tmp_path):
    workdir = tmp_path / "sft"
    shutil.copytree(adapted, workdir)
    shutil.rmtree(workdir / "checkpoints" / "4")
    config = adapted_recipe("sft", stages_dir, policy=stages_dir / "pretrain")
    loop.run(config, workdir, make_mesh("one"), hooks=HOOKS)
    both = [jax.tree.leaves(loading.load(w)[1]) for w in (workdir, adapted)]
    for got, want in zip(*both, strict=True):
        np.testing.assert_array_equal(got, want)
    config.init_from.policy = str(stages_dir / "sft")  # another base
    with pytest.raises(ConfigError, match=r"was trained with the policy of .*/pretrain"):
        loop.run(config, workdir, make_mesh("one"))


@pytest.mark.slow
def test_ppo_with_adapters_holds_its_base_once(adapted, stages_dir, tmp_path):
    """From a policy that is itself base and adapters: merged, and the reference is that."""
    config = adapted_recipe("ppo", stages_dir, policy=adapted, reward=stages_dir / "reward")
    mesh = make_mesh("one")
    with jax.set_mesh(mesh):
        run = setup(configs.build(config), tmp_path / "ppo", mesh)
        state = init_state(run)
    policy, reference = (flatten_dict(run.frozen[r]) for r in ("policy", "reference"))
    assert policy.keys() == reference.keys()
    assert all(policy[k] is reference[k] for k in policy)
    assert "+" in run.origins["policy"]["fingerprint"]
    merged = flatten_dict(loading.load(adapted)[1])
    for path, x in reference.items():
        np.testing.assert_array_equal(x, merged[path])
    assert not state.trainable["value"]["head"].any()
    assert state.trainable["value"].keys() == {"head", "backbone"}
    loop.run(config, tmp_path / "ppo", mesh)
    lines = (tmp_path / "ppo" / "metrics.jsonl").read_text().splitlines()
    first = next(x for x in map(json.loads, lines) if x["kind"] == "train")
    assert abs(first["rollout/kl"]) < 1e-4 and abs(first["ratio"] - 1) < 1e-5
    for item in ("policy", "value"):
        config_, params = loading.load(tmp_path / "ppo", item)
        assert flatten_dict(params).keys() == flatten_dict(
            networks.abstract_params(item, config_, mesh)
        ).keys()  # fmt: skip


def test_frozen_weights_come_from_a_trained_model(stages_dir, tmp_path):
    config = recipe("pretrain", stages_dir)
    config.freeze.frozen = "embedding"
    with pytest.raises(ConfigError, match=r"it starts from no trained model; type --config\.init"):
        loop.run(config, tmp_path, make_mesh("one"))


def test_only_patterns_train_and_the_rest_stays(stages_dir, tmp_path):
    config = recipe("sft", stages_dir, policy=stages_dir / "pretrain")
    config.steps = 2
    config.freeze.trained = "layers/(gate|up|down)"
    loop.run(config, tmp_path, make_mesh("one"))
    assert saved_shapes(tmp_path, "policy", 2).keys() == {
        "layers/gate", "layers/up", "layers/down"
    }  # fmt: skip
    before, after = (flatten_dict(loading.load(w)[1]) for w in (stages_dir / "pretrain", tmp_path))
    for path in before:
        same = np.array_equal(before[path], after[path])
        assert same != (path[-1] in ("gate", "up", "down")), path


def test_specialise_adapts_dense_models_and_mixtures():
    mesh = make_mesh("one")
    recipe = specialise.get_config()
    settings = LoRA(**recipe.lora)
    for more in ({}, dict(num_experts=4, experts_per_token=2)):
        config = dataclasses.replace(CONFIG, **more)
        whole = networks.abstract_params("policy", config, mesh)
        run = configs.default()
        run.lora = recipe.lora
        part = divide(configs.build(run), {"policy": whole})["policy"]
        names = {path[-1] for path in part.adapted}
        mlp = ("gate", "up", "down")
        wanted = {f"expert_{n}" for n in mlp} if more else set(mlp)
        assert part.lora == settings and names == wanted | {"query", "key", "value", "out"}
