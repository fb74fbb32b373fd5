"""Round after round: people rank the policy's answers, a reward model learns the rankings, the
policy learns from it, and is compared with the last one.

    python -m train.improve --workdir=runs/improve --config=configs/improve.py:smoke,\\
policy=runs/demo/sft,prompts=examples/prompts.jsonl,conversations=examples/chats.jsonl

Each round trains the stages `reward` and `policy`, whose settings are those of any run:
`--config.stages.policy.steps=40`. The settings of the rounds, `--config.improve.rounds=5`, are
described in train/improve/settings.py, and the command in docs/people.md.

Choices: `policy`, the run that answers first; `reward`, a reward model to start from, by default
the policy's own network with a new head; `prompts`, what is asked, and what PPO answers;
`conversations`, people's answers that no training sees, on which rounds are compared; `method`,
`ppo` or `dpo`; `smoke`, few questions and short stages, for the demo's model.

Hardware: as configs/reward.py and configs/ppo.py; two laptop cores for `smoke`.
Time: people's time, and that of the two stages; a round of the demo with a scripted annotator took
three minutes on two busy cores.
Expect: a rising share of answers that the annotator prefers; in three rounds of the demo from 24%
to 60, 64 and 82% (docs/benchmarks.md).
"""

import ml_collections

from configs import base, dpo, ppo, reward

METHODS = {"ppo": ppo, "dpo": dpo}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    chosen = base.choices(
        arg, policy="", reward="", prompts="", conversations="", method="ppo", smoke=False
    )
    if chosen["method"] not in METHODS:
        raise ValueError(f"the choice method={chosen['method']}; choose {' or '.join(METHODS)}")
    improve = dict(
        policy=chosen["policy"],
        reward=chosen["reward"],
        prompts=chosen["prompts"],
        conversations=chosen["conversations"],
        rounds=3,
        questions=100,
        pool=2,
        answers=2,
        max_new_tokens=128,
        temperature=1.0,
        top_p=1.0,
        seed=0,
        annotators="me",
        each=1,
        reference="last",
        judge="",
        gates="",
        limit=0,
    )
    stages = {"reward": reward.get_config(), "policy": METHODS[chosen["method"]].get_config()}
    for stage in stages.values():
        stage.data.heldout_fraction = 0.2  # rankings are few
    stages["reward"].steps = 200
    if chosen["smoke"]:
        improve.update(questions=12, max_new_tokens=24)
        reward.smoke(stages["reward"])
        stages["reward"].optimizer.peak_lr = 1e-3
        if chosen["method"] == "ppo":
            ppo.smoke(stages["policy"])
        else:
            reward.smoke(stages["policy"])
            stages["policy"].optimizer.peak_lr = 1e-4
    config = {"improve": improve, "stages": stages}
    return ml_collections.ConfigDict(config, type_safe=False)
