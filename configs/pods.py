"""Large models on whole TPU slices: meshes, rows and remat that were compiled for them.

    python -m tpu.launch supervise --name=llama --accelerator=v5p-128 --zone=us-east5-a \\
        --bucket=gs://my-bucket -- --workdir=gs://my-bucket/runs/8b \\
        --config=configs/pods.py:recipe=llama3.1-8b,slice=v5p-128 --config.data.source=corpus

Choices: `recipe`, a key of `RECIPES` (`sft`, `reward` and `ppo` are of Llama 3.1 8B, and take
`--config.init_from.…` as configs/sft.py, reward.py and ppo.py do); `slice`, a key of `SLICES`;
`slices` of these, joined by `mesh.data`. Learning rates of the two Llama models are those of
arXiv:2407.21783, table 3; the others are places to start from.

Hardware: the slice that `slice` names; docs/recipes.md has the memory of a chip that each takes.
Time: predicted by the compiler, in docs/recipes.md: Llama 3.1 8B on v5p-128 takes 2.71 s a step.
Expect: no loss has been measured, as no recipe has run on a TPU yet.
"""

import ml_collections

from configs import base, ppo, pretrain, reward, sft

SLICES = ("v5e-256", "v5p-128", "v6e-256")

# recipe -> slice -> rows a step, and the settings that differ there. fsdp takes the devices that
# the named mesh axes leave.
RECIPES = {
    "llama3.1-8b": {
        "v5e-256": dict(rows=256, remat="qkv", chunk=1024),
        "v5p-128": dict(rows=128, remat="minimal"),
        "v6e-256": dict(rows=512, remat="offload"),
    },
    "llama3-70b": {
        "v5e-256": dict(rows=256, length=4096, remat="full", chunk=512),
        "v5p-128": dict(rows=128, remat="full"),
        "v6e-256": dict(rows=256, remat="full", chunk=1024),
    },
    "gemma3-12b": {
        "v5e-256": dict(rows=256, length=4096, remat="full", chunk=512),
        "v5p-128": dict(rows=128, remat="qkv"),
        "v6e-256": dict(rows=256, remat="qkv"),
    },
    "mixtral-8x7b": {
        "v5e-256": dict(rows=256, length=4096, expert=8, remat="full", chunk=512),
        "v5p-128": dict(rows=128, expert=8, remat="full"),
        "v6e-256": dict(rows=256, remat="qkv"),
    },
    "sft": {
        "v5e-256": dict(rows=128, tensor=2, remat="minimal", chunk=512),
        "v5p-128": dict(rows=128, remat="minimal"),
        "v6e-256": dict(rows=128, tensor=2, remat="minimal"),
    },
    "reward": {
        "v5e-256": dict(rows=128, tensor=2, remat="minimal"),
        "v5p-128": dict(rows=128, remat="minimal"),
        "v6e-256": dict(rows=128, tensor=2, remat="minimal"),
    },
    "ppo": {
        "v5e-256": dict(rows=256, remat="minimal", chunk=512, decode_tensor=8),
        "v5p-128": dict(rows=128, remat="minimal", decode_tensor=4),
        "v6e-256": dict(rows=256, remat="minimal", decode_tensor=8),
    },
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    chosen = base.choices(arg, recipe="", slice="", slices=1)
    name, slices = chosen["recipe"], chosen["slices"]
    if name not in RECIPES or chosen["slice"] not in SLICES or slices < 1:
        raise ValueError(
            f"recipe={name!r}, slice={chosen['slice']!r}, slices={slices}: type "
            f"--config=configs/pods.py:recipe=R,slice=S[,slices=N] with R of {', '.join(RECIPES)} "
            f"and S of {', '.join(SLICES)}"
        )
    settings = RECIPES[name][chosen["slice"]]
    config = {"sft": sft, "reward": reward, "ppo": ppo}.get(name, pretrain).get_config()
    config.model.size = name if config.stage == "pretrain" else "llama3.1-8b"
    config.model.dtype = "bfloat16"
    config.model.remat = settings["remat"]
    config.loss.chunk = settings.get("chunk", 0)
    config.mesh.data, config.mesh.fsdp = slices, -1
    config.mesh.expert = settings.get("expert", 1)
    config.mesh.tensor = settings.get("tensor", 1)
    config.data.batch_size = settings["rows"] * slices
    if config.stage == "pretrain":
        config.data.length = settings.get("length", 8192)
        config.steps = 100_000
        config.optimizer.peak_lr = 1.5e-4 if name == "llama3-70b" else 3e-4
        config.optimizer.warmup_steps = 2000
    elif config.stage == "sft":
        config.data.length = 4096
        config.optimizer.peak_lr = 1e-5
    elif config.stage == "reward":
        config.data.length = 2048
        config.data.sub_rows = 2  # a pair
        config.optimizer.peak_lr = 9e-6
    else:
        config.rl.prompt_length = config.rl.response_length = 1024
        config.rl.rollout_batch = config.rl.eval_prompts = 512 * slices
        config.rl.decode_tensor = settings["decode_tensor"]
        config.optimizer.peak_lr = 1e-6
        config.value_optimizer.peak_lr = 5e-6
    return config
