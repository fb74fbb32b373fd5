"""The race on a GPU, with a tiny shape on a CPU: both sides compute the same loss."""

import dataclasses

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from benchmarks.train_gpu import __main__ as command
from benchmarks.train_gpu import ours
from model.config import TransformerConfig
from train.interop import weights


@pytest.fixture(scope="module")
def mine():
    recipe = ours.recipe("tiny", rows=2, length=16, remat="minimal")
    recipe.model.dtype = "float32"
    return ours.Ours(recipe, vocab_size=128)


def test_both_sides_compute_the_same_loss_of_the_same_weights(mine):
    torch = pytest.importorskip("torch")
    from benchmarks.train_gpu import torch_side

    shape = {name: getattr(mine.model, name) for name in command.FIELDS}
    shape = torch_side.Shape(**shape, rows=2, length=16, compiled=False)
    theirs = torch_side.Llama(shape, torch.device("cpu"))
    assert sum(p.numel() for p in theirs.parameters()) == mine.parameters
    params = flatten_dict(mine.state.trainable["policy"])
    tensors = weights.tensors_of(mine.model, params.__getitem__)
    theirs.load_state_dict(
        {t.name.removeprefix("model."): torch.tensor(np.asarray(t.read())) for t in tensors}
    )
    loss = theirs(torch.tensor(np.asarray(mine.batch["tokens"]), dtype=torch.long))
    assert mine.run(1)["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert mine.run(2)["loss"] < loss.item()


def test_the_bytes_that_a_decode_step_reads_by_hand():
    shape = dict(embed_dim=4, num_layers=3, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=5)
    config = TransformerConfig(vocab_size=10, vocab_multiple=1, dtype="bfloat16", **shape)
    params = {"embedding": np.zeros((10, 4)), "layers": {"0": {"up": np.zeros((3, 4, 5))}}}
    # Two bytes each of 40 + 60 weights, and of keys and values: 3 layers × 8 × 2 rows × 7 tokens.
    assert ours.decoding_bytes(config, params, rows=2, length=7) == 2 * (100 + 2 * 3 * 8 * 2 * 7)
    untied = dataclasses.replace(config, tie_embeddings=False)
    params["unembedding"] = np.zeros((4, 10))
    assert ours.decoding_bytes(untied, params, 2, 7) == 2 * (100 + 2 * 3 * 8 * 2 * 7)


def test_mfu_and_the_bandwidth_limit_of_an_h200(mine):
    rates = {"ours": [9e5, 1e6, 3e6], "PyTorch": [1e6, 1e6, 1e6]}
    training, decoding = command.tables(mine, "NVIDIA H200", rates, [0.002, 0.004, 0.003], 4.8e9)
    share = 1e6 * mine.flops / 989e12
    assert training.rows[0] == ["ours", "1,000,000 (900,000 to 3,000,000)", f"{share:.1%}", ""]
    assert training.rows[1][-1] == "**1.00**"
    assert decoding.rows == [["ours", "3.000", "4.80", "1,600", "**3.00**"]]
    unknown = command.tables(mine, "cpu", rates, [1.0], 1.0)
    assert unknown[0].rows[0][2] == "–" and unknown[1].rows[0][-1] == "–"


def test_without_a_gpu_the_command_says_so(monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr(command.flags, "FLAGS", SimpleNamespace(tiny=False))
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(platform="cpu", device_kind="x")])
    with pytest.raises(SystemExit, match="no GPU is at hand"):
        command.main([])
