"""Tokenize and pack a corpus once, into shards that training reads by row.

    python -m data.prepare --config=configs/pretrain.py:smoke --output=corpus --processes=2 \\
        --config.data.source='examples/help/*.md' --config.data.dedup=near
    python -m train --config=configs/pretrain.py:smoke --workdir=runs/prepared \\
        --config.data.source=corpus --config.data.dedup=near

The recipe's settings of the data apply: fields, filters, what is held out, `dedup`,
`decontaminate`, the tokenizer (`tokenizer.path`, or one trained on a sample and saved beside the
shards), the length of rows. Finished parts are not repeated: after a kill the same command resumes,
and gives the same bytes. With --beam the same steps run as an Apache Beam pipeline
(`pip install 'seedpod[beam]'`), on paths that all its workers can read.
"""

import os
import shlex

from absl import app, flags

from train.cli import EXPECTED, define_config, fail, interrupted, parse_flags


def main(argv: list[str]) -> None:
    del argv
    # After the flags were read: importing JAX takes seconds.
    from data.prepare.run import console, describe, prepare_corpus
    from train.config.run import build
    from train.objectives import registry

    args = flags.FLAGS
    try:
        config = build(args.config)
        manifest = prepare_corpus(
            config.data, registry.find(config).schema, args.output, processes=args.processes,
            kind=config.tokenizer.kind, vocab_size=config.tokenizer.vocab_size,
            fim=config.tokenizer.fim, tokenizer=config.tokenizer.path,
            beam=shlex.split(args.beam_options) if args.beam else None,
        )  # fmt: skip
    except EXPECTED as e:
        fail(str(e))
    except KeyboardInterrupt:
        interrupted(f"finished parts are kept in {args.output}; the same command resumes")
    console.print(describe(manifest, args.output))
    console.print(f"train on it with --config.data.source={args.output}")


if __name__ == "__main__":
    define_config("A recipe of text or chats.")
    flags.DEFINE_string("output", None, "A new folder, or one to resume.")
    flags.DEFINE_integer("processes", os.cpu_count() or 1, "How many at a time.", lower_bound=1)
    flags.DEFINE_bool("beam", False, "Run as an Apache Beam pipeline.")
    flags.DEFINE_string("beam_options", "", "Its options, as '--runner=DataflowRunner …'.")
    flags.mark_flags_as_required(["config", "output"])
    app.run(main, flags_parser=parse_flags)
