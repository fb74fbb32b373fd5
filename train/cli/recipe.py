"""The recipe of a command line, loaded before absl does, for plain messages about errors in it."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence

import ml_collections

import plugins
from suggestions import did_you_mean, nearest
from train.cli.errors import fail
from train.runtime import outputs


def check(argv: Sequence[str]) -> list[str]:
    """Loads the plugins and the recipe before absl does, for plain messages about errors in them or
    in an override; returns the command line for absl to parse."""
    named = re.findall(r"(?:^|\0)--?config[=\0]([^\0]*)", "\0".join([*argv[1:], ""]))
    if not named:
        return list(argv)
    if named[1:]:
        fail(f"--config is given {len(named)} times; name one recipe")
    path, _, argument = named[0].partition(":")
    if not path:
        fail("--config is empty; name a recipe, as --config=configs/pretrain.py")
    if not os.path.exists(path):
        folder = os.path.dirname(path) or "."
        names = os.listdir(folder) if os.access(folder, os.R_OK) and os.path.isdir(folder) else []
        near = nearest(os.path.basename(path), names)
        fail(f"there is no recipe {path}{did_you_mean(near and os.path.join(folder, near))}")
    from train.config import overrides

    if os.path.isdir(path):
        fail(f"{path} is a folder; name a recipe in it, as {os.path.join(path, 'NAME.py')}")
    spec = importlib.util.spec_from_file_location("recipe", path)
    if spec is None or spec.loader is None:
        fail(f"{path} is no recipe: a Python file (NAME.py) with a function get_config")
    module = importlib.util.module_from_spec(spec)
    arguments = [argument] if argument else []
    try:
        plugins.load(overrides.plugins_of(argv, {}))
    except ValueError as e:
        fail(str(e))
    try:
        spec.loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        recipe = get_config(*arguments) if get_config else None
    except ValueError as e:
        fail(f"{path}: {e}")
    except TypeError as e:
        fail(f"{path}: {e}" + (" (it has no choices)" if argument else ""))
    except (Exception, SystemExit) as e:  # SystemExit would end the command with success
        fail(f"{path}: {type(e).__name__}: {outputs.reason(e)}")
    if not get_config:
        fail(f"{path} is no recipe: it has no function get_config")
    if not isinstance(recipe, ml_collections.ConfigDict):
        fail(f"{path}: get_config returns a {type(recipe).__name__}, and not an ml_collections "
             "ConfigDict")  # fmt: skip
    try:
        if named := overrides.plugins_of([""], recipe.to_dict()):
            plugins.load(named)
            recipe = get_config(*arguments)  # with the plugins' settings
        return overrides.gather(argv, recipe.to_dict())
    except ValueError as e:
        fail(str(e))
