"""Flags of the commands: their definition, and the command line's parsing."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import ml_collections
from absl import flags
from ml_collections import config_flags

from ranges import ConfigError
from suggestions import did_you_mean, nearest
from train.cli import help, recipe
from train.cli.errors import fail
from train.runtime import outputs
from train.terminal import text

# The command line for config_flags, as train/config/overrides.py rewrites it.
ARGV: list[str] = []


def define_config(help: str) -> None:
    """The flags --config=RECIPE and --config.KEY=VALUE."""
    config_flags.DEFINE_config_file("config", None, help, lock_config=True, sys_argv=ARGV)


def define_run() -> None:
    """The flags --config, --workdir and --compilation_cache."""
    define_config("A recipe, as configs/chains/demo.py.")
    flags.DEFINE_string("workdir", None, "The run's directory; one that holds a run is resumed.")
    flags.DEFINE_string(
        "compilation_cache",
        "auto",
        "Cache of compiled programs: a directory that all processes see; none; or auto: in the "
        "workdir on accelerators, the user's on CPU.",
    )
    flags.mark_flags_as_required(["config", "workdir"])


def define_flags() -> None:
    """The flags of `define_run`, and those of a run of several processes."""
    define_run()
    flags.DEFINE_bool("distributed", False, "Join the other processes of this run first.")
    flags.DEFINE_string(
        "coordinator", "", "host:port of process 0; empty on TPU, where JAX finds the others."
    )
    flags.DEFINE_integer(
        "num_processes", 0, "With --coordinator: number of processes.", lower_bound=0
    )
    flags.DEFINE_integer(
        "process_id", 0, "With --coordinator: number of this process, from 0.", lower_bound=0
    )
    flags.DEFINE_integer("peer_timeout", 300, "Seconds to wait for all processes.", 1, 10**6)
    flags.DEFINE_integer("heartbeat", 100, "Seconds until a silent process is lost.", 1, 10**6)


def define_run_flags() -> None:
    """The flags of commands that train, beyond `define_flags`."""
    flags.DEFINE_string(
        "profile_steps", "", "FROM:TO traces the steps after FROM up to TO into <workdir>/profile."
    )
    flags.DEFINE_list(
        "allow_change", [], "Settings that a resumed run may change, as optimizer.peak_lr,steps; "
        "data allows other rows."
    )  # fmt: skip
    flags.DEFINE_integer(
        "profiler_port", 0, "Port that serves profiles on request; 0 serves none.", 0, 65535
    )
    flags.DEFINE_bool(
        "profiler_public", False, "Let --profiler_port answer every machine of the network."
    )


def templates_of(words: Sequence[str]) -> dict[str, str]:
    """{field: template} of NAME=TEMPLATE words.

    Raises:
      ConfigError: a word is none.
    """
    fields = {}
    for word in words:
        name, equals, template = word.partition("=")
        if not equals or not template:
            raise ConfigError(f"--fields={word:.80}; type --fields=prompt='{{question}}'")
        fields[name.strip()] = template
    return fields


def transforms_of(words: Sequence[str]) -> dict[str, Any]:
    """{transform: setting} of NAME=VALUE words, where NAME may be of a setting, `keep.status`.

    Raises:
      ConfigError: a word is none.
    """
    transforms: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        *outer, last = name.strip().split(".")
        inner = transforms
        for part in outer:
            inner = inner.setdefault(part, {}) if isinstance(inner, dict) else inner
        if not equals or not value or not last or not isinstance(inner, dict) or last in inner:
            raise ConfigError(
                f"--transforms={word:.80}; type each once, as --transforms=drop_quotes=True "
                "--transforms=keep.status=solved"
            )
        inner[last] = {"True": True, "False": False}.get(value, value)
    return transforms


def parse_flags(argv: Sequence[str], words: int = 0) -> list[str]:
    """Parses the command line; an error in it is one line, not a traceback. `--help` ends here.

    Args:
      words: number of words that may be given besides flags.
    """
    outputs.guard()
    try:
        argv = [argv[0], *flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)]
        if (query := help.asked(argv)) is not None:
            _print_help(argv, query)
        argv = ARGV[:] = recipe.check(argv)
        arguments = flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as e:
        fail(_unknown_flag(e.flagname))
    except flags.Error as e:
        fail(_missing_flags(argv) or _plainly(str(e)))
    except Exception as e:  # ml_collections raises any error of Python for a malformed override
        overrides = " ".join(a for a in argv[1:] if a.startswith(("-config", "--config")))
        fail(f"{overrides}: write an override as --config.steps=9 ({outputs.reason(e)})")
    for name in help.own_flags():
        value, default = flags.FLAGS[name].value, flags.FLAGS[name].default
        if isinstance(value, float) and not math.isfinite(value) and value != default:
            fail(f"--{name}={value}: it must be a finite number")
    if unread := arguments[1 + words :]:
        fail(_no_flag(unread[0]))
    return arguments


def _print_help(argv: Sequence[str], query: str) -> NoReturn:
    """Prints the help that a command line asks for, and ends the process.

    Args:
      query: a word to search; "" for all.
    """
    argv = ARGV[:] = recipe.check(argv)
    path = recipe.named(argv)
    if not path and not query:
        print(help.of_command())
        raise SystemExit
    parts = [help.search(query)] if query else []
    if "config" in flags.FLAGS:
        from train.cli.listing import listing

        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", None, "", values, sys_argv=ARGV)
        values(argv, known_only=True)
        tree = values.config.to_dict() if path else None
        try:
            parts.append(listing(tree, query.removeprefix("config."), text.columns()))
        except ValueError as e:
            fail(str(e))
    found = "\n\n".join(filter(None, parts))
    if not found:
        fail(f"no flag and no setting has {query!r} in its name or meaning{_meant(query)}")
    print(found if query else help.of_recipe(path, recipe.docstring(path), found))
    raise SystemExit


# {flag of a command without a recipe: its names in other libraries}
_CALLED = {
    "workdir": ("model", "model_args", "model_path", "model_name", "model_name_or_path",
                "model_tag", "pretrained", "checkpoint", "checkpoint_path", "ckpt", "run"),
    "prompt": ("message", "question", "query", "input"),
    "max_new_tokens": ("max_tokens", "max_length"),
    "tasks": ("task", "benchmark", "benchmarks", "eval"),
    "shots": ("num_fewshot", "fewshot", "n_shot"),
    "limit": ("max_per_task", "max_problems", "max_samples"),
    "out": ("output_path", "output_dir", "output"),
    "chat": ("apply_chat_template",),
    "data": ("data_dir", "dataset"),
}  # fmt: skip


def _meant(name: str) -> str:
    """The flag or setting that a name was probably meant for, or ""."""
    known = help.own_flags()
    longer = [flag for flag in known if len(name) > 2 and flag.startswith(name)]
    if near := next(iter(longer), "") or nearest(name, known, 0.75):
        return did_you_mean(f"--{near}")
    if "config" not in flags.FLAGS:
        return did_you_mean(*(f"--{flag}" for flag in known if name in _CALLED.get(flag, ())))
    from train.config.names import meant
    from train.config.run import keys

    if any(key.startswith(f"{name}.") for key in keys()):
        return f"; {name} is a group of settings, and --help={name}. lists them"
    stages = "stages.NAME." if "stages" in (flags.FLAGS["config"].value or ()) else ""
    hint = meant(name, keys(), f"--config.{stages}")
    return "" if f"--{name}=" in hint else hint  # a flag of other commands


def _unknown_flag(name: str) -> str:
    """The error about a flag that there is not; for one such as --learning_rate it names the
    setting."""
    return f"there is no flag --{name}{_meant(name) or '; --help lists all'}"


def _missing_flags(argv: Sequence[str]) -> str:
    """The error about required flags that are not given, or ""."""
    missing = [n for n in help.own_flags() if help.required(n) and flags.FLAGS[n].value is None]
    if not missing:
        return ""
    typed = " ".join(f"--{name}={help.place(name)}" for name in missing)
    for before, word in itertools.pairwise(argv):
        if not word.startswith("-") and (not before.startswith("-") or "=" in before):
            typed = f"--{missing[0]}={word}, and not {word} alone"
            break
    names = " and ".join(f"--{name}" for name in missing)
    verb = "are" if missing[1:] else "is"
    return f"{names} {verb} missing; type {typed} (--help has examples)"


def _no_flag(word: str) -> str:
    """The error about a word that belongs to no flag."""
    if "=" in word:
        kind = "" if word.partition("=")[0] in flags.FLAGS else "config."
        return f"{word!r} is no flag; write it as --{kind}{word}"
    if word.lower() in ("true", "false"):
        return (f"{word!r} belongs to no flag; write a boolean value after =, as "
                "--config.data.pack=False")  # fmt: skip
    return f"{word!r} belongs to no flag; write a flag as --FLAG=VALUE (--help lists all)"


def _plainly(message: str) -> str:
    """A message of absl with what Python raised in plain words."""
    number = re.fullmatch(r"flag (--\S+)=(.*): invalid literal for int\(\).*", message, re.DOTALL)
    if number:
        with contextlib.suppress(ValueError):
            if (value := float(number[2])).is_integer():
                return f"{number[1]}={number[2]}: it must be an int; write {number[1]}={int(value)}"
    for pattern, plain in (
        (r"invalid literal for int\(\).*", "it must be an int"),
        (r"could not convert string to float.*", "it must be a float"),
        (r"\('Non-boolean argument to boolean flag'.*", "it must be True or False"),
        (r"^Missing value for flag (.*)", r"\1 has no value; write \1=VALUE"),
    ):
        message = re.sub(pattern, plain, message, flags=re.DOTALL)
    return message.removeprefix("flag ")


def config() -> ml_collections.ConfigDict:
    """The recipe with the command line's overrides, and the budget of --hours or --flops."""
    f, units = flags.FLAGS, {"hours": "h", "flops": "flops"}
    given = [name for name in units if name in f and f[name].value is not None]
    if given:
        changed = config_flags.get_override_values(f["config"])
        others = [*given[1:], *(f"config.{key}" for key in ("steps", "budget") if key in changed)]
        if others:
            fail(f"--{given[0]} and --{others[0]} both say how long the run is; give one of them")
        f.config.budget = f"{f[given[0]].value!r}{units[given[0]]}"
    return f.config


def recipe_words() -> list[str]:
    """The words of the command line that name the recipe and its settings, for another command."""
    words, out = ARGV[1:], list[str]()
    for word, following in zip(words, [*words[1:], "-"], strict=True):
        if re.match(r"--?(no)?config([.=]|$)", word):
            out.append(word)
            if "=" not in word and not following.startswith("-"):
                out.append(following)
    return out


def config_with(settings: Mapping[str, str]) -> ml_collections.ConfigDict:
    """The recipe with the command line's overrides and further ones, {key: text}, which are read
    as --config.KEY=TEXT is. An unknown key ends the process with a message.

    Raises:
      ConfigError: a text is no value of its setting.
    """
    argv = recipe.check([*ARGV, *(f"--config.{key}={text}" for key, text in settings.items())])
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", values, lock_config=True, sys_argv=argv)
    try:
        values(argv, known_only=True)
    except flags.Error as error:
        raise ConfigError(_plainly(str(error))) from None
    return values.config
