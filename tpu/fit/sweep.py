"""A sweep over settings of a recipe on a slice, one knob after another: `tpu.fit --sweep`.

Each knob starts from the best settings so far: those that fit with the most tokens a second. Every
setting is one compilation.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from model.config import REMAT_POLICIES

Fits = Callable[[ConfigDict], bool]  # whether a recipe fits


def remat(config: ConfigDict, fits: Fits) -> Iterator[ConfigDict]:
    """Every policy of rematerialization."""
    for policy in REMAT_POLICIES:
        yield _with(config, {"model.remat": policy})


def mesh(config: ConfigDict, fits: Fits) -> Iterator[ConfigDict]:
    """Every power of two of `tensor`, from 1 to 8, with the rest for `fsdp`."""
    sizes = config.mesh
    chips = sizes.fsdp * sizes.tensor
    for tensor in (1, 2, 4, 8):
        if chips % tensor == 0:
            yield _with(config, {"mesh.tensor": tensor, "mesh.fsdp": chips // tensor})


def batch(config: ConfigDict, fits: Fits) -> Iterator[ConfigDict]:
    """The largest power of two of the rows that fits, and one and a half times as many."""
    rows = first = config.data.batch_size
    while rows > 1 and not fits(_with(config, {"data.batch_size": rows})):
        rows //= 2
    while rows < 64 * first and fits(_with(config, {"data.batch_size": 2 * rows})):
        rows *= 2
    yield _with(config, {"data.batch_size": rows})
    yield _with(config, {"data.batch_size": rows + rows // 2})


KNOBS = {"remat": remat, "mesh": mesh, "batch": batch}


def sweep(
    config: ConfigDict,
    knobs: Sequence[str],
    compile_one: Callable[[ConfigDict], dict[str, Any]],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Compiles the settings of some knobs.

    Args:
      config: a recipe. knobs: names of `KNOBS`, in their order.
      compile_one: recipe -> `report.run_report`. say: called with each line of the table.

    Returns:
      The best report, with its `settings`; that of the recipe if nothing fits.

    Raises:
      ValueError: an unknown knob.
    """
    unknown = [k for k in knobs if k not in KNOBS]
    if unknown:
        raise ValueError(f"--sweep={unknown[0]}: choose from {', '.join(KNOBS)}")
    reports: dict[tuple, dict[str, Any]] = {}

    def report_of(recipe: ConfigDict) -> dict[str, Any]:
        key = tuple(_settings(recipe).items())
        if key not in reports:
            try:
                report = compile_one(recipe)
            except ValueError as e:  # such as heads or rows that the mesh does not divide
                report = {"fits": False, "error": str(e), "peak_bytes_per_chip": None}
            reports[key] = report | {"settings": _settings(recipe)}
            say(row(reports[key]))
        return reports[key]

    say(HEAD)
    best, recipe = report_of(config), config
    for knob in knobs:
        for other in KNOBS[knob](recipe, lambda r: report_of(r)["fits"]):
            report = report_of(other)
            if report["fits"] and (not best["fits"] or _speed(report) > _speed(best)):
                best, recipe = report, other
    return best


HEAD = "   remat  fsdp tensor   rows  peak GiB   s/step  tok/s/chip"


def row(report: Mapping[str, Any]) -> str:
    """A line of the table."""
    s, peak = report["settings"], report["peak_bytes_per_chip"]
    line = f"{s['remat']:>8} {s['fsdp']:5} {s['tensor']:6} {s['rows']:6} "
    line += f"{peak / 2**30:9.1f}" if peak else f"{'':9}"
    if not report["fits"]:
        return line + "   " + ("does not fit" if peak else report["error"][:70])
    return line + f" {report['predicted_step_seconds']:8.3f} {_speed(report):11,.0f}"


def _speed(report) -> float:
    return report["tokens_per_second_per_chip"]


# {column: setting} that the knobs change
_SETTINGS = {
    "remat": "model.remat", "fsdp": "mesh.fsdp", "tensor": "mesh.tensor", "rows": "data.batch_size",
}  # fmt: skip


def with_settings(recipe: ConfigDict, settings: Mapping[str, Any]) -> ConfigDict:
    """A recipe with the `settings` of a report of `sweep`."""
    return _with(recipe, {key: settings[name] for name, key in _SETTINGS.items()})


def _settings(config) -> dict:
    return {name: operator.attrgetter(key)(config) for name, key in _SETTINGS.items()}


def _with(config, changes):
    changed = copy.deepcopy(config)
    changed.update_from_flattened_dict(changes)
    return changed
