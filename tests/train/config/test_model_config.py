"""`config.model`: a size, and every setting of the architecture from the command line."""

import dataclasses
import json

import pytest
from absl import flags
from flax.traverse_util import flatten_dict
from ml_collections import config_flags

from configs import base
from model.config import RopeScaling, TransformerConfig
from model.sizes import SIZES
from ranges import ConfigError
from train.config.model import ModelConfig, read_saved
from train.config.overrides import gather
from train.config.run import RunConfig, build
from train.runtime.resume import config_json


def run_config(tmp_path, *given) -> RunConfig:
    """The run of a recipe and flags, by way of absl."""
    recipe = tmp_path / "recipe.py"
    recipe.write_text("from configs.base import get_config\n")
    argv = gather(["train", f"--config={recipe}", *given], base.get_config().to_dict())
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=argv)
    values(argv)
    return build(values.config)


def model(tmp_path, size, *given) -> TransformerConfig:
    given = [f"--config.model.{flag}" for flag in (f"size={size}", *given)]
    return run_config(tmp_path, *given).model.build(100)


def test_every_field_of_the_architecture_is_a_setting():
    names = {field.name for field in dataclasses.fields(TransformerConfig)}
    settings = {field.name for field in dataclasses.fields(ModelConfig)}
    assert settings - names == {"size", "mimetic"}
    assert names - settings == {"vocab_size", "pool"}  # the tokenizer's, and `loss.pool`


def test_settings_of_every_type_from_the_command_line(tmp_path):
    ours = model(
        tmp_path, "tiny", "qk_norm=True", "tie_embeddings=false", "activation=gelu_tanh",
        "window=8", "layer_pattern=('local', 'global')", "rope_base=5e5", "logit_softcap=30",
        "num_experts=4", "experts_per_token=2", "rope_scaling.kind=linear",
        "rope_scaling.factor=8", "init_scale=0.5",
    )  # fmt: skip
    assert ours == TransformerConfig(
        vocab_size=100, **SIZES["tiny"], qk_norm=True, tie_embeddings=False,
        activation="gelu_tanh", window=8, layer_pattern=("local", "global"), rope_base=5e5,
        logit_softcap=30.0, num_experts=4, experts_per_token=2,
        rope_scaling=RopeScaling("linear", 8.0), init_scale=0.5,
    )  # fmt: skip


def test_a_setting_of_the_size_is_switched_off(tmp_path):
    gemma = model(
        tmp_path, "gemma2-2b", "window=0", "layer_pattern=()", "attention_softcap=0",
        "post_norms=False", "embedding_scale=False",
    )  # fmt: skip
    assert (gemma.window, gemma.layer_pattern, gemma.attention_softcap) == (0, (), 0.0)
    assert not gemma.post_norms and not gemma.embedding_scale and gemma.norm_offset
    assert gemma.logit_softcap == 30.0
    assert not model(tmp_path, "qwen3-0.6b", "qk_norm=False").qk_norm
    assert model(tmp_path, "llama3.1-8b", "rope_scaling={}").rope_scaling is None
    scaling = model(tmp_path, "llama3.1-8b", "rope_scaling.factor=16").rope_scaling
    assert scaling == RopeScaling("llama3", 16.0, 1.0, 4.0, 8192)
    assert model(tmp_path, "llama3.1-8b", "window=None").rope_scaling


@pytest.mark.parametrize(
    "flag,message",
    [
        ("window=-1", r"model\.window=-1; it must be at least 0"),
        ("num_heads=0", r"model\.num_heads=0; it must be at least 1"),
        ("norm_eps=2", r"model\.norm_eps=2; it must be at least 1e-30 and at most 1"),
        ("qk_norm=1", r"model\.qk_norm=1 is a int; it must be a bool"),
        ("embed_dim=wide", r"model\.embed_dim='wide' is"),
        ("activation=relu", r"model\.activation='relu'; choose silu, gelu_tanh"),
        ("layer_pattern=far", r"model\.layer_pattern has 'far'"),
        ("rope_scaling.kind=linear", r"model\.rope_scaling\.factor is missing"),
        ("rope_scaling.factr=2", r"unknown config key model\.rope_scaling\.factr; known: kind, "),
        ("qk_nrm=True", r"unknown config key model\.qk_nrm; did you mean model\.qk_norm\?"),
        ("vocab_size=9", r"unknown config key model\.vocab_size; did you mean tokenizer\.vocab"),
    ],
)
def test_a_value_that_a_setting_does_not_take(tmp_path, flag, message):
    with pytest.raises(ValueError, match=message):
        model(tmp_path, "tiny", flag)


def test_a_run_saved_when_0_meant_unset_resumes():
    """Runs saved config.json with 0 for what is None now, and without most of the settings."""
    now = flatten_dict(json.loads(config_json(RunConfig())), sep=".")
    saved = dict.fromkeys(
        ("embed_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_dim",
         "vocab_multiple", "max_length"), 0
    ) | {"rope_base": 0.0, "scan_unroll": 0, "mimetic": False, "size": "tiny"}  # fmt: skip
    saved = {f"model.{name}": value for name, value in saved.items()}
    assert {k: v for k, v in read_saved(saved).items() if v != now[k]} == {
        "model.scan_unroll": 0, "model.size": "tiny"
    }  # fmt: skip
    assert read_saved({"model.window": 0, "seed": 0}) == {"model.window": 0, "seed": 0}


def test_a_scaling_cannot_be_changed_where_there_is_none():
    with pytest.raises(ConfigError, match=r"model\.rope_scaling\.kind is missing"):
        ModelConfig(size="tiny", rope_scaling={"factor": 2.0}).build(9)
