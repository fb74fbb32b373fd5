"""DPO: the loss over rankings, log-probabilities of packed answers, the reference's cached ones."""

import io
import json
import math
import shutil
from functools import partial
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from stage_fixtures import recipe
from stage_steps import make_mesh

from data.packing.preferences import preference_rows
from data.text.chat import render
from data.text.tokenizer import train
from model.config import TransformerConfig
from model.transformer import Transformer
from ranges import ConfigError
from train import loop
from train.assembly.run import setup
from train.config import run as configs
from train.objectives import dpo, preferences, reference
from train.runtime.records import read_metrics

RANK = np.array([[0, 2, 1, 1], [0, 1, 1, 0], [1, -1, 0, -1]])
GROUP = np.array([[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]])


def test_answers_alone_are_refused():
    """Three answers to three prompts in one row, and no second one to any."""
    rows = {"rank": np.array([[0, 1, 0, -1]]), "group": np.array([[0, 1, 2, 0]])}
    ctx = SimpleNamespace(config=None, data=SimpleNamespace(train=rows, heldout={}))
    with pytest.raises(ConfigError, match="answers are labelled good or not one by one"):
        dpo.precompute(ctx, {}, {}, None)


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2, "by ranking"])
def test_the_loss_is_the_loop_over_ranked_pairs(kind, smoothing):
    """β = 0.3; rankings of several candidates, ties, two rankings in a row, candidates missing."""
    h = np.random.default_rng(0).normal(size=RANK.shape) * 4  # log-ratios to the reference
    total = count = 0
    if smoothing == "by ranking":
        noise = np.array([[0.1] * 4, [0.0, 0.0, 0.4, 0.4], [0.3] * 4], np.float32)
    else:
        noise = np.full(RANK.shape, smoothing, np.float32)

    def one(d):
        return math.log1p(math.exp(-0.3 * d)) if kind == "sigmoid" else (d - 1 / 0.6) ** 2

    for row, rank, group, wrong in zip(h, RANK, GROUP, noise, strict=True):
        for i in range(4):
            for j in range(4):
                if 0 <= rank[i] < rank[j] and group[i] == group[j]:
                    d = row[i] - row[j]
                    total += (1 - wrong[i]) * one(d) + wrong[i] * one(-d)
                    count += 1
    rewards = np.where(RANK >= 0, 0.3 * h, np.nan).astype(np.float32)
    given = noise if smoothing == "by ranking" else smoothing
    got = dpo.pair_loss(jnp.asarray(rewards), RANK, GROUP, 0.3, kind, given)
    np.testing.assert_allclose(got, (total, count), rtol=1e-5)


def test_answers_packed_among_others_have_the_logprobs_they_have_alone():
    tokenizer = train("byte", [], 0)
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2,
        head_dim=4, mlp_dim=24,
    )  # fmt: skip
    model = Transformer(config)
    init = jax.jit(lambda key: nn.unbox(model.init(key, jnp.zeros((1, 2), jnp.int32)))["params"])
    params = jax.tree.map(lambda x: 4 * x, init(jax.random.key(0)))
    examples = [
        dict(messages=[{"role": "user", "content": p}], responses=a, rank=[*range(len(a))],
             kinds=[""] * len(a))
        for p, a in (("why", ["so", "because", "no"]), ("and?", ["that is it", "well"]))
    ]  # fmt: skip
    rows, *_ = preference_rows(examples, tokenizer, 48, 2, False, "error", {}, ("",))
    assert rows["tokens"].shape[0] == 1 and np.sum(rows["rank"] >= 0) == 5

    alone = np.zeros((2, 5, 48))  # ids and masks, each answer in a row of its own
    segments = [
        render(tokenizer, [*e["messages"], {"role": "assistant", "content": answer}])
        for e in examples
        for answer in e["responses"]
    ]
    for c, (ids, mask) in enumerate(segments):
        alone[:, c, : len(ids)] = ids, mask
    ids, mask = alone[0].astype(int), alone[1]
    logits = jax.jit(lambda ids: model.apply({"params": params}, ids))(ids)
    logp = np.asarray(jax.nn.log_softmax(logits))[:, :-1]
    values = np.take_along_axis(logp, ids[:, 1:, None], -1)[..., 0] * mask[:, 1:]
    expected, lengths = values.sum(1), mask.sum(1)
    assert np.ptp(expected) > 1
    for chunk, average in ((0, False), (5, False), (0, True)):
        score = jax.jit(partial(preferences.answer_logprobs, config, chunk=chunk, average=average))
        wanted = expected / lengths if average else expected
        np.testing.assert_allclose(score(params, rows)[0, : len(wanted)], wanted, rtol=1e-4)


