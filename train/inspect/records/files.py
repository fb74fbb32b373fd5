"""The workdirs of a pattern, with their settings and metrics; what is no run is named."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath
from flax.traverse_util import flatten_dict

from data.errors import DataError
from data.read import json_files
from data.schemas.templates import is_number
from ranges import ConfigError
from train.config.run import run_class
from train.config.saved import NOT_SETTINGS
from train.runtime.records import read_records
from train.runtime.resume import config_json
from train.terminal.console import print_error


class RunFiles(NamedTuple):
    """The files of a workdir that describe its run.

    Attributes:
      name: the path of the workdir. settings: of config.json. records: {kind: those of
        metrics.jsonl, in order of steps}.
    """

    name: str
    workdir: epath.Path
    settings: dict[str, Any]
    records: dict[str, list[dict]]

    @property
    def flat(self) -> dict[str, Any]:
        """{dotted name: value} of the settings; a list as a tuple. One that an older version did
        not have had the effect of its default."""
        flat = _defaults() | flatten_dict(self.settings, sep=".")
        return {k: tuple(v) if isinstance(v, list) else v for k, v in flat.items()}

    def values(self, kind: str, metric: str) -> list[tuple[int, float, float]]:
        """(step, seconds, value) of the records with a metric, if it was finite."""
        return [
            (record["step"], record.get("elapsed_seconds", float("nan")), float(record[metric]))
            for record in self.records.get(kind, ())
            if is_number(record.get(metric))
        ]

    def metrics(self, kind: str) -> list[str]:
        """The names of the metrics in the records of a kind."""
        others = {"step", "kind", "elapsed_seconds", "not_finite", "failed"}
        records = self.records.get(kind, ())
        return list(dict.fromkeys(name for r in records for name in r if name not in others))


def _defaults() -> dict[str, Any]:
    return flatten_dict(json.loads(config_json(run_class()())), sep=".")


def read_runs(pattern: epath.PathLike | Sequence[epath.PathLike]) -> list[RunFiles]:
    """The runs of a pattern, sorted by name; a chain's folder stands for its runs. Folders that
    hold no run, or a damaged one, are named on standard error and left out.

    Args:
      pattern: as `runs/*`, here or on an object store; a workdir; or several of these.

    Raises:
      ConfigError: no folder holds a run.
    """
    patterns = [pattern] if isinstance(pattern, str) or hasattr(pattern, "__fspath__") else pattern
    runs, reasons = dict[str, RunFiles](), dict[str, str]()
    for folder in (folder for one in patterns for folder in _folders(epath.Path(one))):
        inside = (
            []
            if has_settings(folder)
            else [path for path in _children(folder) if has_settings(path)]
        )
        for workdir in inside or [folder]:
            try:
                runs[str(workdir)] = _read(workdir)
            except (DataError, ConfigError, OSError) as error:
                reasons[str(workdir)] = str(error)
    for reason in reasons.values():
        print_error(f"warning: {reason}; left out")
    if not runs:
        named = ", ".join(map(str, patterns))
        raise ConfigError(f"{named}: no such folder holds a run; a run has a config.json")
    return [runs[name] for name in sorted(runs, key=_natural)]


def has_settings(folder: epath.Path) -> bool:
    """Whether a folder has the settings of a run."""
    return (folder / "config.json").exists()


def _natural(name: str) -> list:
    """The order in which `run-10` follows `run-9`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _folders(pattern: epath.Path) -> Iterator[epath.Path]:
    """The folders that match a pattern."""
    parts = pattern.parts
    first = next((i for i, part in enumerate(parts) if re.search(r"[*?\[]", part)), None)
    if first is None:
        yield pattern.expanduser()
        return
    root = epath.Path(*parts[:first]) if first else epath.Path(".")
    matches = root.expanduser().glob("/".join(parts[first:]))
    yield from sorted(path for path in matches if path.is_dir())


def _children(folder: epath.Path) -> list[epath.Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _read(workdir: epath.Path) -> RunFiles:
    """The files of a workdir that describe its run.

    Raises:
      ConfigError: it is none. DataError: a file is damaged.
    """
    if not has_settings(workdir):
        exists = "is no run: it has no config.json" if workdir.exists() else "does not exist"
        raise ConfigError(f"{workdir} {exists}")
    settings: Mapping = json_files.read(workdir / "config.json")
    if not isinstance(settings.get("stage"), str):
        raise DataError(f"{workdir}/config.json has no stage: it is not of a run of Seedpod")
    records = dict[str, list[dict]]()
    for record in read_records(workdir / "metrics.jsonl"):
        records.setdefault(record.get("kind", ""), []).append(record)
    ours = {name: x for name, x in settings.items() if name not in NOT_SETTINGS}
    return RunFiles(str(workdir), workdir, ours, records)
