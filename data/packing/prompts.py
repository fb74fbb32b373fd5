"""Prompts that await an answer, one a row, padded on the left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from data.batch import stack
from data.errors import DataError
from data.packing.base import NothingLeft, Packed, map_examples
from data.read.bad_records import BadRecords
from data.text.base import Tokenizer
from data.text.chat import render_prompt


def prompt_rows(
    examples: Iterable[dict], tokenizer: Tokenizer, length: int, on_long: str, skipped: Counter,
    bad: BadRecords | None = None,
) -> Packed:  # fmt: skip
    """Prompts -> `tokens` [R, P] padded on the left, `mask` [R, P] bool, and `example` [R] int32,
    the index of each example.

    Raises:
      DataError: a prompt is longer than P and `on_long` is not "drop": a cut prompt would ask
        nothing. NothingLeft if all are left out.
    """
    rows, kept = [], []
    rendered = map_examples(
        examples, bad, lambda e: render_prompt(tokenizer, e["messages"], e.get("tools"))
    )
    for example, ids in rendered:
        if len(ids) > length:
            if on_long != "drop":
                raise DataError(
                    f"{example['where']}: a prompt of {len(ids)} tokens, and "
                    f"rl.prompt_length is {length}. Raise it, or set --config.data.on_long=drop"
                )
            skipped[f"prompt longer than {length} tokens, drop"] += 1
            continue
        row: dict[str, Any] = {"tokens": np.zeros(length, np.int32), "mask": np.zeros(length, bool)}
        row["example"] = np.int32(len(kept))
        row["tokens"][length - len(ids) :] = ids
        row["mask"][length - len(ids) :] = True
        rows.append(row)
        kept.append(example)
    if not rows:
        raise NothingLeft(f"no prompt fits rl.prompt_length={length}: {dict(skipped)}")
    return Packed(stack(rows), kept, [[i] for i in range(len(kept))])
