"""Held-out evaluation of each stage: `evaluator(trainable, frozen) -> (metrics, samples)`.

Metrics are floats over the whole held-out split; samples are dicts of text for samples.jsonl. Every
draw uses fixed keys, so that two evaluations of the same weights agree.
"""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from data.loader import heldout_batches
from data.text.chat import render_prompt
from model import sharding
from model.generate import Sampling, generate
from model.transformer import Transformer
from train import losses, vocabulary
from train.objectives import dpo
from train.rl import rewards
from train.rl.rollout import by_rows, response_logprobs

_SEED = 20_240  # of evaluation; a run's own seed must not change what it is measured on


def mean_over_heldout(ctx, sums, *args) -> dict[str, float]:
    """`sums(*args, batch) -> {metric: (sum, weight)}` added up over the held-out rows."""
    totals: dict[str, np.ndarray] = {}
    size = ctx.config.data.batch_size
    local = sharding.local_rows(ctx.mesh, size)
    for batch in heldout_batches(ctx.data.heldout, size, local):
        for name, pair in jax.device_get(sums(*args, sharding.put_batch(batch, ctx.mesh))).items():
            totals[name] = totals.get(name, 0.0) + np.asarray(pair, np.float64)
    return {name: float(s / w) for name, (s, w) in totals.items() if w}


