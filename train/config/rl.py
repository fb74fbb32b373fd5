"""Settings of reinforcement learning: rollouts and rewards."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import ranges
import registry
from ranges import (
    ConfigError,
    Count,
    CountOr0,
    NonNegative,
    Positive,
    Range,
    Share,
    Signed,
    Size,
    SizeOr0,
)
from train.rl import verifiers

# The cap of importance weights where the sampler is known to differ from the trainer.
IMPORTANCE_CAP = 2.0


@dataclasses.dataclass(frozen=True)
class RLConfig:
    """Rollouts, scores and the policy's loss: what PPO and GRPO share.

    `data.batch_size` is the minibatch.

    Attributes:
      prompt_length, response_length: P and R, in tokens. rollout_batch: episodes per rollout.
      epochs: passes over each rollout.
      prompt_buckets: number of prompt lengths, up to prompt_length. A rollout's prompts are padded
        to the shortest that holds them all; each length is compiled when it first occurs. With
        `slots` those that are read together are, and all lengths are compiled.
      temperature: of sampling and of every log-probability.
      stop_at_eos: an answer ends at <eos>; else all have R tokens.
      decode_tensor: factor by which the mesh axis `tensor` grows, at the expense of `fsdp`, while
        sampling. The policy is resharded once per rollout, and its weights are not gathered at
        every token. 1 samples on the training mesh.
      slots: answers that are sampled at once, on all devices together. Where one ends, the next
        prompt takes its slot (model/decoding/refill.py): time follows the mean length of answers,
        and the cache has so many rows, and a quarter more. 0 samples all answers at once.
      sample_batch: answers that one program samples. Rewards that run on the host score them while
        the next are sampled, and the cache has so many rows. 0: all of a rollout.
      rollouts_ahead: rollouts that are sampled before the updates on an earlier one are done, so
        that the devices sample while the host scores. Their answers are of an older policy, and
        weighted (`importance_cap`). 0: each rollout is of the current policy.
      int8_weights, int8_cache: whether rollouts are sampled with the layers' matrices, and with
        keys and values, in int8 (model/quantized.py). Answers are weighted (`importance_cap`);
        evaluations sample as without.
      eval_prompts: held-out prompts that are answered at an evaluation.
      reward_function: `module:function` that scores answers (train/rl/rewards.py).
      normalize_scores: scores of the reference's samples get mean 0 and standard deviation 1, as
        measured with the reward model (`python -m train.normalize`) or else in the first rollout
        whose scores differ. score_clip: largest normalized score; 0 does not clip.
      missing_eos: an answer cut off before its end keeps its score (`keep`), loses
        `missing_eos_value` (`penalty`), has it as score (`replace`), or is masked out of the
        policy's loss (`mask`).
      overlong_buffer: an answer that reaches into the last so many tokens loses up to 1, linearly
        (DAPO's soft overlong punishment); 0 disables it.
      kl_coef: β of the KL penalty in the reward; with `kl_target` above 0 it adapts over
        `kl_horizon` episodes. kl_estimator: of that KL: k1, k2 or k3.
      kl_loss_coef: weight of a KL term in the policy's loss, by `kl_loss_estimator`. Of the three,
        only k2 has the KL's gradient there, at the first minibatch; GRPO's authors use k3.
      clip_low, clip_high, dual_clip: bounds of the policy's loss.
      importance_cap: above 0, a token's policy loss is weighted by the ratio of the trainer's
        probability to the sampler's, at most this (truncated importance sampling). 0 weights none,
        unless answers are sampled ahead or in int8: then the cap is 2 (`largest_weight`).
      max_kl: once a minibatch is further than this from its rollout (mean approximate KL per
        token), neither its update nor the rollout's later ones are applied (early stopping, called
        target_kl elsewhere); 0 applies all.
      pretrain_coef: weight of the next-token loss on `pretrain_data` mixed in (PPO-ptx).
      record: every so many rollouts, one is kept as `rollouts/STEP.parquet` in the workdir, with
        its texts and the arrays of its tokens (train/rl/record.py); 0 keeps none.
    """

    prompt_length: Size = 32
    response_length: Size = 64
    rollout_batch: Size = 64
    epochs: Annotated[int, Range(1, 1000)] = 2
    prompt_buckets: Annotated[int, Range(1, 64)] = 1
    temperature: Positive = 1.0
    stop_at_eos: bool = True
    decode_tensor: Count = 1
    slots: SizeOr0 = 0
    sample_batch: SizeOr0 = 0
    rollouts_ahead: Annotated[int, Range(0, 64)] = 0
    int8_weights: bool = False
    int8_cache: bool = False
    eval_prompts: Size = 256
    reward_function: str = ""
    normalize_scores: bool = True
    score_clip: NonNegative = 0.0
    missing_eos: str = "keep"
    missing_eos_value: Signed = 1.0
    overlong_buffer: SizeOr0 = 0
    kl_coef: NonNegative = 0.05
    kl_target: NonNegative = 0.0
    kl_horizon: Count = 10_000
    kl_estimator: str = "k1"
    kl_loss_coef: NonNegative = 0.0
    kl_loss_estimator: str = "k2"
    clip_low: Share = 0.2
    clip_high: NonNegative = 0.2
    dual_clip: Annotated[float, Range(1, 1e9, "(]", also=0)] = 0.0
    importance_cap: NonNegative = 0.0
    max_kl: NonNegative = 0.0
    pretrain_coef: NonNegative = 0.0
    record: CountOr0 = 0

    def __post_init__(self):
        ranges.check(self, "rl.")
        if self.missing_eos not in ("keep", "penalty", "replace", "mask"):
            raise ConfigError(
                f"rl.missing_eos={self.missing_eos!r:.80}; choose keep, penalty, replace or mask"
            )
        for name in ("kl_estimator", "kl_loss_estimator"):
            if getattr(self, name) not in ("k1", "k2", "k3"):
                raise ConfigError(f"rl.{name}={getattr(self, name)!r:.80}; choose k1, k2 or k3")
        if self.sample_batch and self.rollout_batch % self.sample_batch:
            raise ConfigError(
                f"rl.sample_batch={self.sample_batch} does not divide "
                f"rl.rollout_batch={self.rollout_batch}"
            )
        if self.overlong_buffer > self.response_length:
            raise ConfigError(
                f"rl.overlong_buffer={self.overlong_buffer} is more than "
                f"rl.response_length={self.response_length}"
            )
        if self.kl_target and self.rollout_batch >= 5 * self.kl_horizon:
            raise ConfigError(
                f"rl.kl_horizon={self.kl_horizon} lets a rollout of {self.rollout_batch} episodes "
                "take the KL coefficient below 0; set --config.rl.kl_horizon to at least "
                f"{self.rollout_batch}"
            )

    @property
    def answers_at_once(self) -> int:
        """The number of answers that one program samples."""
        return self.sample_batch or self.rollout_batch

    @property
    def largest_weight(self) -> float:
        """The cap of truncated importance sampling; 0 where answers are not weighted."""
        differs = self.rollouts_ahead or self.int8_weights or self.int8_cache
        return self.importance_cap or (IMPORTANCE_CAP if differs else 0.0)


@registry.open_to(verifiers.fields)
@dataclasses.dataclass(frozen=True)
class RewardsConfig:
    """The weight of each reward in the score of an answer (train/rl/rewards.py); 0 leaves one out.
    Verifiers add their weights, under their names, and their settings (train/rl/verifiers.py).

    Attributes:
      model: the weight of the reward model, where `init_from.reward` names one.
      function: the weight of `rl.reward_function`, where it names one.
      on_error: a reward that is no finite number, or a function that raises, ends the run, saved
        (`error`), or leaves that answer out of losses, means and baselines (`skip`), counted in
        `reward_errors`. max_errors: share of a rollout's answers that may be left out, below 0.5;
        more end the run all the same.
      timeout: seconds that a function may take for an answer, which has no reward else; 0 waits
        for ever.
    """

    model: Signed = 1.0
    function: Signed = 1.0
    on_error: str = "error"
    max_errors: Annotated[float, Range(0, 0.5, "[)")] = 0.1
    timeout: NonNegative = 60.0

    def __post_init__(self):
        ranges.check(self, "rewards.")
        if self.on_error not in ("error", "skip"):
            raise ConfigError(f"rewards.on_error={self.on_error!r:.80}; choose error or skip")
        verifiers.validate(self)
