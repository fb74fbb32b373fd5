"""Metrics of several runs as a frame and a figure."""

from __future__ import annotations

import base64
import fnmatch
import html
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from etils import epath

from ranges import ConfigError
from suggestions import did_you_mean, nearest
from train.inspect import show
from train.inspect.records.files import RunFiles, read_runs
from train.objectives import registry

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("train", "eval")
# The units of metrics that no objective's report draws; the first pattern decides.
UNITS = {
    "*_per_second": "tokens/s",
    "*seconds": "s",
    "*learning_rate": "learning rate",
    "*bits_per_byte": "bits/byte",
    "*accuracy*": "share",
    "*rate": "share",
    "*share": "share",
    "*mfu": "share",
    "*entropy": "nats/token",
    "*kl_per_token": "nats/token",
    "*logprob_gap*": "nats",
    "*length": "tokens",
}


class Curves(NamedTuple):
    """A metric of several runs.

    Attributes:
      frame: a row a value: `run`, `kind` (train or eval), `step`, `seconds` since the start of the
        run, `value`, `smoothed`. figure: of matplotlib.
    """

    frame: pd.DataFrame
    figure: Any

    def _repr_html_(self) -> str:
        image = io.BytesIO()
        self.figure.savefig(image, format="png", dpi=110)
        data, title = base64.b64encode(image.getvalue()).decode(), self.figure.get_suptitle()
        return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}"/>'

    def __repr__(self) -> str:
        ends = self.frame.groupby(["run", "kind"], sort=False)
        last = ends[["step", "value"]].last()
        last["best"] = ends["value"].min().astype(str) + " … " + ends["value"].max().astype(str)
        return f"{self.figure.get_suptitle()}\n{last.rename(columns={'best': 'range'}).to_string()}"


def curves(
    pattern: epath.PathLike | Sequence[epath.PathLike], metric: str, smooth: float = 0.0
) -> Curves:
    """A metric by step, of all runs that have it: training records as lines, evaluations as dots.

    Args:
      pattern: of workdirs, as in `runs`. metric: as in metrics.jsonl; `train/loss` or `eval/loss`
        draws one kind alone.
      smooth: the factor of an exponential moving average over training records, from 0 (none) to
        below 1, without its bias at the start (as of Adam's moments).

    Raises:
      ConfigError: no run has the metric, or the factor is out of range.
    """
    pandas = show.imported("pandas")
    if not 0 <= smooth < 1:
        raise ConfigError(f"smooth={smooth}; it is a factor from 0 to below 1, as 0.9")
    kind, _, name = metric.partition("/")
    kinds, name = ((kind,), name) if kind in KINDS and name else (KINDS, metric)
    every = read_runs(pattern)
    rows = [row for run in every for row in _rows(run, kinds, name, smooth)]
    if not rows:
        known = sorted({m for run in every for kind in KINDS for m in run.metrics(kind)})
        hint = did_you_mean(nearest(name, known))
        raise ConfigError(f"no run of {pattern} has the metric {metric}{hint}")
    frame = pandas.DataFrame(rows)
    missing = [run.name for run in every if run.name not in set(frame["run"])]
    title, unit = _texts([run for run in every if run.name not in missing], name)
    return Curves(frame, _figure(frame, title, unit, smooth, len(missing)))


def _rows(run: RunFiles, kinds: Sequence[str], metric: str, smooth: float) -> Iterator[dict]:
    for kind in kinds:
        points = run.values(kind, metric)
        values = [value for _, _, value in points]
        smoothed = moving_average(values, smooth if kind == "train" else 0.0)
        for (step, seconds, value), mean in zip(points, smoothed, strict=True):
            yield {
                "run": run.name, "kind": kind, "step": step, "seconds": seconds, "value": value,
                "smoothed": float(mean),
            }  # fmt: skip


def moving_average(values: Sequence[float], factor: float) -> np.ndarray:
    """The exponential moving average m_t = factor·m_(t-1) + (1 - factor)·x_t, divided by
    1 - factor^t (Kingma and Ba 2015, arXiv:1412.6980, section 3)."""
    mean, means = 0.0, []
    for t, value in enumerate(values, 1):
        mean = factor * mean + (1 - factor) * value
        means.append(mean / (1 - factor**t))
    return np.array(means)


def _texts(runs: Sequence[RunFiles], metric: str) -> tuple[str, str]:
    """(title, unit) of a metric: those of the reports of the runs' objectives, where they draw it;
    several units if objectives differ."""
    rows = (registry.STAGES.get(run.settings["stage"]) for run in runs)
    drawn = [
        curve
        for row in rows
        for curve in (row.report.curves if row else ())
        if not curve.across and metric in (curve.train, curve.heldout)
    ]
    titles = {curve.title: None for curve in drawn}
    title = f"{metric}: {next(iter(titles))}" if len(titles) == 1 else metric
    units = list(dict.fromkeys(curve.unit for curve in drawn))
    units += [unit for pattern, unit in UNITS.items() if fnmatch.fnmatch(metric, pattern)][:1]
    name = metric.rpartition("/")[2].replace("_", " ")
    if drawn:
        return metric if metric in titles else title, ", ".join(units)
    return metric, units[0] if units else name


def _figure(frame: pd.DataFrame, title: str, unit: str, smooth: float, missing: int) -> Any:
    names = list(dict.fromkeys(frame["run"]))
    figure, axes = show.figure(title, width=7.0, height=max(3.6, 0.22 * len(names) + 1.0))
    place, colours = axes[0, 0], _colours(len(names))
    for name, colour in zip(names, colours, strict=True):
        label = show.printed(name)
        for kind, part in frame[frame["run"] == name].groupby("kind", sort=False):
            if kind == "eval":
                place.plot(part["step"], part["value"], "o", color=colour, markersize=5,
                           markeredgecolor="white", label=f"{label} (held out)")  # fmt: skip
                continue
            if smooth:
                place.plot(part["step"], part["value"], color=colour, alpha=0.25, linewidth=0.8)
            place.plot(part["step"], part["smoothed"], color=colour, linewidth=1.6,
                       label=f"{label} (training)")  # fmt: skip
    place.set_xlabel("optimizer step")
    place.set_ylabel(unit)
    place.grid(alpha=0.3)
    notes = [f"smoothed by {smooth:g}"] if smooth else []
    notes += [f"{missing} runs without it"] if missing else []
    heading = {"title": ", ".join(notes), "title_fontsize": 8} if notes else {}
    # Beside the curves, where many names would hide them.
    beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)} if len(names) > 3 else {}
    place.legend(fontsize=8, **heading, **beside)
    return figure


def _colours(count: int) -> list:
    """Colours that differ: of a list made for few, of a scale for many."""
    colormaps = show.imported("matplotlib").colormaps
    if count <= 10:
        return [colormaps["tab10"](i) for i in range(count)]
    return [colormaps["viridis"](x) for x in np.linspace(0, 0.92, count)]