def spread(size: int, count: int) -> list[int]:
    """`count` indices, or `size` if fewer, evenly over range(size)."""
    count = min(count, size)
    return [i * size // count for i in range(count)]


class TextSampler:
    """Answers to a few prompts given as ids, for people to read."""

    def __init__(self, ctx, max_new_tokens: int, temperature: float = 0.0):
        self.ctx = ctx
        ids = dict(stop_ids=ctx.tokenizer.stop_ids, banned_ids=ctx.tokenizer.banned_ids)
        sampling = Sampling(max_new_tokens, temperature, pad_id=ctx.tokenizer.pad_id, **ids)
        config = ctx.models["policy"]
        self._generate = jax.jit(
            lambda params, tokens, mask, keys: generate(
                config, params, tokens, mask, keys, sampling
            ),
            out_shardings=sharding.replicated(ctx.mesh),
        )

    def __call__(self, params, prompts: list[np.ndarray]) -> list[str]:
        shards = sharding.batch_shards(self.ctx.mesh)
        rows = -(-len(prompts) // shards) * shards
        width = -(-max(map(len, prompts)) // 16) * 16  # few shapes, few compilations
        tokens, mask = np.zeros((rows, width), np.int32), np.zeros((rows, width), bool)
        for row, prompt in enumerate(prompts):
            tokens[row, width - len(prompt) :] = prompt
            mask[row, width - len(prompt) :] = True
        keys = jax.random.split(jax.random.key(_SEED), rows)
        sample = jax.device_get(self._generate(params, tokens, mask, keys))
        decode = self.ctx.tokenizer.decode
        return [
            decode(sample.tokens[i, width:][sample.response_mask[i]]) for i in range(len(prompts))
        ]


class NextTokenEvaluator:
    """Loss a token where the mask is, bits per byte, and a few texts written on."""

    def __init__(self, ctx):
        self.ctx = ctx
        settings = ctx.config.evaluate
        config, chunk = ctx.models["policy"], ctx.config.loss.chunk
        lengths = np.array([len(b) for b in ctx.tokenizer.token_bytes])
        lengths = jnp.pad(jnp.asarray(lengths), (0, config.padded_vocab_size - len(lengths)))

        def sums(params, batch):
            mask = batch["loss_mask"]
            args = batch["tokens"], batch["positions"], batch["segment_ids"]
            hidden, _ = Transformer(config).apply(
                {"params": params}, *args, method=Transformer.hidden
            )
            _, nats, weight = vocabulary.next_token_loss(config, params, hidden, batch, 0.0, chunk)
            size = losses.masked_sum(lengths[batch["tokens"]], mask)
            return {"loss": (nats, weight), "bits_per_byte": (nats / math.log(2), size)}

        self._sums = jax.jit(sums)
        self._sampler = TextSampler(ctx, settings.sample_tokens) if settings.samples else None

    def _prompts(self):
        examples = self.ctx.data.heldout_examples
        for index in spread(len(examples), self.ctx.config.evaluate.samples):
            example = examples[index]
            if "messages" in example:
                asked = example["messages"][:-1]
                ids = render_prompt(self.ctx.tokenizer, asked, example.get("tools"))
                yield asked[-1]["content"], ids, example["messages"][-1]["content"]
            else:
                ids = self.ctx.tokenizer.encode(example["text"][:200])[:24]
                text = self.ctx.tokenizer.decode(ids)
                yield (
                    text,
                    np.array([*self.ctx.tokenizer.prefix, *ids], np.int32),
                    example["text"][len(text) :][:400],
                )

    def __call__(self, trainable, frozen):
        del frozen
        metrics = mean_over_heldout(self.ctx, self._sums, trainable["policy"])
        if not self._sampler:
            return metrics, []
        prompts, ids, wanted = zip(*self._prompts(), strict=True)
        answers = self._sampler(trainable["policy"], list(ids))
        keys = ("prompt", "response", "reference")
        rows = zip(prompts, answers, wanted, strict=True)
        return metrics, [dict(zip(keys, row, strict=True)) for row in rows]


def overlap_score(prompt: str, response: str) -> float:
    """Share of a response's words that the prompt has too: the least a reward model must beat."""

    def words(text):
        return set(re.findall(r"[a-z0-9]+", re.sub(r"[_.]", " ", text.lower())))

    response_words = words(response)
    return len(words(prompt) & response_words) / max(len(response_words), 1)


def overlap_accuracy(examples) -> dict[str, float]:
    """{kind: accuracy} of `overlap_score` on preferences; a tie counts half."""
    right: dict[str, list[float]] = {}
    for example in examples:
        prompt = example["messages"][-1]["content"]
        scores = [overlap_score(prompt, r) for r in example["responses"]]
        for i, better in enumerate(example["rank"]):
            for j, worse in enumerate(example["rank"]):
                if better < worse:
                    won = (1 + np.sign(scores[i] - scores[j])) / 2
                    right.setdefault(example["kinds"][j], []).append(won)
    return {kind: float(np.mean(won)) for kind, won in right.items()}


# Upper edges of the margins that accuracy is told apart by, and how many bins calibration has.
_MARGINS, _BINS = (0.5, 1.0, 2.0, math.inf), 10


def ranking_sums(scores, batch, kinds):
    """{metric: (sum, weight)} of scores [B, C] on the pairs of a preference batch.

    The Bradley-Terry loss, the margin, accuracy for each kind of the worse candidate and for each
    size of margin, and what `ranking_metrics` makes the calibration error of. Ties count half. Of
    answers alone `accuracy/alone`: whether the score's sign says that they are good.
    """
    rank, group = batch["rank"], batch["group"]
    pairs = losses.pairs(rank, group)
    gap = scores[:, :, None] - scores[:, None, :]
    size, right, count = jnp.abs(gap), (1 + jnp.sign(gap)) / 2, jnp.sum(pairs)
    out = {
        "loss": losses.bradley_terry(scores, rank, group),
        "margin": losses.pair_metrics(scores, rank, group)["margin"],
    }
    for number, kind in enumerate(kinds):
        of_kind = pairs * (batch["kind"] == number)[:, None, :]
        out[f"accuracy/{kind or 'all'}"] = jnp.sum(right * of_kind), jnp.sum(of_kind)
    single = losses.alone(rank, group)
    out["accuracy/alone"] = jnp.sum(losses.told_right(scores, rank) * single), jnp.sum(single)
    for low, high in zip((0.0, *_MARGINS), _MARGINS, strict=False):
        inside = pairs * ((size >= low) & (size < high))
        out[f"accuracy_by_margin/{low:g}-{high:g}"] = jnp.sum(right * inside), jnp.sum(inside)
    sure = jax.nn.sigmoid(size)  # the probability that the model gives its own choice
    which = jnp.minimum(((sure - 0.5) * 2 * _BINS).astype(jnp.int32), _BINS - 1)
    for number in range(_BINS):
        off = jnp.where(which == number, right - sure, 0.0)
        out[f"_bin/{number}"] = jnp.sum(off * pairs), count
    return out


def ranking_metrics(means):
    """Held-out means of `ranking_sums` with `calibration_error` in place of its bins (the expected
    one, Guo et al. 2017, arXiv:1706.04599, eq. 3) and the plain mean of the kinds' accuracies."""
    metrics = {k: v for k, v in means.items() if not k.startswith("_bin/")}
    metrics["calibration_error"] = sum(abs(v) for k, v in means.items() if k.startswith("_bin/"))
    by_kind = [v for k, v in metrics.items() if k.startswith("accuracy/")]
    return metrics | {"accuracy/overall": float(np.mean(by_kind))}


class RewardEvaluator:
    """How a reward model ranks held-out answers (`ranking_sums`), and how word overlap does."""

    def __init__(self, ctx):
        self.ctx = ctx
        self._baseline = overlap_accuracy(ctx.data.heldout_examples)
        config, kinds = ctx.models["reward"], ctx.data.kinds
        self._sums = jax.jit(
            lambda params, batch: ranking_sums(
                rewards.score_candidates(config, params, batch), batch, kinds
            )
        )

    def __call__(self, trainable, frozen):
        del frozen
        metrics = ranking_metrics(mean_over_heldout(self.ctx, self._sums, trainable["reward"]))
        for kind, value in self._baseline.items():
            metrics[f"overlap_accuracy/{kind or 'all'}"] = value
        if self._baseline:
            metrics["overlap_accuracy/overall"] = float(np.mean(list(self._baseline.values())))
        return metrics, []


class DPOEvaluator:
    """How the policy's implicit rewards rank held-out answers (`ranking_sums`), the loss it is
    trained with, and a few answers of its own."""

    def __init__(self, ctx):
        self.ctx = ctx
        settings, samples = ctx.config.dpo, ctx.config.evaluate

        def sums(params, batch):
            scores = dpo.implicit_rewards(ctx, params, batch)
            args = batch["rank"], batch["group"], settings.beta, settings.loss
            noise = losses.label_noise(settings.label_smoothing, batch["doubt"])
            loss = losses.preference_optimization(scores, *args, noise)
            return ranking_sums(scores, batch, ctx.data.kinds) | {"loss": loss}

        self._sums = jax.jit(sums)
        self._sampler = TextSampler(ctx, samples.sample_tokens) if samples.samples else None

    def __call__(self, trainable, frozen):
        del frozen
        metrics = ranking_metrics(mean_over_heldout(self.ctx, self._sums, trainable["policy"]))
        if not self._sampler:
            return metrics, []
        examples = self.ctx.data.heldout_examples
        shown = [examples[i] for i in spread(len(examples), self.ctx.config.evaluate.samples)]
        prompts = [render_prompt(self.ctx.tokenizer, e["messages"], e.get("tools")) for e in shown]
        answers = self._sampler(trainable["policy"], prompts)
        return metrics, [
            {"prompt": e["messages"][-1]["content"], "response": answer}
            for e, answer in zip(shown, answers, strict=True)
        ]


def win_rate(scores, other) -> tuple[float, float, float]:
    """Share of prompts where `scores` beats `other`, ties half, and its 95% interval.

    Wilson's (1927): the rates μ with (rate - μ)² ≤ 1.96²·variance(μ)/n. With a share t of ties the
    variance is μ(1 - μ) - t/4.
    """
    sign = np.sign(np.asarray(scores) - np.asarray(other))
    rate, ties, k = float(np.mean(1 + sign)) / 2, float(np.mean(sign == 0)), 1.96**2 / len(sign)
    middle = (rate + k / 2) / (1 + k)
    inside = k * (4 * rate * (1 - rate) - ties) + k * k * (1 - ties)
    half = math.sqrt(max(inside, 0.0)) / (2 * (1 + k))
    return rate, max(middle - half, 0.0), min(middle + half, 1.0)


class PPOEvaluator:
    """Score, KL to the reference (mean over responses of the sum of k1), and the win rate against
    the reference's answers to the same held-out prompts, by the judge if there is one.
    """

    def __init__(self, ctx, sampler):
        self.ctx, self.sampler, self._reference = ctx, sampler, None
        self._kl = jax.jit(self._sum_k1)

    def _sum_k1(self, policy, reference, batch):
        R, T = self.sampler.rl.response_length, self.sampler.rl.temperature
        chunk = self.ctx.config.loss.chunk

        def one(rows):
            mask = rows["response_mask"]
            old, ref = (
                response_logprobs(self.ctx.models[role], params, rows, R, T, chunk)[0]
                for role, params in (("policy", policy), ("reference", reference))
            )
            return jnp.sum(jnp.where(mask > 0, losses.kl_estimate(old, ref), 0.0), axis=1)

        return by_rows(one, batch, self.ctx.config.data.batch_size)

    def _answers(self, policy, frozen):
        """Texts, scores, judge's scores, KLs, lengths and ends of one answer a held-out prompt.

        In parts of a rollout's size, so that what is compiled for one serves the other.
        """
        rows, rl = self.ctx.data.heldout, self.sampler.rl
        # Few prompts are answered more than once.
        index = np.arange(rl.eval_prompts) % len(rows["tokens"])
        parts = [
            self._some_answers(
                policy,
                frozen,
                {k: v[index[start:][: rl.rollout_batch]] for k, v in rows.items()},
                start,
            )
            for start in range(0, len(index), rl.rollout_batch)
        ]
        return index, jax.tree.map(lambda *x: np.concatenate(x), *parts)

    def _some_answers(self, policy, frozen, prompts, first_row: int):
        n, R = len(prompts["tokens"]), self.sampler.rl.response_length
        mine = sharding.local_rows(self.ctx.mesh, n)
        examples = self.ctx.data.heldout_examples
        known = [e.get("answer", "") for e in examples] or [""] * n
        answers = [known[i] for i in prompts["example"][mine]]
        prompts = sharding.put_batch({k: v[mine] for k, v in prompts.items()}, self.ctx.mesh)
        batch = self.sampler.sample(policy, prompts, jax.random.key(_SEED), np.int32(first_row))
        found = self.sampler.rewards(frozen, batch, answers)
        out = {"score": found.pop("score"), "rewards": found}
        out["judge"] = out["score"]
        if "judge" in frozen:
            out["judge"] = self.sampler.score(frozen, batch, "judge")
            self.sampler.check({"judge": out["judge"]}, batch)
        out["kl"] = self._kl(policy, frozen["reference"], batch)
        out |= {"tokens": batch["tokens"][:, -R:], "mask": batch["response_mask"]}
        return jax.device_get(jax.device_put(out, sharding.replicated(self.ctx.mesh)))

    def __call__(self, trainable, frozen):
        if self._reference is None:
            self._reference = self._answers(frozen["reference"], frozen)[1]
        reference = self._reference
        index, now = self._answers(trainable["policy"], frozen)
        valid = np.isfinite(now["score"])  # else left out (rewards.on_error)
        judged = np.isfinite(now["judge"]) & np.isfinite(reference["judge"])
        rate, low, high = win_rate(now["judge"][judged], reference["judge"][judged])
        stops = np.isin(now["tokens"], self.ctx.tokenizer.stop_ids)
        ended = np.any(stops & (now["mask"] > 0), axis=1)
        metrics = {
            "score": float(np.mean(now["score"][valid])),
            "score_std": float(np.std(now["score"][valid], ddof=1)) if sum(valid) > 1 else 0.0,
            "reward_errors": float(np.sum(~valid)),
            "kl": float(np.mean(now["kl"][valid])),
            **{f"reward/{k}": float(np.mean(v[valid])) for k, v in now["rewards"].items()},
            "win_rate": rate,
            "win_rate_low": low,
            "win_rate_high": high,
            "length": float(np.mean(np.sum(now["mask"], axis=1)[valid])),
            "eos_rate": float(np.mean(ended[valid])),
        }
        decode = self.ctx.tokenizer.decode
        samples = []
        for i in spread(len(index), self.ctx.config.evaluate.samples):
            prompt = self.ctx.data.heldout_examples[index[i]]["messages"][-1]["content"]
            texts = [decode(x["tokens"][i][x["mask"][i] > 0]) for x in (now, reference)]
            samples.append(
                {"prompt": prompt, "response": texts[0], "reference_response": texts[1]}
                | {"score": float(now["score"][i]), "kl": float(now["kl"][i])}
            )
        return metrics, samples