def test_it_begins_at_the_reference_and_learns(stages_dir):
    first, *_, last = read_metrics(stages_dir / "dpo", "train")
    np.testing.assert_allclose(first["loss"], math.log(2), atol=1e-5)
    assert abs(first["margin"]) < 1e-4
    assert last["margin"] > 0.01 and last["loss"] < first["loss"]
    begin, *_, end = read_metrics(stages_dir / "dpo", "eval")
    assert abs(begin["margin"]) < 1e-4
    assert end["accuracy/overall"] > 0.6 and end["margin"] > 0
    samples = (stages_dir / "dpo" / "samples.jsonl").read_text().splitlines()
    assert set(json.loads(samples[0])) == {"step", "prompt", "response"}


def test_the_reference_is_scored_once_and_again_only_if_it_changes(
    stages_dir, tmp_path, monkeypatch
):
    """Its log-probabilities come from the workdir, and it is not in memory during training."""
    shutil.copytree(stages_dir / "dpo", tmp_path / "dpo")
    scored = []
    score = reference._over_rows
    monkeypatch.setattr(
        reference, "_over_rows", lambda *a: scored.append(len(a[3]["tokens"])) or score(*a)
    )
    config = recipe("dpo", stages_dir, policy=stages_dir / "sft")
    mesh = make_mesh("one")

    def open_run():
        with jax.set_mesh(mesh):
            return setup(configs.build(config), tmp_path / "dpo", mesh)

    run = open_run()
    assert not scored and "reference" not in run.frozen
    assert run.origins["reference"]["from"].endswith("sft")
    kept = run.ctx.data
    config.init_from.reference = str(stages_dir / "pretrain")
    other = open_run().ctx.data
    assert scored == [len(kept.train["tokens"]), len(kept.heldout["tokens"])]
    assert np.max(np.abs(other.train["ref_logprobs"] - kept.train["ref_logprobs"])) > 0.1
    with pytest.raises(ConfigError, match=r"was trained with the reference of .*/sft"):
        loop.run(config, tmp_path / "dpo", mesh)


def test_beside_adapters_the_reference_is_the_base(stages_dir, tmp_path):
    config = recipe("dpo", stages_dir, policy=stages_dir / "sft")
    config.lora.rank = 2
    config.dpo.loss = "ipo"
    config.dpo.average = True
    config.steps, config.evaluate.samples = 2, 0
    loop.run(config, tmp_path, make_mesh("one"))
    first, second = read_metrics(tmp_path, "train")
    np.testing.assert_allclose(first["loss"], 25, rtol=1e-4)  # 1/(2β)², both ways round
    assert abs(first["margin"]) < 1e-5 < abs(second["margin"])


@pytest.mark.parametrize("content", [b"", b"\0" * 99, b"PK\3\4", "cut", "array", "other", "flip"])
def test_damaged_logprobs_are_computed_again(content, tmp_path, capsys):
    path, whole = epath.Path(tmp_path) / "reference_logprobs.npz", io.BytesIO()
    np.savez(whole, key="k", train=np.ones(99, np.float32), heldout=np.ones(9))
    bytes_ = whole.getvalue()
    path.write_bytes(bytes_)
    assert (
        reference._cached(path, ("train", "heldout"))["key"] == "k" and not capsys.readouterr().out
    )
    other = io.BytesIO()
    np.save(other, np.ones(3)) if content == "array" else np.savez(other, key="k")
    at = bytes_.index(np.ones(99, np.float32).tobytes())
    damaged = {
        "cut": bytes_[:-9],
        "flip": bytes_[:at] + b"\1" + bytes_[at + 1 :],
        "array": other.getvalue(),
        "other": other.getvalue(),
    }
    path.write_bytes(damaged.get(content, content))
    assert reference._cached(path, ("train", "heldout")) == {"key": ""}
    assert "reference_logprobs.npz is damaged (" in capsys.readouterr().out
