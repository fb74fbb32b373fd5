"""Plugins: modules outside the repository that add rows to the registries when they are imported.

    # mymodule.py, in the working directory or on PYTHONPATH
    from train.rl.verifiers import verifier

    @verifier("polite")
    def polite(episode):
        return float("please" in episode.response)

`--config.plugins=mymodule` imports it before flags and settings are checked; commas separate
several. A recipe that changes a plugin's settings imports it as any module, and names it in
`config.plugins`. tests/test_plugins.py has one row of each kind.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from ranges import ConfigError, split_names

_HASH_CHARACTERS = 16
_loaded: list[str] = []


def load(names: str | Sequence[str]) -> None:
    """Imports plugins.

    Raises:
      ConfigError: one does not exist, or raises an error while it is imported.
    """
    for name in split_names(names):
        if name in _loaded:
            continue
        try:
            importlib.import_module(name)
            _loaded.append(name)
        except ModuleNotFoundError as e:
            if e.name is None or not f"{name}.".startswith(f"{e.name}."):
                raise ConfigError(f"plugins={name}: {_place(e, name)}{e}; install it") from e
            raise ConfigError(
                f"plugins={name}: there is no module {e.name}; name a Python module in the "
                "working directory or on PYTHONPATH, without .py"
            ) from e
        except (Exception, SystemExit) as e:  # SystemExit would end the command with success
            text = str(e) if isinstance(e, ConfigError) else f"{type(e).__name__}: {e}"
            raise ConfigError(f"plugins={name} cannot be imported: {_place(e, name)}{text}") from e


def loaded() -> tuple[str, ...]:
    """The plugins that are loaded, in order."""
    return tuple(_loaded)


def _place(error: BaseException, name: str) -> str:
    """`FILE:LINE: ` of the last line of the plugin that ran; "" if none did."""
    place, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] == name.partition(".")[0]:
            place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}: "
        trace = trace.tb_next
    return place


def file_of(name: str) -> str:
    """The file of a plugin that is loaded."""
    return str(sys.modules[name].__file__ or sys.modules[name])


def fingerprint(name: str) -> str:
    """A hash of the source of a plugin that is loaded; for a package, of all its files."""
    path = Path(file_of(name))
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    total = hashlib.sha256()
    for file in files:
        total.update(file.read_bytes())
    return total.hexdigest()[:_HASH_CHARACTERS]
