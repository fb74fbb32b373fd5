"""The trackers that `config.trackers` may name: a class each, and its row.

    @tracker("mine", package="mytracker")
    def mine(target):
        from mytracker import Mine  # a train.runtime.trackers.base.Tracker

        return Mine(target)

A plugin may add a row, with settings of its own in `config.tracking`. A row imports its library
when it is opened.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import netrc
import os
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import registry
from ranges import ConfigError
from registry import Registry
from train.runtime.trackers.base import Target, Tracker


class TrackerType(NamedTuple):
    """A row of TRACKERS.

    Attributes:
      open: Target -> Tracker, with a keyword `settings` if it has settings.
      package: the Python package that it needs, or "". install: what `pip install` takes.
      missing: offline? -> what a login lacks and how to give it, or "".
      waits: whether a call may take long, as one that waits for a network; it has a thread of its
        own then, and holds no step.
    """

    open: Callable[..., Tracker]
    package: str = ""
    install: str = ""
    missing: Callable[[bool], str] = lambda offline: ""
    waits: bool = True


TRACKERS: Registry[TrackerType] = Registry("tracker", "trackers")
DEFAULT = ("tensorboard",)


def tracker(name: str, settings: type | None = None, **row: Any) -> Callable[[Callable], Callable]:
    """Decorates the `open` of a TrackerType; `settings` is a frozen dataclass."""

    def decorate(open):
        TRACKERS.register(name, TrackerType(open, **row), settings)
        return open

    return decorate


@tracker("tensorboard", package="tensorboard", waits=False)
def tensorboard(target: Target) -> Tracker:
    """TensorBoard's event files, in the workdir."""
    from train.runtime.trackers.tensorboard import TensorBoard  # slow to import

    return TensorBoard(target)


def _wandb_login(offline: bool) -> str:
    if offline or os.environ.get("WANDB_MODE", "online") != "online":
        return ""
    host = urllib.parse.urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        logins = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        logins = {}
    if host in logins or any(map(os.environ.get, ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"))):
        return ""
    return f"there is no login to {host}: type `wandb login`, or set WANDB_API_KEY"


@tracker("wandb", package="wandb", install="'seedpod[wandb]'", missing=_wandb_login)
def wandb(target: Target) -> Tracker:
    """Weights & Biases: its server, or offline files in the workdir for `wandb sync`."""
    from train.runtime.trackers.wandb import WandB

    return WandB(target)


def _space_login(offline: bool) -> str:
    space = os.environ.get("TRACKIO_SPACE_ID")
    if offline or not space:
        return ""
    from huggingface_hub import get_token

    hint = "type `hf auth login`, set HF_TOKEN, or unset TRACKIO_SPACE_ID"
    return "" if get_token() else f"there is no login for the Space {space}: {hint}"


@tracker("trackio", package="trackio", install="'seedpod[trackio]'", missing=_space_login)
def trackio(target: Target) -> Tracker:
    """Trackio: a database on this machine, in TRACKIO_DIR, or the Space TRACKIO_SPACE_ID."""
    from train.runtime.trackers.trackio import TrackIO

    return TrackIO(target)


@tracker("mlflow", package="mlflow", install="'seedpod[mlflow]'")
def mlflow(target: Target) -> Tracker:
    """MLflow: the server of MLFLOW_TRACKING_URI, or the database mlflow.db in the working
    directory."""
    from train.runtime.trackers.mlflow import MLflow

    return MLflow(target)


@registry.open_to(TRACKERS.fields)
@dataclasses.dataclass(frozen=True)
class TrackingConfig:
    """Trackers, which are rows of train/runtime/trackers/registry.py. A run has the name of its
    workdir there, and a resumed one continues the same tracked run.

    Attributes:
      project: where the run is tracked, with others; MLflow calls it an experiment.
      offline: whether trackers write files on this machine alone, whatever their servers are.
    """

    project: str = "seedpod"
    offline: bool = False

    def __post_init__(self):
        if not self.project.strip() or len(self.project) > 100 or "/" in self.project:
            raise ConfigError(
                f"tracking.project={self.project!r:.80}; it is a name of at most 100 characters, "
                "without /"
            )


def check(names: Sequence[str], config: TrackingConfig) -> None:
    """Checks that trackers can be opened, before anything runs.

    Raises:
      ConfigError: one has no package or no login, and what to type.
    """
    for name in names:
        row = TRACKERS.find(name)
        without = f"or leave {name} out of --config.trackers"
        if row.package and importlib.util.find_spec(row.package) is None:
            raise ConfigError(
                f"trackers={name} needs the package {row.package}: pip install "
                f"{row.install or row.package}, {without}"
            )
        if reason := row.missing(config.offline):
            raise ConfigError(f"trackers={name}: {reason}; or --config.tracking.offline=True")
