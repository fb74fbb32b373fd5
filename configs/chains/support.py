"""The four stages on your own files, such as customer support: a small assistant, end to end.

    python -m train.chain --config=configs/chains/support.py --workdir=runs/support

reads `examples/`, files of a few kilobytes about a seed shop. On your own:

    python -m train.chain --workdir=runs/support --config=configs/chains/support.py:\\
text=examples/articles.txt,chats=examples/chats.jsonl,preferences=examples/preferences.jsonl

Choices: `text`, .txt, a document a line; `chats`, JSONL; `preferences`, JSONL with `chosen` and
`rejected`; without preferences the chain ends after SFT. A path may be a glob, or a data set by
name (docs/data.md). Records with other fields are mapped by templates, such as

    --config.stages.sft.data.fields.prompt='{question}'
    --config.stages.sft.data.fields.response='{answer}'

The sizes are those of the demo, with a small vocabulary. For more than a few megabytes of text
raise `--config.stages.pretrain.tokenizer.vocab_size`, `--config.stages.pretrain.model.size` and the
steps.

Hardware: two laptop cores.
Time: not measured; the demo, of the same size, takes 5 to 10 minutes.
Expect: it depends on your files; the report compares each stage with the one before. `examples/` is
learned by heart, and says nothing about other questions.
"""

import ml_collections

from configs import base
from configs.chains import demo

EXAMPLES = dict(
    text="examples/articles.txt",
    chats="examples/chats.jsonl",
    preferences="examples/preferences.jsonl",
)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    chosen = base.choices(arg, **dict.fromkeys(EXAMPLES, ""))
    chosen = chosen if any(chosen.values()) else EXAMPLES
    missing = [name for name in ("text", "chats") if not chosen[name]]
    if missing:  # examples would be mixed into the user's own
        raise ValueError(
            f"say where all your files are: no {' and no '.join(missing)}. Type "
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
    pretrain.tokenizer.vocab_size = 1024

    sft.data.source = chosen["chats"]
    sft.data.length = 256
    sft.data.batch_size = 8
    sft.data.on_long = "cut"

    reward.data.source = chosen["preferences"]
    reward.data.keep = {}
    reward.data.length = reward.data.heldout_length = 128
    reward.data.on_long = "cut"

    ppo.init_from.judge = ""
    ppo.data.source = chosen["preferences"]
    ppo.rl.prompt_length = 64
    ppo.rl.eval_prompts = 64
    if not chosen["preferences"]:
        del stages["reward"], stages["ppo"]
    return ml_collections.ConfigDict({"order": tuple(stages), "stages": stages}, type_safe=False)
