"""The rollouts on record of a run (train/rl/record.py): as frames, as coloured answers, and those
of two runs compared."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from data.errors import DataError
from data.text import tokenizer as tokenizers
from ranges import ConfigError
from train.inspect import show
from train.inspect.records.token_view import Row, TokenView
from train.inspect.tokens import text_of
from train.rl import record

if TYPE_CHECKING:
    import pandas as pd

# What answers can be coloured by: {name: (column, text)}; other columns of numbers go by their own.
COLOURS = {
    "advantages": ("advantages", "advantage"),
    "log_ratio": ("kl", "log π/π_ref, nats"),
    "reward": ("score", "score of the answer"),
}


class Rollouts:
    """The rollouts on record of a run: `rollouts[60]` is a frame of the one after 60 updates.

    Attributes:
      workdir. steps: of the rollouts on record, in order.
    """

    def __init__(self, workdir: epath.PathLike, steps: Sequence[int]):
        self.workdir, self.steps = epath.Path(workdir), list(steps)

    def __iter__(self) -> Iterator[int]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __contains__(self, step: object) -> bool:
        return step in self.steps

    def __getitem__(self, step: int) -> pd.DataFrame:
        """A frame with a row an answer, and the columns of train/rl/record.py; the columns of
        tokens hold numpy arrays."""
        show.imported("pandas")
        return self.table(step).to_pandas()

    def table(self, step: int) -> pa.Table:
        """The Arrow table of a rollout.

        Raises:
          ConfigError: it is not on record. DataError: its file is damaged.
        """
        if step not in self:
            raise ConfigError(
                f"{self.workdir} has no rollout of step {step} on record; it has those of "
                f"{_listed(self.steps)}"
            )
        path = record.path(self.workdir, step)
        try:
            table = pq.read_table(io.BytesIO(path.read_bytes()))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
        if "seedpod" not in _metadata(table):
            raise DataError(f"{path} is no rollout of Seedpod: it has no metadata of one")
        return table

    def summary(self) -> pd.DataFrame:
        """A row a rollout: the number of answers and of their tokens, the means of score, KL (nats
        an answer) and length (tokens), and the largest difference of the log-probabilities that the
        sampler and the trainer compute."""
        rows = {}
        for step in self.steps:
            table = self.table(step)
            kl, tokens = _flat(table, "kl"), len(_flat(table, "tokens"))
            gap = np.abs(_flat(table, "old_logprobs") - _flat(table, "sampler_logprobs"))
            scores = table["score"].to_numpy()
            rows[step] = {
                "answers": len(table),
                "tokens": tokens,
                "score": float(np.mean(scores[np.isfinite(scores)])),
                "kl": float(np.sum(kl)) / len(table),
                "length": tokens / len(table),
                "logprob_gap": float(np.max(gap)),
            }
        return show.imported("pandas").DataFrame.from_dict(rows, orient="index").rename_axis("step")

    def show(self, step: int, rows: Sequence[int] = range(6), by: str = "advantages") -> TokenView:
        """Answers of a rollout, their tokens coloured by a number.

        Args:
          rows: of the rollout. by: `advantages`, `log_ratio` (of the policy to the reference),
            `reward` (the score, one colour an answer), or a column of numbers.

        Raises:
          ConfigError: there is no such row, or column of numbers.
        """
        frame = self[step]
        numbers = [n for n in frame if n.startswith("reward/") or n in (*record.PER_TOKEN, "score")]
        column, text = COLOURS.get(by, (by, by))
        if column not in numbers:
            known = [*COLOURS, *(n for n in numbers if n not in COLOURS)]
            raise ConfigError(f"by={by!r:.80}: answers are coloured by {', '.join(known)}")
        rows = [i for i in rows if i < len(frame)] if isinstance(rows, range) else rows
        if wrong := [i for i in rows if not 0 <= i < len(frame)]:
            raise ConfigError(
                f"{self.workdir}: the rollout of step {step} has rows 0 to {len(frame) - 1}, "
                f"and no row {wrong[0]}"
            )
        tokenizer = tokenizers.load(self.workdir)
        shown = []
        for i in rows:
            answer = frame.iloc[i]
            values = np.broadcast_to(answer[column], len(answer["tokens"])).tolist()
            heading = f"row {i}   score {answer['score']:.3g}   KL {np.sum(answer['kl']):.3g}"
            texts = [text_of(tokenizer, int(i)) for i in answer["tokens"]]
            shown.append(Row(heading, answer["prompt"], texts, values))
        return TokenView(f"{self.workdir}: rollout after step {step}", text, shown)

    def _repr_html_(self) -> str:
        return f"<p>{self._title()}</p>{self.summary().to_html(float_format='{:.4g}'.format)}"

    def __repr__(self) -> str:
        return f"{self._title()}\n{self.summary().to_string(float_format='{:.4g}'.format)}"

    def _title(self) -> str:
        return f"{len(self)} rollouts of {self.workdir} on record"


def _metadata(table: pa.Table) -> dict[str, Any]:
    return {key.decode(): value for key, value in (table.schema.metadata or {}).items()}


def notes(table: pa.Table) -> dict[str, Any]:
    """The notes of a rollout: `step`, `rollout` (its number), `devices` (how many), and `made`, the
    JAX and the devices that computed it."""
    return json.loads(_metadata(table)["seedpod"])


def _flat(table: pa.Table, column: str) -> np.ndarray:
    """All tokens of a column in one array."""
    return table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)


def _listed(steps: Sequence[int]) -> str:
    texts = [str(step) for step in steps]
    return ", ".join([*texts[:8], "…", *texts[-2:]] if len(texts) > 10 else texts)


def rollouts(run: epath.PathLike) -> Rollouts:
    """The rollouts on record of a run, which `rl.record` keeps.

    Args:
      run: its workdir.

    Raises:
      ConfigError: there are none.
    """
    folder = epath.Path(run) / record.FOLDER
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    steps = sorted(int(m[1]) for n in names if (m := re.fullmatch(r"(\d+)\.parquet", n)))
    if not steps:
        exists = "has no rollouts on record" if epath.Path(run).exists() else "does not exist"
        raise ConfigError(
            f"{run} {exists}; train PPO or GRPO with --config.rl.record=K to keep every K-th"
        )
    return Rollouts(run, steps)


class Token(NamedTuple):
    """The first token that differs between two runs.

    Attributes:
      step, row: of the rollout. part: `prompt_tokens` or `tokens`, of the answer. position: in it.
      ids: in each run; None where an answer has ended. texts: through that token.
      logprobs: that the samplers gave it, in nats; NaN in a prompt, and where an answer has ended.
    """

    step: int
    row: int
    part: str
    position: int
    ids: tuple[int | None, int | None]
    texts: tuple[str, str]
    logprobs: tuple[float, float]


class Comparison(NamedTuple):
    """Two runs' rollouts on record, compared token by token.

    Attributes:
      runs. steps: of the rollouts that both have. first: the first token that differs, or None.
      rows: the number of rows of that rollout that differ. gap: the largest difference of the
        sampler's log-probabilities of the answers that are equal, up to that rollout.
    """

    runs: tuple[str, str]
    steps: list[int]
    first: Token | None
    rows: int
    gap: float

    @property
    def equal(self) -> bool:
        """Whether no token differs."""
        return self.first is None

    def __repr__(self) -> str:
        a, b = self.runs
        gap = f"log-probabilities of equal answers differ by at most {self.gap:.3g} nats"
        if self.first is None:
            return f"{a} and {b}: no token differs in rollouts {_listed(self.steps)}; {gap}"
        t, lines = self.first, []
        part = "answer" if t.part == "tokens" else "prompt"
        lines.append(
            f"{a} and {b} differ first at step {t.step}, row {t.row}, token {t.position} of the "
            f"{part}; {self.rows} rows of that rollout differ; {gap}"
        )
        for run, i, text, logprob in zip(self.runs, t.ids, t.texts, t.logprobs, strict=True):
            token = "ended before" if i is None else f"token {i}"
            token += f", log-probability {logprob:.5g}" if np.isfinite(logprob) else ""
            lines.append(f"  {run} ({token}): {text!r}")
        return "\n".join(lines)


def first_difference(run_a: epath.PathLike, run_b: epath.PathLike) -> Comparison:
    """Compares two runs' rollouts on record at the first token that differs: of the first such
    step, in the first such row, in prompt and answer.

    Raises:
      ConfigError: no rollout of the same step is on record in both.
    """
    a, b = rollouts(run_a), rollouts(run_b)
    runs = str(run_a), str(run_b)
    steps = sorted({*a} & {*b})
    if not steps:
        raise ConfigError(
            f"{run_a} and {run_b} have no rollout of the same step on record: steps "
            f"{_listed(a.steps)}, and {_listed(b.steps)}"
        )
    gap = 0.0
    for step in steps:
        frames = a[step], b[step]
        if len(frames[0]) != len(frames[1]):
            raise ConfigError(
                f"{run_a} and {run_b} differ in rl.rollout_batch: the rollouts of step {step} have "
                f"{len(frames[0])} and {len(frames[1])} answers"
            )
        differing = []
        for row in range(len(frames[0])):
            answers = frames[0].iloc[row], frames[1].iloc[row]
            place = _first_unequal(*answers)
            if place:
                differing.append((row, *place))
            else:
                logprobs = [answer["sampler_logprobs"] for answer in answers]
                gap = max(gap, float(np.max(np.abs(logprobs[0] - logprobs[1]))))
        if differing:
            row, part, position = differing[0]
            answers = frames[0].iloc[row], frames[1].iloc[row]
            token = _token((a.workdir, b.workdir), answers, step, row, part, position)
            return Comparison(runs, steps, token, len(differing), gap)
    return Comparison(runs, steps, None, 0, gap)


def _first_unequal(a: pd.Series, b: pd.Series) -> tuple[str, int] | None:
    """(column, position) of the first token that differs."""
    for part in ("prompt_tokens", "tokens"):
        x, y = a[part], b[part]
        n = min(len(x), len(y))
        unequal = np.flatnonzero(x[:n] != y[:n])
        if len(unequal):
            return part, int(unequal[0])
        if len(x) != len(y):
            return part, n
    return None


def _token(workdirs, answers, step, row, part, position) -> Token:
    def of(workdir, answer):
        ids = answer[part]
        ended = position >= len(ids)
        text = tokenizers.load(workdir).decode(ids[: position + 1])
        known = part == "tokens" and not ended
        logprob = float(answer["sampler_logprobs"][position]) if known else np.nan
        return None if ended else int(ids[position]), text, logprob

    ids, texts, logprobs = zip(*map(of, workdirs, answers), strict=True)
    return Token(step, row, part, position, ids, texts, logprobs)
