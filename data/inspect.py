"""Shows a batch as people read it: what is learned in colour, where segments begin, the padding.

    python -m data.inspect --config=configs/sft.py --step=3 --workdir=runs/sft

Nothing is trained but, where neither the workdir nor a run that the recipe starts from has one, a
tokenizer, as the run itself would. In a notebook:

    from data import inspect
    inspect.view(config, step=3)  # a recipe with its changes

Green is what the loss counts; the rest is context; markers are yellow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from absl import app, flags
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

LEARNED, CONTEXT, MARKER = "green", "default", "yellow"


def readable(tokenizer, ids, learned) -> Text:
    """Ids [n] as text, with what is `learned` [n] in colour and special ids by name."""
    text, run, style = Text(), bytearray(), None

    def flush():
        text.append(run.decode("utf-8", errors="replace"), style)
        run.clear()

    for token, mask in zip(np.asarray(ids).tolist(), np.asarray(learned).tolist(), strict=True):
        now = LEARNED if mask else CONTEXT
        if name := tokenizer.special_name(token):
            flush()
            text.append(name, f"{MARKER} underline" if mask else MARKER)
            continue
        if now != style:
            flush()
            style = now
        run += tokenizer.token_bytes[token]
    flush()
    return text


def segments(row):
    """(where it lies in the row, as a slice) of each segment of `segment_ids` [T]."""
    ids = row["segment_ids"]
    starts = np.flatnonzero(np.diff(ids, prepend=0) & (ids > 0))
    for start in starts:
        same = ids[start:] == ids[start]
        yield slice(start, start + (len(same) if same.all() else int(np.argmin(same))))


def _weights(mask) -> str:
    """The weights of what is learned, where they are not all 1."""
    weights = np.unique(mask[mask > 0])
    if not len(weights) or np.all(weights == 1):
        return ""
    return " with weight" + "s" * (len(weights) > 1) + " " + ", ".join(f"{w:g}" for w in weights)


def _packed_row(tokenizer, row) -> list:
    """Of text and conversations."""
    lines = []
    for where in segments(row):
        mask = row["loss_mask"][where]
        label = f"─ {mask.size} tokens, {int(np.sum(mask > 0))} learned{_weights(mask)}"
        lines.append(Text(label, "dim"))
        lines.append(readable(tokenizer, row["tokens"][where], mask))
    return lines


def _ranking_row(tokenizer, row, kinds) -> list:
    """Of rankings: each candidate's answer behind its prompt, the best first."""
    flat = {
        name: row[name].reshape(-1)
        for name in ("tokens", "segment_ids", "branch_ids")
        if name in row
    }
    lines, T = [], row["tokens"].shape[-1]
    for c in np.lexsort((row["rank"], row["group"])):
        if row["rank"][c] < 0:
            continue
        start, end = int(row["start"][c]), int(row["end"][c])
        index = np.arange(start // T * T, start)
        before = index[flat["segment_ids"][index] == flat["segment_ids"][start]]
        if "branch_ids" in flat:
            before = before[flat["branch_ids"][before] == 0]
        where = np.append(before, np.arange(start, end + 1))
        kind = kinds[row["kind"][c]]
        label = f"─ ranking {row['group'][c] + 1}, rank {row['rank'][c]}" + (kind and f", {kind}")
        lines.append(Text(f"{label}, {end + 1 - start} tokens", "dim"))
        lines.append(readable(tokenizer, flat["tokens"][where], where >= start))
    return lines


def statistics(tokenizer, batch) -> dict[str, str]:
    """{what: figure} of a batch."""
    tokens = batch["tokens"]
    real = batch["mask"] if "mask" in batch else batch["segment_ids"] > 0
    counts = Counter(tokens[real].tolist())
    common = [
        tokenizer.special_name(i) or repr(tokenizer.decode([i])) for i, _ in counts.most_common(8)
    ]
    out = {
        "shape": " × ".join(map(str, tokens.shape)),
        "tokens": f"{int(real.sum()):,}, {1 - real.mean():.1%} of the batch is padding",
        "distinct": f"{len(counts):,} of {tokenizer.vocab_size:,} ids",
        "most often": " ".join(common),
    }
    if "loss_mask" in batch:
        learned = batch["loss_mask"] > 0
        out["learned"] = f"{int(learned.sum()):,} tokens, {learned.sum() / real.sum():.1%}"
    if "rank" in batch:
        out["candidates"] = f"{int(np.sum(batch['rank'] >= 0)):,}"
    return out


def render(tokenizer, batch, rows: int, sources=(), kinds=(), title: str = "") -> Panel:
    """A batch (data/batch.py) as something to print, or to show in a notebook.

    Args:
      rows: how many are shown whole. sources: of those where they come from, or nothing.
    """
    table = Table.grid(padding=(0, 2))
    for what, figure in statistics(tokenizer, batch).items():
        table.add_row(Text(what, "dim"), Text(figure))
    shown = [table]
    for b in range(min(rows, len(batch["tokens"]))):
        row = {name: values[b] for name, values in batch.items()}
        if "rank" in batch:
            lines = _ranking_row(tokenizer, row, kinds)
        elif "mask" in batch:
            ids = row["tokens"][row["mask"]]
            lines = [readable(tokenizer, ids, np.zeros(len(ids)))]
        else:
            lines = _packed_row(tokenizer, row)
        source = f" · {sources[b]}" if sources and sources[b] else ""
        shown += [Text(f"\nrow {b}{source}", "bold"), *lines]
    return Panel(Group(*shown), title=title, title_align="left")


def places_of(where: Sequence[str], most: int = 3) -> str:
    """Where the examples of a row were read, the first `most` of them."""
    more = f" and {len(where) - most} more" if len(where) > most else ""
    return ", ".join(where[:most]) + more


def view(config, step: int, rows: int = 3, workdir: str = "") -> Panel:
    """Batch `step` of a recipe, as training would see it, for a notebook or the terminal.

    Raises:
      ConfigError, DataError: as training would.
    """
    # A program on top of the rooms, as those of tpu/ are: nothing in data/ imports it.
    from data import loader as loading
    from data import pipeline
    from train.assemble import make_tokenizer
    from train.config.run import RunConfig, build
    from train.objectives.registry import STAGES

    config = config if isinstance(config, RunConfig) else build(config)
    schema = STAGES[config.stage].schema
    examples = pipeline.read_examples(config.data, schema)
    tokenizer = make_tokenizer(config, workdir or "/nonexistent", lambda: examples.train)
    data = pipeline.open_data(
        config.data, schema, tokenizer, examples, config.rl.prompt_length, trace=True
    )
    size = config.data.batch_size
    if schema == "prompt":  # a step is a minibatch of a rollout; its prompts are what is read
        size = config.rl.rollout_batch // (config.grpo.group_size if config.stage == "grpo" else 1)
    loader = loading.make_loader(config.data, data, size, config.seed)
    what = "rollout" if schema == "prompt" else "step"
    title = f"{config.stage}, {what} {step}: one epoch is {loader.steps_per_epoch:.1f}"
    places = [places_of(data.where(row)) for row in loader.rows(step)[:rows]]
    named = zip(loader.sources(step), places, strict=False)
    sources = [": ".join(filter(None, pair)) for pair in named]
    return render(tokenizer, loader.batch(step), rows, sources, data.kinds, title)


def main(argv):
    del argv
    from train.cli import EXPECTED, fail

    FLAGS = flags.FLAGS
    try:
        Console(highlight=False).print(view(FLAGS.config, FLAGS.step, FLAGS.rows, FLAGS.workdir))
    except EXPECTED as e:
        fail(str(e))


if __name__ == "__main__":
    from train.cli import define_config, parse_flags

    define_config("A recipe, as configs/demo.py.")
    flags.DEFINE_string("workdir", "", "A run whose tokenizer is taken.")
    flags.DEFINE_integer("step", 0, "Which batch.", 0, 2**31 - 1)
    flags.DEFINE_integer("rows", 3, "How many rows to show whole.", 0, 2**24)
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)
