"""Show a batch as training reads it: what is learned in colour, segments, padding.

    python -m data.inspect --config=configs/sft.py --step=3 --workdir=runs/sft

Nothing is trained except, where neither the workdir nor a run that the recipe starts from has one,
a tokenizer, as the run itself would train it. In a notebook:

    from data import inspect
    inspect.view(config, step=3)  # a changed recipe

Green is what the loss counts, the rest is context; markers are yellow.
"""

from typing import Any

from absl import app, flags
from rich.console import Console
from rich.panel import Panel

from train.cli import EXPECTED, define_config, fail, parse_flags


def view(config: Any, step: int, rows: int = 3, workdir: str = "") -> Panel:
    """Batch `step` of a recipe, with the first `rows` rows in full; the errors are those of
    training."""
    # After the flags were read: importing JAX takes seconds.
    from data import preview, splits
    from train.assembly.inputs import make_tokenizer
    from train.config.run import RunConfig, build
    from train.objectives import registry

    config = config if isinstance(config, RunConfig) else build(config)
    row, size, unit = registry.find(config), config.data.batch_size, "step"
    if row.rollouts:  # a step is a minibatch of a rollout; the rollout's prompts are read
        size, unit = config.rl.rollout_batch // row.group_size(config), "rollout"
    schema = row.schema
    examples = splits.read_examples(config.data, schema)
    tokenizer = make_tokenizer(config, workdir or "/nonexistent", lambda: examples.train)
    return preview.preview_batch(
        config.data, schema, tokenizer, examples, step, batch_size=size, seed=config.seed,
        rows=rows, prompt_length=config.rl.prompt_length, title=f"{config.stage}, {unit} {step}",
    )  # fmt: skip


def main(argv: list[str]) -> None:
    del argv
    args = flags.FLAGS
    try:
        Console(highlight=False).print(view(args.config, args.step, args.rows, args.workdir))
    except EXPECTED as e:
        fail(str(e))


if __name__ == "__main__":
    define_config("A recipe, as configs/chains/demo.py.")
    flags.DEFINE_string("workdir", "", "A run whose tokenizer is used.")
    flags.DEFINE_integer("step", 0, "Which batch.", 0, 2**31 - 1)
    flags.DEFINE_integer("rows", 3, "How many rows to show in full.", 0, 2**24)
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)
