"""Text that a policy generates for held-out prompts: samples for people to read, and scored
answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ranges
from data.pipeline import Data
from data.text.chat import render_prompt
from model import cpu, sharding
from model.generate import Sampling, generate
from ranges import Size
from train import losses
from train.evals.base import SEED, evenly_spaced, interval
from train.rl import hacking
from train.rl.forward import by_rows, response_logprobs
from train.terminal.progress import phase


class Text(NamedTuple):
    """A sampled text, and whether it was cut off at the largest number of tokens."""

    text: str
    cut: bool


class TextSampler:
    """Samples texts for a few prompts, given as ids."""

    def __init__(self, ctx: Any, max_new_tokens: int, temperature: float = 0.0):
        self.ctx, self.max_new_tokens = ctx, max_new_tokens
        ids = dict(stop_ids=ctx.tokenizer.stop_ids, banned_ids=ctx.tokenizer.banned_ids)
        sampling = Sampling(max_new_tokens, temperature, pad_id=ctx.tokenizer.pad_id, **ids)
        config = ctx.models["policy"]
        self._generate = jax.jit(
            lambda params, tokens, mask, keys: generate(
                config, params, tokens, mask, keys, sampling
            ),
            out_shardings=sharding.replicated(ctx.mesh),
            compiler_options=cpu.run_once_options(),  # a few rows at an evaluation
        )

    def __call__(self, params: Mapping[str, Any], prompts: list[np.ndarray]) -> list[Text]:
        shards = sharding.batch_shards(self.ctx.mesh)
        rows = -(-len(prompts) // shards) * shards
        width = -(-max(map(len, prompts)) // 16) * 16  # few shapes, so few compilations
        tokens, mask = np.zeros((rows, width), np.int32), np.zeros((rows, width), bool)
        for row, prompt in enumerate(prompts):
            tokens[row, width - len(prompt) :] = prompt
            mask[row, width - len(prompt) :] = True
        keys = jax.random.split(jax.random.key(SEED), rows)
        sample = jax.device_get(self._generate(params, tokens, mask, keys))
        texts = []
        for i in range(len(prompts)):
            ids = sample.tokens[i, width:][sample.response_mask[i]]
            ended = np.isin(ids[-1:], self.ctx.tokenizer.stop_ids).any()
            cut = len(ids) == self.max_new_tokens and not ended
            texts.append(Text(self.ctx.tokenizer.decode(ids), bool(cut)))
        return texts


@dataclasses.dataclass(frozen=True)
class SamplesConfig:
    """Settings of `Samples`.

    Attributes:
      samples: number of texts per evaluation. sample_tokens: the most tokens of each.
    """

    samples: Size = 4
    sample_tokens: Size = 64

    def __post_init__(self):
        ranges.check(self)


class Samples:
    """A few texts for people to read, at temperature 0: continuations of documents, or answers to
    prompts and conversations.

    Args:
      settings: a SamplesConfig, or an EvaluateConfig (train/config/run.py), whose `samples` may be
        0 for none.
    """

    def __init__(self, ctx: Any, data: Data, settings: Any):
        self.ctx, self.data, self.settings = ctx, data, settings
        self._sampler = TextSampler(ctx, settings.sample_tokens) if settings.samples else None

    def _prompts(self) -> Iterator[tuple[dict, np.ndarray]]:
        """Yields ({`prompt`, and `reference` if there is one}, the prompt's ids)."""
        tokenizer, examples = self.ctx.tokenizer, self.data.heldout_examples
        for index in evenly_spaced(len(examples), self.settings.samples):
            example = examples[index]
            if "messages" in example:
                messages, reference = example["messages"], {}
                if messages[-1]["role"] == "assistant":
                    *messages, answer = messages
                    reference = {"reference": answer["content"]}
                ids = render_prompt(tokenizer, messages, example.get("tools"))
                yield {"prompt": messages[-1]["content"]} | reference, ids
            else:
                ids = tokenizer.encode(example["text"][:200])[:24]
                text = tokenizer.decode(ids)
                rest = example["text"][len(text) :][:400]
                ids = np.array([*tokenizer.prefix, *ids], np.int32)
                yield {"prompt": text, "reference": rest}, ids

    def __call__(
        self, trainable: Mapping[str, Any], frozen: Mapping[str, Any]
    ) -> tuple[dict[str, float], list[dict]]:
        del frozen
        if not self._sampler:
            return {}, []
        prompts, ids = zip(*self._prompts(), strict=True)
        responses = self._sampler(trainable["policy"], list(ids))
        return {}, [
            {"prompt": prompt["prompt"], "response": response.text} | prompt
            for prompt, response in zip(prompts, responses, strict=True)
        ]


def win_rate(scores: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """(share of prompts where `scores` beats `other`, low, high) with its 95% `interval`; ties
    count half."""
    sign = np.sign(np.asarray(scores) - np.asarray(other))
    rate = float(np.mean(1 + sign)) / 2
    return rate, *interval(rate, len(sign), float(np.mean(sign == 0)))


def rise(values: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """The 95% interval of the mean of `values` - `other`, two measurements of the same prompts,
    by the normal approximation."""
    difference = np.asarray(values, np.float64) - np.asarray(other, np.float64)
    middle, n = float(np.mean(difference)), len(difference)
    half = 1.96 * float(np.std(difference, ddof=1)) / n**0.5 if n > 1 else 0.0
    return middle - half, middle + half


class ScoredAnswers:
    """Scored answers of a policy to held-out prompts: their score, the KL to the reference (the
    mean over answers of the sum of k1), the win rate against the reference's answers to the same
    prompts, by the judge's scores if there is one, and the repetition (train/rl/hacking.py) of
    both, with a lower bound of its rise.

    Args:
      data: prompts. sampler: a Sampler (train/rl/sampler.py).
      prompts: number of prompts to answer; fewer held-out prompts are answered repeatedly.
      samples: number of answers per evaluation for people to read.
    """

    def __init__(self, ctx: Any, data: Data, sampler: Any, prompts: int, samples: int):
        self.ctx, self.data, self.sampler, self.samples = ctx, data, sampler, samples
        self._index = np.arange(prompts) % len(data.heldout["tokens"])
        self._reference: dict[str, Any] | None = None  # the reference's answers, cached
        self._kl, self._repetition = jax.jit(self._sum_k1), jax.jit(hacking.repetition)

    def _sum_k1(self, policy, reference, batch):
        rl, chunk = self.sampler.rl, self.ctx.config.loss.chunk
        R, T = rl.response_length, rl.temperature

        def kl_of_rows(rows):
            mask = rows["response_mask"]
            old, ref = (
                response_logprobs(self.ctx.models[role], params, rows, R, T, chunk)[0]
                for role, params in (("policy", policy), ("reference", reference))
            )
            return jnp.sum(jnp.where(mask > 0, losses.kl_estimate(old, ref), 0.0), axis=1)

        return by_rows(kl_of_rows, batch, self.ctx.config.data.batch_size)

    def _answers(self, policy, frozen):
        """One answer to each prompt: its tokens and mask, score, rewards, judge's score and KL.

        Computed in batches of a rollout's size, so that both use the same compiled program.
        """
        rows, size, parts = self.data.heldout, self.sampler.rl.answers_at_once, []
        with phase("evaluating", len(self._index)) as progress:
            for start in range(0, len(self._index), size):
                index = self._index[start:][:size]
                prompts = {name: values[index] for name, values in rows.items()}
                parts.append(self._answer_batch(policy, frozen, prompts, start))
                progress.count(start + len(index))
        return jax.tree.map(lambda *x: np.concatenate(x), *parts)

    def _answer_batch(self, policy, frozen, prompts, first_row: int):
        n, R = len(prompts["tokens"]), self.sampler.rl.response_length
        local = sharding.local_rows(self.ctx.mesh, n)
        prompts = {name: x[local] for name, x in prompts.items()}
        examples, key = self.data.heldout_examples, jax.random.key(SEED)
        batch, rewards = self.sampler.sample_and_score(
            policy, frozen, prompts, examples, key, first_row
        )
        out = {"score": rewards.pop("score"), "rewards": rewards}
        out["judge"] = out["score"]
        if "judge" in frozen:
            out["judge"] = self.sampler.score(frozen, batch, "judge")
            self.sampler.check_scores({"judge": out["judge"]}, batch)
        out["kl"] = self._kl(policy, frozen["reference"], batch)
        out |= {"tokens": batch["tokens"][:, -R:], "mask": batch["response_mask"]}
        out["repetition"] = self._repetition(out["tokens"], out["mask"])
        return self.sampler.fetch(out)

    def __call__(
        self, trainable: Mapping[str, Any], frozen: Mapping[str, Any]
    ) -> tuple[dict[str, float], list[dict]]:
        if self._reference is None:
            self._reference = self._answers(frozen["reference"], frozen)
        reference = self._reference
        answers = self._answers(trainable["policy"], frozen)
        valid = np.isfinite(answers["score"])  # false without a reward (rewards.on_error)
        judged = np.isfinite(answers["judge"]) & np.isfinite(reference["judge"])
        rate, low, high = win_rate(answers["judge"][judged], reference["judge"][judged])
        stops = np.isin(answers["tokens"], self.ctx.tokenizer.stop_ids)
        ended = np.any(stops & (answers["mask"] > 0), axis=1)
        repetition = answers["repetition"], reference["repetition"]
        metrics = {
            "score": float(np.mean(answers["score"][valid])),
            "score_std": float(np.std(answers["score"][valid], ddof=1)) if sum(valid) > 1 else 0.0,
            "reward_errors": float(np.sum(~valid)),
            "kl": float(np.mean(answers["kl"][valid])),
            **{f"reward/{k}": float(np.mean(v[valid])) for k, v in answers["rewards"].items()},
            "win_rate": rate,
            "win_rate_low": low,
            "win_rate_high": high,
            "compared": float(np.sum(judged)),
            "repetition": float(np.mean(repetition[0])),
            "reference_repetition": float(np.mean(repetition[1])),
            "repetition_rise_low": rise(*repetition)[0],
            "answers": float(np.sum(valid)),
            "length": float(np.mean(np.sum(answers["mask"], axis=1)[valid])),
            "eos_rate": float(np.mean(ended[valid])),
        }
        decode = self.ctx.tokenizer.decode
        samples = []
        for i in evenly_spaced(len(self._index), self.samples):
            prompt = self.data.heldout_examples[self._index[i]]["messages"][-1]["content"]
            texts = [decode(x["tokens"][i][x["mask"][i] > 0]) for x in (answers, reference)]
            samples.append(
                {"prompt": prompt, "response": texts[0], "reference_response": texts[1]}
                | {"score": float(answers["score"][i]), "kl": float(answers["kl"][i])}
            )
        return metrics, samples
