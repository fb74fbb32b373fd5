"""KTO, ORPO and SimPO: losses and gradients against the formulas of their papers, in NumPy; and the
rows from which KTO estimates its reference point."""

import math
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.packing.preferences import preference_rows
from data.text.tokenizer import train
from train.assembly.partition import Partition, joined
from train.objectives import kto, orpo, simpo
from train.objectives.base import Stage
from train.runtime.records import read_metrics
from train.step import accumulate_gradients

# Several candidates, ties, two rankings in a row, candidates missing, answers alone.
RANK = np.array([[0, 2, 1, 1], [0, 1, 1, 0], [1, -1, 0, -1], [0, 1, -1, -1]])
GROUP = np.array([[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]])
DOUBT = np.array([[0.1] * 4, [0.0, 0.0, 0.4, 0.4], [0.3] * 4, [0.2, 0.0, 0.0, 0.0]])


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def mean_over_pairs(values, one):
    """Σ (1-ε)·one(winner, loser) + ε·one(loser, winner) over ranked pairs, and their number."""
    total = count = 0
    for row, rank, group, doubt in zip(values, RANK, GROUP, DOUBT, strict=True):
        for i in range(4):
            for j in range(4):
                if 0 <= rank[i] < rank[j] and group[i] == group[j]:
                    total += (1 - doubt[i]) * one(row[i], row[j]) + doubt[i] * one(row[j], row[i])
                    count += 1
    return total, count


def simpo_numpy(logprobs, beta=2.5, gamma=1.4):
    """Meng et al. 2024, eq. 6, of average log-probabilities."""
    return mean_over_pairs(logprobs, lambda w, l: -math.log(sigmoid(beta * w - beta * l - gamma)))


def orpo_numpy(logprobs, weight=0.25):
    """Hong et al. 2024, eqs. 3 to 7, of average log-probabilities."""

    def odds(logprob):
        return math.exp(logprob) / (1 - math.exp(logprob))

    return mean_over_pairs(
        logprobs, lambda w, l: -w - weight * math.log(sigmoid(math.log(odds(w) / odds(l))))
    )


def kto_numpy(log_ratios, beta=0.3, good=1.2, other=0.7, point=0.8):
    """Ethayarajh et al. 2024, eq. 8: E[λ_y - v(x, y)]."""
    total = count = 0
    for row, rank, doubt in zip(log_ratios, RANK, DOUBT, strict=True):
        for r, place, wrong in zip(row, rank, doubt, strict=True):
            if place < 0:
                continue
            desirable = good - good * sigmoid(beta * (r - point))
            undesirable = other - other * sigmoid(beta * (point - r))
            one, flipped = (desirable, undesirable) if place == 0 else (undesirable, desirable)
            total += (1 - wrong) * one + wrong * flipped
            count += 1
    return total, count


def simpo_jax(x):
    return simpo.pair_loss(2.5 * x, RANK, GROUP, 1.4, DOUBT)


def orpo_jax(x):
    return orpo.pair_loss(x, RANK, GROUP, 0.25, DOUBT)


def kto_jax(x):
    return kto.answer_loss(0.3 * (x - 0.8), RANK, 1.2, 0.7, DOUBT)


@pytest.mark.parametrize(
    "ours,numpys",
    [(simpo_jax, simpo_numpy), (orpo_jax, orpo_numpy), (kto_jax, kto_numpy)],
    ids=["simpo", "orpo", "kto"],
)
def test_loss_and_gradient_are_the_papers(ours, numpys):
    rng = np.random.default_rng(0)
    values = -rng.gamma(2.0, 1.0, RANK.shape) - 0.05  # log-probabilities
    if numpys is kto_numpy:
        values = 4 * rng.normal(size=RANK.shape)  # log-ratios have both signs
    total, count = jax.jit(ours)(jnp.asarray(values, jnp.float32))
    np.testing.assert_allclose((total, count), numpys(values), rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda x: ours(x)[0]))(jnp.asarray(values, jnp.float32))
    step, expected = 1e-6, np.zeros(values.shape)
    for index in np.ndindex(values.shape):
        moved = [values.copy() for _ in range(2)]
        moved[0][index] += step
        moved[1][index] -= step
        expected[index] = (numpys(moved[0])[0] - numpys(moved[1])[0]) / (2 * step)
    np.testing.assert_allclose(gradient, expected, atol=2e-5)
    assert np.all(np.asarray(gradient)[RANK < 0] == 0)


def test_certain_answers_have_finite_odds():
    """log P of 0, which float32 reaches, and its gradient."""
    value, slope = jax.value_and_grad(lambda x: jnp.sum(orpo.log_odds(x)))(jnp.zeros(1))
    assert np.isfinite(value) and np.isfinite(slope).all()


def rows_of(prompts, length=48, sub_rows=2):
    examples = [
        dict(messages=[{"role": "user", "content": p}], responses=a, rank=[*range(len(a))],
             kinds=[""] * len(a))
        for p, a in prompts
    ]  # fmt: skip
    tokenizer = train("byte", [], 0)
    packed = preference_rows(examples, tokenizer, length, sub_rows, False, "error", {}, ("",))
    return tokenizer, packed.rows


