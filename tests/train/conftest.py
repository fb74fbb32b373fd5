import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from sample_runs.stage_runs import record_reads, stages_dir  # noqa: F401, a fixture
from stage_fixtures import ORIGINS, recipe, write_files

from data.pipeline import open_data
from data.text.tokenizer import train
from model.config import TransformerConfig
from model.lora import LoRA
from model.sizes import SIZES
from model.transformer import Transformer
from train.assembly.partition import divide
from train.config.run import RunConfig, build, default


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


def ground(folder: Path) -> None:
    """Packs questions with passages."""
    root = Path(__file__).parents[2]
    recipe = default()
    recipe.data.source = str(root / "examples/questions.jsonl")
    recipe.data.fields = {"prompt": "{question}", "response": "{answer}", "sources": "{page}"}
    recipe.data.passages.source = str(root / "examples/help")
    recipe.data.passages.none_rate = 0.5
    recipe.data.passages.cache_dir = str(folder)
    recipe.data.length = 1024
    open_data(build(recipe).data, "chat", train("byte", [], 0))


@pytest.fixture(scope="session")
def fields_read(stages_dir, tmp_path_factory):  # noqa: F811
    """The settings that the stages read, all of them trained."""
    with pytest.MonkeyPatch.context() as patch:
        reads = record_reads(patch)
        trace_other_branches()
        ground(tmp_path_factory.mktemp("passages"))
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
