"""The four stages on your own files, such as customer support: a small assistant, end to end.

    python -m train.chain --workdir=runs/support --config=configs/chains/support.py:\\
text=PATH/articles.txt.gz,chats=PATH/support.jsonl.gz,preferences=PATH/preferences.jsonl.gz

Choices: `text`, .txt, a document a line; `chats`, JSONL; `preferences`, JSONL with `chosen` and
`rejected`. A path may be a glob. Fields are taken by templates over a record's own; change them
with, say,

    --config.stages.sft.data.fields.prompt='{question}'
    --config.stages.sft.data.fields.response='{answer}'

The sizes are those of the demo. Raise `--config.stages.pretrain.model.size` and the steps for more.

Hardware: two laptop cores.
Time: not measured; the demo, of the same size, takes 5 to 10 minutes.
Expect: it depends on your files; the report compares each stage with the one before.
"""

import ml_collections

from configs import base
from configs.chains import demo


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    chosen = base.choices(arg, text="", chats="", preferences="")
    missing = [name for name, path in chosen.items() if not path]
    if missing:
        raise ValueError(
            f"say where your files are: no {', '.join(missing)}. Type "
            "--config=configs/chains/support.py:text=PATH,chats=PATH,preferences=PATH"
        )
    stages = {
        name: demo.stages()[name].copy_and_resolve_references()
        for name in ("pretrain", "sft", "reward", "ppo")
    }
    for stage in stages.values():
        stage.data.heldout_source = ""
        stage.data.heldout_fraction = 0.05
        stage.data.subset = ""
        stage.data.on_bad = "skip"  # counted and said; more than data.max_bad are an error
    pretrain, sft, reward, ppo = stages.values()
    pretrain.data.source = chosen["text"]

    sft.data.source = chosen["chats"]
    sft.data.fields.prompt = "{instruction}"
    sft.data.length = 256
    sft.data.batch_size = 8
    sft.data.on_long = "cut"

    reward.data.source = chosen["preferences"]
    reward.data.keep = {}
    reward.data.fields.prompt = "{instruction}\n{input}"
    reward.data.length = reward.data.heldout_length = 128
    reward.data.on_long = "cut"

    ppo.init_from.judge = ""
    ppo.data.source = chosen["preferences"]
    ppo.data.fields.prompt = "{instruction}\n{input}"
    ppo.rl.prompt_length = 64
    ppo.rl.eval_prompts = 64
    return ml_collections.ConfigDict({"order": tuple(stages), "stages": stages}, type_safe=False)