def answers(tokenizer, rows, real):
    """[(text of a segment, of its answer)] of the candidates where `real` [N, C]."""
    N, S, T = rows["tokens"].shape
    texts = []
    for n, c in np.argwhere(real):
        tokens, segments = rows["tokens"][n].reshape(-1), rows["segment_ids"][n].reshape(-1)
        start, end = rows["start"][n, c], rows["end"][n, c]
        before = np.arange(start // T * T, start)
        before = before[segments[before] == segments[start]]
        np.testing.assert_array_equal(
            rows["positions"][n].reshape(-1)[[*before, *range(start, end + 1)]],
            np.arange(len(before) + end + 1 - start),
        )
        texts.append((tokenizer.decode(tokens[before]), tokenizer.decode(tokens[start : end + 1])))
    return texts


def test_the_reference_point_is_taken_on_prompts_with_answers_to_others():
    tokenizer, rows = rows_of(
        [("why", ["so", "because"]), ("and?", ["that is it", "well"]), ("who", ["me", "you"])] * 3
    )
    unrelated = kto.unrelated_rows(rows)
    assert unrelated["tokens"].shape == rows["tokens"].shape
    before = dict.fromkeys(answers(tokenizer, rows, rows["rank"] >= 0))
    after = answers(tokenizer, unrelated, unrelated["mask"] > 0)
    prompts = [p for p, _ in before]
    follows = dict(zip(prompts, prompts[2:] + prompts[:2], strict=True))
    assert {p for p, _ in after} == {p for p, _ in before}
    for prompt, answer in after:
        assert (prompt, answer) not in before and (follows[prompt], answer) in before
    alone = kto.unrelated_rows(
        {name: x[:1] for name, x in rows_of([("why", ["so", "no"])])[1].items()}
    )
    assert not alone["mask"].any(), "there is no other prompt"


def test_answers_to_others_are_cut_where_a_sub_row_ends():
    tokenizer, rows = rows_of([("a", ["b" * 20, "c"]), ("long" * 7, ["d", "e"])], length=40)
    unrelated = kto.unrelated_rows(rows)
    lengths = (unrelated["end"] - unrelated["start"] + 1)[unrelated["mask"] > 0]
    assert np.all(lengths >= 1) and np.all(unrelated["end"] < 80)
    assert "b" * 5 in "".join(a for _, a in answers(tokenizer, unrelated, unrelated["mask"] > 0))


@pytest.mark.parametrize("stage", ["kto", "orpo", "simpo"])
def test_a_short_training_improves_what_is_held_out(stages_dir, stage):
    """Eight steps on answers that are worse the more often they say "bad". In so few, ORPO's
    fine-tuning outweighs its penalty."""
    begin, *_, end = read_metrics(stages_dir / stage, "eval")
    assert end["loss"] < begin["loss"] - 0.01
    if stage != "orpo":
        assert end["accuracy/overall"] >= max(begin["accuracy/overall"], 0.6)
        assert end["margin"] > begin["margin"] + 0.01
    if stage == "kto":  # it begins at the reference
        assert abs(begin["kl"]) < 1e-3 and abs(begin["loss"] - 0.5) < 1e-3


def test_the_shapes_that_are_prepared_are_those_of_the_rows():
    """Without the reference, as when a program is compiled for a TPU that is not there."""
    _, rows = rows_of([("why", ["so", "because"]), ("and?", ["that is it", "well"])])
    numbers = np.zeros(rows["rank"].shape, np.float32)
    added = {f"kl_{name}": x for name, x in kto.unrelated_rows(rows).items()}
    added |= {"ref_logprobs": numbers, "kl_ref_logprobs": numbers}
    shapes = kto.precomputed({name: jnp.asarray(x) for name, x in rows.items()})
    assert {k: (x.shape, x.dtype) for k, x in shapes.items()} == {
        k: (x.shape, x.dtype) for k, x in added.items()
    }


@pytest.mark.parametrize("frozen", [False, True])
def test_means_of_the_first_pass_are_over_the_whole_step(frozen):
    """The loss sees Σ sums / Σ weights of all microbatches, and no gradient goes through them;
    beside frozen weights too, which both see."""
    batch = {"x": jnp.arange(1.0, 9.0), "w": jnp.asarray([1, 0, 1, 1, 2, 1, 0, 3.0])}

    def slope(trainable):
        return trainable["policy"]["a"] * trainable["policy"]["b"]

    stage = Stage(
        weights=lambda batch: {"rows": jnp.float32(len(batch["x"]))},
        loss=lambda trainable, frozen, batch: (
            {"rows": jnp.sum(slope(trainable) * batch["x"] * batch["mean"])},
            {"mean": (batch["mean"], jnp.float32(1))},
        ),
        source=Mock(),
        evaluation=None,
        first_pass=lambda trainable, frozen, batch: {
            "mean": (jnp.sum(slope(trainable) * batch["x"] * batch["w"]), jnp.sum(batch["w"]))
        },
    )
    weights = {"a": jnp.float32(3), "b": jnp.float32(2)}
    rest = {}
    if frozen:
        stage = joined(stage, {"policy": Partition(frozenset({("b",)}))})
        rest = {"policy": {"b": weights.pop("b")}}
    mean = 6.0 * np.sum(batch["x"] * batch["w"]) / np.sum(batch["w"])
    for count in (1, 2, 4):
        loss, gradients, _ = accumulate_gradients(stage, {"policy": weights}, rest, batch, count)
        np.testing.assert_allclose(loss, 6 * 4.5 * mean, rtol=1e-6)
        np.testing.assert_allclose(gradients["policy"]["a"], 2 * 4.5 * mean, rtol=1e-6)
