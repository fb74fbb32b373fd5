"""A search for the fastest settings of a recipe on a slice: `tpu.fit --sweep`.

It climbs: from the recipe's own settings it changes one at a time, up or down, while a chip then
trains at least 1% more tokens a second, and takes up the next setting. For each mesh and number of
rows it compiles the policies of rematerialization from the one that recomputes least, and stops at
the first that fits; those that exceed a chip's memory by far by the rule of tpu/fit/rules.py are
not compiled.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

# Policies of rematerialization, those that recompute least first.
REMAT = ("none", "minimal", "matmuls", "qkv", "projections", "offload", "full")
# A change is taken from this gain on: what is less may be an error of the estimate.
GAIN = 1.01
# The rule is at most a quarter above the compiler's peak (tests/tpu/fit/test_rules.py).
RULE_ABOVE = 1.25
BLOCKS = (512, 1024, 2048)

# Column of the table -> setting. The mesh axis `fsdp` has the devices that the others leave.
SETTINGS = {
    "remat": "model.remat", "fsdp": "mesh.fsdp", "expert": "mesh.expert", "tensor": "mesh.tensor",
    "rows": "data.batch_size", "block": "model.attention_block",
}  # fmt: skip
HEAD = "      remat  fsdp expert tensor   rows block  peak GiB   s/step  tok/s/chip"


def _axis(axis: str, config: ConfigDict, times: float) -> ConfigDict | None:
    """`times` (2 or ½) as many devices of a mesh axis, taken from or given to `fsdp`."""
    size, fsdp = config.mesh[axis] * times, config.mesh.fsdp / times
    if size < 1 or fsdp < 1 or size % 1 or fsdp % 1:
        return None
    return _with(config, {f"mesh.{axis}": int(size), "mesh.fsdp": int(fsdp)})


def _expert(config: ConfigDict, times: float) -> ConfigDict | None:
    return _axis("expert", config, times)


def _tensor(config: ConfigDict, times: float) -> ConfigDict | None:
    return _axis("tensor", config, times)


def _rows(config: ConfigDict, times: float) -> ConfigDict | None:
    rows, sizes = config.data.batch_size * times, config.mesh
    shards = sizes.data * sizes.fsdp * sizes.expert * config.accumulate
    return None if rows % shards else _with(config, {"data.batch_size": int(rows)})


def _block(config: ConfigDict, times: float) -> ConfigDict | None:
    block = int(config.model.attention_block * times)
    return _with(config, {"model.attention_block": block}) if block in BLOCKS else None


# Setting -> (recipe, 2 or ½) -> the recipe with twice or half as many, None if there is none.
KNOBS: dict[str, Callable[[ConfigDict, float], ConfigDict | None]] = {
    "expert": _expert, "tensor": _tensor, "rows": _rows, "block": _block,
}  # fmt: skip


class Sweep:
    """The settings that were compiled, and the best of them.

    Attributes:
      tried: reports in the order of their compilation, with their `settings`. left_out: number of
        settings that were not compiled, because the rule of memory excludes them.
    """

    def __init__(
        self,
        compile_one: Callable[[ConfigDict], Mapping[str, Any]],
        by_rule: Callable[[ConfigDict], float],
        hbm: float,
        typed: Collection[str] = (),
        say: Callable[[str], None] = print,
    ):
        """
        Args:
          compile_one: recipe -> `report.run_report`. by_rule: recipe -> GiB of a chip by the
            rule. Both raise ValueError for a recipe that would not start.
          hbm: GiB that a chip has. typed: settings that stay as they are, as `model.remat`.
          say: called with each line of the table.
        """
        self.compile_one, self.by_rule, self.hbm = compile_one, by_rule, hbm
        self.typed, self.say = typed, say
        self.tried: dict[tuple, dict[str, Any]] = {}
        self.left_out = 0

    def run(self, recipe: ConfigDict) -> dict[str, Any]:
        """The best report, with its `settings`, of a recipe whose mesh has no -1; that of the last
        policy tried if nothing fits."""
        self.say(HEAD)
        best, recipe = self._least_remat(recipe)
        for name, step in KNOBS.items():
            if SETTINGS[name] in self.typed:
                continue
            for times in (2, 0.5):
                start = recipe
                while other := step(recipe, times):
                    report, other = self._least_remat(other)
                    if not _faster(report, best):
                        break
                    best, recipe = report, other
                if recipe is not start:
                    break
        for other in self._more_remat(recipe):
            report = self._report(other)
            if not _faster(report, best):
                break
            best = report
        return best

    def _least_remat(self, recipe: ConfigDict) -> tuple[dict[str, Any], ConfigDict]:
        """(report, recipe) of the first policy of rematerialization that fits."""
        policies = (recipe.model.remat,) if SETTINGS["remat"] in self.typed else REMAT
        report: dict[str, Any] = {}
        for policy in policies:
            other = _with(recipe, {"model.remat": policy})
            report = self._report(other)
            if report["fits"]:
                break
        return report, other

    def _more_remat(self, recipe: ConfigDict) -> Iterator[ConfigDict]:
        """A recipe with the policies that recompute more, one after another."""
        if SETTINGS["remat"] not in self.typed:
            for policy in REMAT[REMAT.index(recipe.model.remat) + 1 :]:
                yield _with(recipe, {"model.remat": policy})

    def _report(self, recipe: ConfigDict) -> dict[str, Any]:
        """The report of a recipe, compiled unless it was before or the rule excludes it."""
        settings = {name: operator.attrgetter(key)(recipe) for name, key in SETTINGS.items()}
        key = tuple(settings.values())
        if key in self.tried:
            return self.tried[key]
        nothing = {"fits": False, "peak_bytes_per_chip": None, "settings": settings}
        try:
            needed = self.by_rule(recipe)
            if needed > RULE_ABOVE * self.hbm:
                self.left_out += 1
                return nothing | {"error": f"out of memory: about {needed:.0f} GiB a chip by rule"}
            report = dict(self.compile_one(recipe)) | {"settings": settings}
        except ValueError as error:  # such as heads or rows that the mesh does not divide
            report = nothing | {"error": str(error)}
        self.tried[key] = report
        self.say(row(report))
        return report

    def table(self) -> list[dict[str, Any]]:
        """The settings that were compiled, for JSON."""
        shown = ("fits", "peak_bytes_per_chip", "predicted_step_seconds")
        shown += ("serial_step_seconds", "tokens_per_second_per_chip")
        return [
            report["settings"] | {name: report[name] for name in shown if name in report}
            for report in self.tried.values()
        ]

    def summary(self, best: Mapping[str, Any]) -> list[str]:
        """Lines for the terminal: the best settings, and how to type them."""
        count = f"{len(self.tried)} compiled"
        if self.left_out:
            count += f", and {self.left_out} that exceed the memory by rule"
        if not best["fits"]:
            return ["", f"none of {count} fits"]
        flags = (f"--config.{SETTINGS[name]}={value}" for name, value in best["settings"].items())
        return ["", f"the fastest of {count}:", "  " + " ".join(flags)]


def row(report: Mapping[str, Any]) -> str:
    """A line of the table."""
    s, peak = report["settings"], report["peak_bytes_per_chip"]
    line = f"{s['remat']:>11} {s['fsdp']:5} {s['expert']:6} {s['tensor']:6} {s['rows']:6} "
    line += f"{s['block']:5} " + (f"{peak / 2**30:9.1f}" if peak else f"{'':9}")
    if not report["fits"]:
        return line + "   " + ("does not fit" if peak else report["error"][:60])
    return line + f" {report['predicted_step_seconds']:8.3f} {_speed(report):11,.0f}"


def with_settings(recipe: ConfigDict, settings: Mapping[str, Any]) -> ConfigDict:
    """A recipe with the `settings` of a report."""
    return _with(recipe, {key: settings[name] for name, key in SETTINGS.items()})


def _faster(report: Mapping[str, Any], best: Mapping[str, Any]) -> bool:
    if not report["fits"] or not best["fits"]:
        return report["fits"]
    return _speed(report) >= GAIN * _speed(best)


def _speed(report: Mapping[str, Any]) -> float:
    return report["tokens_per_second_per_chip"]


def _with(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    changed = copy.deepcopy(config)
    changed.update_from_flattened_dict(changes)
    return changed
