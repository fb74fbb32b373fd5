"""The examples of a question: the few shots."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ranges import ConfigError
from train.tasks.base import Document, Task


def draw(
    task: Task,
    pool: Sequence[Document],
    document: Document,
    index: int,
    shots: int,
    seed: int = 0,
) -> tuple[Document, ...]:
    """The examples of one document, in the order in which the prompt has them.

    They are a function of the arguments alone, whatever else is scored: a task's own examples, else
    documents of the pool, of the document's group if the task has groups, and never one that equals
    the document. A task with `fixed` takes the first of them, as the sampler `first_n` of
    lm-evaluation-harness; the others draw without replacement.

    Args:
      pool: see train/tasks/sources.py. index: the document's number among those that are scored.
      seed: of the draw.

    Raises:
      ConfigError: there are fewer.
    """
    if not shots:
        return ()
    candidates = task.examples or pool
    if task.group and not task.examples:
        candidates = [d for d in candidates if d.get(task.group) == document.get(task.group)]
    if task.fixed or task.examples:
        others = (d for d in candidates if not _equal(d, document))
        drawn = [d for d, _ in zip(others, range(shots), strict=False)]
    else:
        count = min(shots + 1, len(candidates))
        drawn = random.Random(f"{seed} {index}").sample(candidates, count)
        drawn = [d for d in drawn if not _equal(d, document)][:shots]
    if len(drawn) < shots:
        of = f" with {task.group}={document.get(task.group)!r}" if task.group else ""
        raise ConfigError(
            f"shots={shots}; task {task.name} has {len(drawn)} documents{of} to draw examples of. "
            f"Type --shots={len(drawn)}, or give it a larger pool"
        )
    return tuple(drawn)


def _equal(a: Document, b: Document) -> bool:
    return all(a.get(key) == b.get(key) for key in (a.keys() | b.keys()) - {"where"})
