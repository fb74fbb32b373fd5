"""Collect rankings: a page of this machine on which people compare answers to prompts.

    python -m data.ranking --workdir=runs/demo/ppo,runs/demo/sft --annotators=ana,ben \\
        --prompts=examples/prompts.jsonl --out=runs/prefs.jsonl
    python -m data.ranking --out=runs/prefs.jsonl --export=jsonl

Answers are kept in a database beside --out: the same command resumes.
"""

import functools
import importlib
import os

from absl import app, flags

from train import cli


def main(_: list[str]) -> None:
    from data.ranking.run import Settings, run
    from train.runtime.metrics import quiet_to_file

    f = flags.FLAGS
    sampling = {n: f[n].value for n in ("max_new_tokens", "temperature", "top_p")}
    # Importing JAX takes seconds.
    models = functools.partial(importlib.import_module, "train.chat.candidates")
    with cli.expected_errors():
        quiet_to_file(os.devnull)
        settings = Settings(
            f.out, f.workdir, f.prompts, f.gold, f.answers, sampling, f.seed, f.annotators, f.each,
            f.next, f.reward, f.port, f.hosts, f.export or "", f.leave_out,
            cli.templates_of(f.fields), f.passages, f.records, cli.transforms_of(f.transforms),
        )  # fmt: skip
        run(settings, models)


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "The preferences, a .jsonl; other files are beside it.")
    flags.DEFINE_string("prompts", "", "Prompts, with or without answers to compare.")
    flags.DEFINE_multi_string("fields", [], "NAME=TEMPLATE, as prompt='{question}'")
    flags.DEFINE_string("records", "", "The place of the prompts in a .json: `tickets`.")
    flags.DEFINE_multi_string("transforms", [], "NAME=VALUE, as keep.status=solved")
    flags.DEFINE_string("passages", "", "A folder of documents to answer from.")
    flags.DEFINE_list("workdir", [], "Runs that answer them: RUN or RUN@STEP, several as A,B.")
    flags.DEFINE_integer("answers", 0, "Sampled answers to a prompt, 2 to 4 of all runs.", 0, 4)
    flags.DEFINE_list("annotators", ["me"], "Names; each gets a link.")
    flags.DEFINE_integer("each", 1, "How many people answer a question.", 1, 100)
    flags.DEFINE_string("gold", "", "Rankings known to be right, one in ten questions.")
    flags.DEFINE_enum("next", "random", ["random", "uncertain"], "The order of questions.")
    flags.DEFINE_string("reward", "", "With --next=uncertain: the run of the reward model.")
    flags.DEFINE_float("temperature", 0.7, "Of sampling; 0 takes the likeliest token.", 0, 100)
    flags.DEFINE_float("top_p", 1.0, "Sample from tokens with this much probability.", 0.01, 1.0)
    flags.DEFINE_integer("max_new_tokens", 128, "Largest number of tokens of an answer.", 1)
    flags.DEFINE_integer("seed", 0, "Of sampling, and of the order of questions.", 0, 2**31)
    flags.DEFINE_integer("port", 8001, "Port of the page.", 1, 65535)
    flags.DEFINE_list("hosts", [], "Other names of this machine, those of tunnels to the page.")
    flags.DEFINE_enum("export", None, ["jsonl", "label_studio", "argilla"], "Write, and end.")
    flags.DEFINE_list("leave_out", [], "Annotators whose answers are not exported.")
    flags.mark_flag_as_required("out")
    app.run(main, flags_parser=cli.parse_flags)
