"""Imports and exports open models: Hugging Face directories, GGUF files, names on the hub.

    python -m train.convert import --from=DIR_OR_HUB_NAME --workdir=runs/base
    python -m train.convert export --workdir=runs/sft --to=exported

An import is a workdir like a finished stage's, so `--config.init_from.policy=runs/base` starts
from it. An export (train/interop/export.py) loads in `transformers` unchanged.
"""

import functools
import os

from absl import app, flags

from train import cli

FLAGS = ("from", "workdir", "to", "item", "dtype", "shard_size", "adapter", "base", "chat_template")


def main(argv: list[str]) -> None:
    from train.interop import convert  # after the flags were read: importing JAX takes seconds
    from train.runtime.metrics import quiet_to_file

    values = {name: flags.FLAGS[name].value for name in FLAGS}
    with cli.expected_errors():
        convert.check_command(argv[1:], values, {n for n in FLAGS if flags.FLAGS[n].present})
        quiet_to_file(os.devnull)
        convert.run(argv[1], values)


if __name__ == "__main__":
    flags.DEFINE_string("from", None, "A Hugging Face directory, a .gguf file, or OWNER/MODEL.")
    flags.DEFINE_string("workdir", None, "import: the workdir to create. export: RUN or RUN@STEP.")
    flags.DEFINE_string("to", None, "export: the directory to create.")
    flags.DEFINE_string("item", "", "export: policy, value or reward; the first by default.")
    flags.DEFINE_enum(
        "dtype", None, ["float32", "bfloat16", "float16"], "Dtype of the written weights; by "
        "default float32 for an import, and for an export that of the open model that the run "
        "descends from."
    )  # fmt: skip
    flags.DEFINE_string("shard_size", "5GB", "export: bytes of weights in one file, as 500MB.")
    flags.DEFINE_bool("adapter", False, "export: only the adapters, for the peft library.")
    flags.DEFINE_string(
        "base", "", "export --adapter: where peft finds the adapted model, OWNER/MODEL on the hub "
        "or a directory; by default the one that was imported."
    )  # fmt: skip
    flags.DEFINE_string(
        "chat_template", "", "import: chatml, or a Jinja file, in place of the model's."
    )
    app.run(main, flags_parser=functools.partial(cli.parse_flags, words=1))
