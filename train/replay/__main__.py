"""Replays real conversations with checkpoints: how each would have answered, beside the people.

    python -m train.replay --workdir=runs/sft2 --against=runs/sft --out=runs/replay.html \\
        --conversations=examples/chats.jsonl
    python -m train.replay --workdir=runs/dpo@200 --against=runs/sft --out=runs/replay.html \\
        --conversations=yesterday.jsonl --category=topic --reward=runs/reward --gates=gates.yaml

Answers are kept as they are sampled: the same command resumes. Beside the page are its numbers, as
.json, and all answers, as .jsonl. Exit code 1: a gate failed.
"""

from absl import app, flags

from train import cli

FLAGS = ("workdir", "against", "conversations", "records", "out", "category", "turns", "limit",
         "reward", "judge", "passages", "gates", "max_new_tokens", "temperature",
         "seed", "dtype", "training")  # fmt: skip


def main(argv: list[str]) -> None:
    del argv
    f = flags.FLAGS
    with cli.expected_errors():
        from train.replay import command  # after the flags: importing JAX takes seconds

        values = {name: f[name].value for name in FLAGS}
        code = command.main(f.fields, f.transforms, f.plugins, values)
    raise SystemExit(code)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "", "The checkpoint to try: a run, RUN@STEP or an open model.")
    flags.DEFINE_list("against", [], "Other checkpoints, with which it is compared.")
    flags.DEFINE_list("conversations", [], "Files of conversations that people have answered.")
    flags.DEFINE_string("out", "", "The page, FILE.html.")
    flags.DEFINE_multi_string("fields", [], "NAME=TEMPLATE, as prompt='{question}'")
    flags.DEFINE_string("records", "", "The place of the conversations in a .json: `tickets`.")
    flags.DEFINE_multi_string("transforms", [], "NAME=VALUE, as keep.status=solved")
    flags.DEFINE_string("category", "", "Field with the category; by default `category`.")
    flags.DEFINE_enum("turns", "last", ["last", "all"], "Which answers of a conversation.")
    flags.DEFINE_integer("limit", 0, "The most conversations; 0 takes all.", 0)
    flags.DEFINE_string("reward", "", "A run with a reward model, which scores all answers.")
    flags.DEFINE_string("judge", "", "Another one, which decides what is preferred.")
    flags.DEFINE_string("passages", "", "A folder of documents to answer from.")
    flags.DEFINE_string("gates", "", "YAML with conditions; exit code 1 if one fails.")
    flags.DEFINE_integer("max_new_tokens", 256, "The most tokens of an answer.", 1)
    flags.DEFINE_float("temperature", 0.0, "0 takes the likeliest tokens.", 0.0)
    flags.DEFINE_integer("seed", 0, "Seed of sampling.", 0)
    flags.DEFINE_enum("dtype", None, ["float32", "bfloat16"], "By default the model's.")
    flags.DEFINE_bool("training", True, "Read the training data, to find what is copied from it.")
    flags.DEFINE_list("plugins", [], "Modules to import first.")
    app.run(main, flags_parser=cli.parse_flags)
