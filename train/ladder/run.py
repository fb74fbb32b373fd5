"""Trains a ladder, fits its scaling laws and writes its table, its numbers and its page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
from etils import epath

from data.atomic import write_atomically
from ranges import ConfigError
from train.config.run import build
from train.ladder import page, rungs, study, texts
from train.runtime import outputs, strict_json
from train.terminal.console import console
from train.terminal.progress import Progress


def run(
    config: ml_collections.ConfigDict,
    workdir: epath.PathLike,
    sizes: Sequence[str],
    tokens: Sequence[str] = ("20x",),
    predict: Sequence[str] = (),
    **options: Any,
) -> bool:
    """Trains the runs that are not done, writes table.md, ladder.json and ladder.html, and returns
    whether all runs are done.

    Args:
      config: a recipe. sizes, tokens, predict: as the flags of train/ladder/__main__.py.
      options: of `loop.run`.

    Raises:
      ConfigError: before any training, for a size, a budget or a prediction that there is not.
    """
    workdir, runs = epath.Path(workdir), rungs.plan(config, sizes, tokens)
    vocab_size = build(config).tokenizer.vocab_size

    def count(size: str) -> int:
        try:
            model = build(rungs.with_size(config, size)).model
            return rungs.count(model.build(vocab_size))  # type: ignore[attr-defined]
        except ValueError as e:
            raise ConfigError(f"--predict={size}: {e}") from e

    for name in predict:  # bad input is refused before the first run
        study.predict(study.study([]), name, count, tokens[-1])
    with Progress(workdir.name, writes=jax.process_index() == 0):
        failures = rungs.train(runs, workdir, **options)
    if jax.process_index():
        return not failures
    done = [rungs.read(n, size, workdir / n) for n, (size, _) in runs.items() if n not in failures]
    if done:  # the tokenizer may have fewer ids than were asked for
        vocab_size = rungs.vocab_size(workdir / done[0].name)
    result = study.study(done)
    predictions = [study.predict(result, name, count, tokens[-1]) for name in predict]
    remarks = [*result.remarks, *filter(None, (study.far(result, p) for p in predictions))]
    table = texts.markdown(texts.table(result))
    console.print(table)
    for line in texts.all_lines(result, predictions, remarks):
        console.print(line)
    for name, reason in failures.items():
        console.print(f"[red]✗[/] {name}: {reason}", markup=True)
    content = study.record(result, predictions, failures)
    files = {
        "table.md": table + "\n",
        "ladder.json": strict_json.dumps(content, indent=2) + "\n",
        "ladder.html": page.page(workdir.name, result, predictions, remarks, failures),
    }
    for name, text in files.items():
        _, reason = outputs.tried(name, write_atomically, workdir / name, text)
        if reason:
            outputs.failed(name, reason, "the runs are done, and the same command tries it again")
    console.print(f"Plots: {workdir / 'ladder.html'}")
    return not failures
