"""GRPO of a fine-tuned policy: several answers a prompt, each compared with the mean of its group.

    python -m train --config=configs/grpo.py:smoke --workdir=runs/grpo \\
        --config.init_from.policy=runs/sft --config.init_from.reward=runs/reward \\
        --config.data.source=examples/prompts.jsonl

Choices: `variant`: `grpo`; `dr`, Dr. GRPO: no division by the group's std or the length; `dapo`,
clip-higher, a mean over tokens, draws until groups differ, long answers punished, no KL; `gspo`,
the ratio of whole sequences; `rloo`, the other answers' mean as baseline, one pass, KL in the
reward.

Choice: `smoke`, 16 short steps for the model of `configs/pretrain.py:smoke`; also with a variant:
`variant=dr,smoke`.

Hardware: an accelerator for models of 125M parameters and more.
Time: not measured by itself; `python -m benchmarks.ppo.sums --workdir=runs/sums` trains 200 steps
of GRPO in five and a half minutes on two cores that other work shared.
Expect: a rising held-out `score`. In that run the share of right sums goes from 23.1% to 32.2%.
"""

import ml_collections

from configs import base, ppo

VARIANTS = ("grpo", "dr", "dapo", "gspo", "rloo")


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    chosen = base.choices(arg, variant="grpo", smoke=False)
    variant = chosen["variant"]
    if variant not in VARIANTS:
        raise ValueError(f"variant={variant}; choose {', '.join(VARIANTS)}")
    config = base.get_config()
    config.stage = "grpo"
    config.data.source = "tfds:pydocs/chat:train"
    config.data.on_long = "drop"
    config.data.batch_size = 64
    config.grpo.group_size = 8
    config.rl.prompt_length = 128
    config.rl.response_length = 256
    config.rl.rollout_batch = 256
    config.rl.epochs = 1
    config.rl.normalize_scores = False  # each group is normalized by its own mean and std
    config.rl.kl_coef = 0.0
    config.rl.kl_loss_coef = 0.04
    config.rl.kl_loss_estimator = "k3"
    config.steps = 4 * 100
    config.optimizer.peak_lr = 1e-6
    config.optimizer.schedule = "constant"
    config.optimizer.weight_decay = 0.0
    config.evaluate.every = 40
    config.checkpoint.every = 20
    if variant == "dr":
        config.grpo.scale, config.grpo.loss_mean = "none", "constant"
    elif variant == "dapo":
        config.rl.clip_high, config.rl.kl_loss_coef = 0.28, 0.0
        config.grpo.loss_mean, config.grpo.max_draws = "token", 3
        config.rl.overlong_buffer = 64
    elif variant == "gspo":
        config.grpo.ratio = "sequence"
        config.rl.clip_low, config.rl.clip_high, config.rl.kl_loss_coef = 3e-4, 4e-4, 0.0
    elif variant == "rloo":
        config.grpo.baseline, config.grpo.scale = "others", "none"
        config.rl.kl_coef, config.rl.kl_loss_coef = 0.05, 0.0
    if chosen["smoke"]:
        ppo.smoke(config)
    return config
