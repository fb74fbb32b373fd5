"""Tokenizes and packs a corpus into shards that training reads by row, once and for all.

    python -m data.prepare --config=configs/pretrain.py --output=corpus --processes=8 \\
        --config.data.source='web/*.jsonl.gz' --config.data.dedup=near
    python -m train --config=configs/pretrain.py --workdir=runs/pretrain \\
        --config.data.source=corpus

What a recipe says of its data holds: fields, filters, what is held out, `dedup`, `decontaminate`,
the tokenizer (`tokenizer.path`, or one made of a sample and kept beside the shards), the length of
rows. What is finished is not done again: the same command goes on after a kill, and ends with the
same bytes. With --beam the same functions (data/prepare/shards.py) run as an Apache Beam pipeline
(`pip
install 'seedpod[beam]'`), on paths that all its workers see.
"""

import os

from absl import app, flags

from data.prepare.prepare import main

if __name__ == "__main__":
    from train.cli import define_config, parse_flags

    define_config("A recipe of text or chats.")
    flags.DEFINE_string("output", None, "A new folder, or one to go on with.")
    flags.DEFINE_integer("processes", os.cpu_count() or 1, "How many at a time.", lower_bound=1)
    flags.DEFINE_bool("beam", False, "Run as an Apache Beam pipeline.")
    flags.DEFINE_string("beam_options", "", "Its options, as '--runner=DataflowRunner …'.")
    flags.mark_flags_as_required(["config", "output"])
    app.run(main, flags_parser=parse_flags)
