"""The recipe of a command line, loaded before absl does, for plain messages about errors in it."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import re
from collections.abc import Sequence
from pathlib import Path

import ml_collections

import plugins
from suggestions import did_you_mean, nearest
from train.cli.errors import fail
from train.runtime import outputs

# {a recipe of configs/: other words for it}
_CALLED = {
    "reward.py": "rm reward_model rewardmodel",
    "sft.py": "finetune fine_tune finetuning instruct supervised",
    "ppo.py": "rlhf rl",
    "grpo.py": "rloo dapo",
    "pretrain.py": "pretraining pre_train base_train train",
    "chains/demo.py": "speedrun",
}


def named(argv: Sequence[str]) -> str:
    """The path of the recipe on a command line, without its choices; "" if it has none."""
    return _named(argv)[0].partition(":")[0] if _named(argv) else ""


def _named(argv: Sequence[str]) -> list[str]:
    return re.findall(r"(?:^|\0)--?config[=\0]([^\0]*)", "\0".join([*argv[1:], ""]))


def docstring(path: str) -> str:
    """The docstring of a recipe."""
    return ast.get_docstring(ast.parse(Path(path).read_text(encoding="utf-8"))) or ""


def _recipes() -> dict[str, Path]:
    """{name, as `chains/demo`: file} of the recipes in configs/."""
    folder = Path(__file__).parents[2] / "configs"
    names = {path.relative_to(folder).with_suffix("").as_posix(): path
             for path in sorted(folder.rglob("*.py"))}  # fmt: skip
    return {n: path for n, path in names.items() if not n.endswith("__init__") and n != "base"}


def _meant(path: str, argument: str) -> str:
    """The recipe that a path was probably meant for, as the end of an error message."""
    known = _recipes()
    name = re.sub(r".*configs/", "", path.replace(os.sep, "/")).removesuffix(".py").lower()
    plain = name.replace("-", "_")
    called = {w: file.removesuffix(".py") for file, words in _CALLED.items() for w in words.split()}
    leaves = {recipe.rpartition("/")[2]: recipe for recipe in reversed(known)}
    meant = name if name in known else leaves.get(plain) or called.get(plain)
    size = "" if meant else _size(name)
    if not meant and not size:
        leaf = plain.rpartition("/")[2]
        meant = leaves.get(nearest(leaf, leaves, 0.7)) or called.get(nearest(leaf, called, 0.75))
    if not meant and not size:
        return f"; those of configs/ are {', '.join(known)}" if known else ""
    file = f"configs/{meant}.py" if meant else "configs/pretrain.py"
    if not os.path.exists(file):
        clone = Path(__file__).parents[2]
        inside = clone in (Path.cwd(), *Path.cwd().parents)
        file = os.path.relpath(clone / file) if inside else str(clone / file)
    return did_you_mean(f"{file}:size={size}" if size else file + (argument and f":{argument}"))


def _size(name: str) -> str:
    """The model size that a name begins, or ""."""
    from model.sizes import SIZES

    return next((size for size in SIZES if len(name) > 1 and size.startswith(name)), "")


def _with_recipe_of_fork(argv: Sequence[str]) -> list[str]:
    """A command line with the recipe that --fork=RUN@STEP implies, if it names none."""
    forks = re.findall(r"(?:^|\0)--?fork[=\0]([^\0]+)", "\0".join(argv[1:]))
    if not forks or _named(argv):
        return list(argv)
    path = Path(__file__).parents[2] / "configs" / "of_run.py"
    return [argv[0], f"--config={path}:run={forks[-1]}", *argv[1:]]


def _with_recipe_first(argv: Sequence[str]) -> list[str]:
    """A command line whose recipe is before its settings, which ml_collections requires."""
    at = next(n for n, word in enumerate(argv) if n and re.match(r"--?config(=|$)", word))
    end = at + 1 if "=" in argv[at] else at + 2
    return [argv[0], *argv[at:end], *argv[1:at], *argv[end:]]


def check(argv: Sequence[str]) -> list[str]:
    """Loads the plugins and the recipe before absl does, for plain messages about errors in them or
    in an override; returns the command line for absl to parse."""
    forked = not _named(argv)  # if a recipe is named below, it is that of --fork
    argv = _with_recipe_of_fork(argv)
    named = _named(argv)
    if not named:
        return list(argv)
    if named[1:]:
        fail(f"--config is given {len(named)} times; name one recipe")
    path, _, argument = named[0].partition(":")
    if not path:
        fail("--config is empty; name a recipe, as --config=configs/pretrain.py")
    argv = _with_recipe_first(argv)
    if not os.path.exists(path):
        folder = os.path.dirname(path) or "."
        names = os.listdir(folder) if os.access(folder, os.R_OK) and os.path.isdir(folder) else []
        recipes = [name for name in names if name.endswith(".py")]
        near = nearest(os.path.basename(path), recipes, 0.8)
        fail(
            f"there is no recipe {path}"
            + (did_you_mean(os.path.join(folder, near)) if near else _meant(path, argument))
        )
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
        choices = bool(get_config and inspect.signature(get_config).parameters)
        recipe = get_config(*arguments) if get_config and (choices or not argument) else None
    except ValueError as e:
        fail(str(e) if forked else f"{path}: {e}")
    except (Exception, SystemExit) as e:  # SystemExit would end the command with success
        fail(f"{path}: {type(e).__name__}: {outputs.reason(e)}")
    if not get_config:
        fail(f"{path} is no recipe: it has no function get_config")
    if argument and not choices:
        fail(f"{path} has no choices, and {argument!r} is given; type --config={path}, and change "
             "settings with --config.KEY=VALUE")  # fmt: skip
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
