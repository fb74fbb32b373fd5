"""A batch as people read it: what the loss counts in green, context plain, markers yellow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from data import summary
from data.config import DataConfig
from data.loader import Loader, make_loader
from data.pipeline import open_data
from data.splits import Examples
from data.text.base import Tokenizer
from printable import escaped

LEARNED, CONTEXT, MARKER = "green", "default", "yellow"


def preview_batch(
    config: DataConfig, schema: str, tokenizer: Tokenizer, examples: Examples, step: int, *,
    batch_size: int, seed: int, rows: int, prompt_length: int = 0, title: str = "",
) -> Panel:  # fmt: skip
    """Batch `step` as training reads it.

    Args:
      batch_size, seed: those of the loader. rows: the number of rows to show in full.
      prompt_length: tokens in a row of prompts.

    Raises:
      DataError: the data cannot be used as the settings ask.
    """
    data = open_data(config, schema, tokenizer, examples, prompt_length)
    loader = make_loader(config, data, batch_size, seed, whole=schema == "chat")
    title = f"{title}: one epoch is {loader.steps_per_epoch:.1f}"
    locations = [short_list(data.locations(row)) for row in loader.rows(step)[:rows]]
    pieces = loader.ramp.level(step).pieces
    origins = [text for text in _origins(loader, step, locations) for _ in range(pieces)]
    notes = summary.lines(data.skipped, data.redacted, data.unused, data.changes)
    return render_batch(tokenizer, loader.batch(step), rows, origins, data.kinds, title, notes)


def _origins(loader: Loader, step: int, locations: Sequence[str]) -> list[str]:
    """The source and the locations of each row, as one text."""
    pairs = zip(loader.sources(step), locations, strict=False)
    return [": ".join(filter(None, pair)) for pair in pairs]


def short_list(locations: Sequence[str], most: int = 3) -> str:
    """The first `most` of the locations at which a row's examples were read."""
    more = f" and {len(locations) - most} more" if len(locations) > most else ""
    return escaped(", ".join(locations[:most]) + more)


def render_batch(
    tokenizer: Tokenizer, batch: Mapping[str, np.ndarray], rows: int, origins: Sequence[str] = (),
    kinds: Sequence[str] = (), title: str = "", notes: Sequence[str] = (),
) -> Panel:  # fmt: skip
    """A batch (data/batch.py) to print, or to show in a notebook.

    Args:
      rows: the number of rows to show in full. origins: where these come from, or nothing. kinds:
        the names that `kind` indexes. notes: what was left out and changed, in lines.
    """
    table = Table.grid(padding=(0, 2))
    for name, figure in statistics(tokenizer, batch).items():
        table.add_row(Text(name, "dim"), Text(figure))
    blocks: list[RenderableType] = [table, *(Text(escaped(note), "dim") for note in notes)]
    for b in range(min(rows, len(batch["tokens"]))):
        row = {name: values[b] for name, values in batch.items()}
        if "rank" in batch:
            lines = _ranking_row(tokenizer, row, kinds)
        elif "mask" in batch:
            ids = row["tokens"][row["mask"]]
            lines = [readable(tokenizer, ids, np.zeros(len(ids)))]
        else:
            lines = _packed_row(tokenizer, row)
        origin = f" · {origins[b]}" if origins and origins[b] else ""
        blocks += [Text(f"\nrow {b}{origin}", "bold"), *lines]
    return Panel(Group(*blocks), title=title, title_align="left")


def statistics(tokenizer: Tokenizer, batch: Mapping[str, np.ndarray]) -> dict[str, str]:
    """{name: figure} of a batch."""
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


def readable(tokenizer: Tokenizer, ids: Iterable[int], learned: Iterable) -> Text:
    """Ids [n] as text, in green where `learned` [n] is not 0, with special ids by name."""
    text, run, style = Text(), bytearray(), None

    def flush():
        text.append(escaped(run.decode("utf-8", errors="replace")), style)
        run.clear()

    for token, mask in zip(np.asarray(ids).tolist(), np.asarray(learned).tolist(), strict=True):
        token_style = LEARNED if mask else CONTEXT
        if name := tokenizer.special_name(token):
            flush()
            text.append(escaped(name), f"{MARKER} underline" if mask else MARKER)
            continue
        if token_style != style:
            flush()
            style = token_style
        run += tokenizer.token_bytes[token]
    flush()
    return text


def segments(row: Mapping[str, np.ndarray]) -> Iterator[slice]:
    """Yields the slice of each segment of a row's `segment_ids` [T]."""
    ids = row["segment_ids"]
    starts = np.flatnonzero((np.diff(ids, prepend=0) != 0) & (ids > 0))
    for start in starts:
        same = ids[start:] == ids[start]
        yield slice(start, start + (len(same) if same.all() else int(np.argmin(same))))


def _weights(mask) -> str:
    """The weights of what is learned, if they are not all 1."""
    weights = np.unique(mask[mask > 0])
    if not len(weights) or np.all(weights == 1):
        return ""
    return " with weight" + "s" * (len(weights) > 1) + " " + ", ".join(f"{w:g}" for w in weights)


def _packed_row(tokenizer: Tokenizer, row) -> list[Text]:
    """The segments of a row of text or conversations."""
    lines = []
    for segment in segments(row):
        mask = row["loss_mask"][segment]
        label = f"─ {mask.size} tokens, {int(np.sum(mask > 0))} learned{_weights(mask)}"
        lines.append(Text(label, "dim"))
        lines.append(readable(tokenizer, row["tokens"][segment], mask))
    return lines


def _ranking_row(tokenizer: Tokenizer, row, kinds: Sequence[str]) -> list[Text]:
    """The candidates of a row of rankings, each after its prompt, the best first."""
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
        prompt = index[flat["segment_ids"][index] == flat["segment_ids"][start]]
        if "branch_ids" in flat:
            prompt = prompt[flat["branch_ids"][prompt] == 0]
        places = np.append(prompt, np.arange(start, end + 1))
        kind = kinds[row["kind"][c]]
        label = f"─ ranking {row['group'][c] + 1}, rank {row['rank'][c]}" + (kind and f", {kind}")
        lines.append(Text(f"{label}, {end + 1 - start} tokens", "dim"))
        lines.append(readable(tokenizer, flat["tokens"][places], places >= start))
    return lines
