"""The text of `--help`: a command's own flags, and a recipe's settings.

`--help` alone imports nothing heavy; with a recipe or a word to search it reads the settings.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence

from absl import flags

from train.terminal.text import columns, formatted, wrap

_INDENT = 24  # of a flag's meaning
# {title: flags}; other flags are the command's own.
GROUPS = {
    "Several processes": (
        "distributed", "coordinator", "num_processes", "process_id", "peer_timeout", "heartbeat",
    ),
    "Profiling and compilation": ("profile_steps", "profiler_port", "compilation_cache"),
}  # fmt: skip
_KINDS = {"int": "N", "float": "X", "string": "TEXT", "comma separated list of strings": "A,B"}
_PLACES = {"config": "RECIPE", "from": "MODEL", "out": "PATH"}
_PLACES |= dict.fromkeys(("workdir", "to", "output", "against", "reward"), "DIR")
_PLACES |= dict.fromkeys(("json", "hlo", "price"), "FILE")
_PLACES |= dict.fromkeys(("grid", "zip"), "KEY=A,B")
_PLACES |= dict.fromkeys(("random", "log_uniform"), "KEY=LOW:HIGH")


def asked(argv: Sequence[str]) -> str | None:
    """The word that a command line searches in its help, "" for all of it, None without --help."""
    words = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    for word, following in zip(words, [*words[1:], "-"]):
        if word in ("-h", "-?", "-help", "--help"):
            return "" if following.startswith("-") else following
        if match := re.fullmatch(r"--?help=(.*)", word):
            return match[1]
    return None


def of_command() -> str:
    """The docstring of the running command, and its flags by group."""
    module = sys.modules["__main__"]
    name = module.__spec__.name.removesuffix(".__main__") if module.__spec__ else "train"
    width = columns()
    needed = "".join(f" --{flag}={place(flag)}" for flag in own_flags() if required(flag))
    usage = wrap(f"usage: python -m {name}{needed} [--FLAG=VALUE …]", width)
    lines = [*usage, "", *formatted(module.__doc__ or "", width)]
    for title, names in _grouped(own_flags()):
        lines += ["", title, *(line for name in names for line in _flag(name, width))]
    if "config" in flags.FLAGS:
        lines += ["", *wrap(
            "--config=RECIPE --help lists the settings of a recipe; --help=WORD searches settings "
            "and flags, also by the names of other libraries, as --help=learning_rate.", width,
        )]  # fmt: skip
    return "\n".join(lines)


def of_recipe(path: str, doc: str, settings: str) -> str:
    """A recipe's docstring, and its settings (train/cli/listing.py)."""
    return "\n".join([
        path, "", *formatted(doc, columns()), "",
        *wrap("Settings, typed as --config.KEY=VALUE; * marks those that the recipe changes. "
               "--help=WORD searches them, --help=optimizer. lists one group.", columns()),
        "", settings,
    ])  # fmt: skip


def search(query: str) -> str:
    """The command's flags whose name or meaning has a word; "" if none has."""
    word = query.lower().removeprefix("--")
    meanings = {name: (flags.FLAGS[name].help or "").lower() for name in own_flags()}
    found = [
        name
        for name, meaning in meanings.items()
        if word in name or re.search(rf"\b{re.escape(word)}", meaning)
    ]
    lines = [line for name in found for line in _flag(name, columns())]
    return "\n".join(["Flags", *lines]) if lines else ""


def own_flags() -> list[str]:
    """The flags that Seedpod defines, in the order of their definition."""
    modules = flags.FLAGS.flags_by_module_dict()
    ours = [m for m in modules if re.match(r"(train|data|tpu)\.", m) or m == sys.argv[0]]
    return [flag.name for module in ours for flag in modules[module] if "." not in flag.name]


def _grouped(names: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """(title, flags) of each group that has some."""
    placed = {name for group in GROUPS.values() for name in group}
    for title, group in {"Flags": [n for n in names if n not in placed], **GROUPS}.items():
        if chosen := [name for name in group if name in names]:
            yield title, chosen


def required(name: str) -> bool:
    """Whether a flag has to be given."""
    flag = flags.FLAGS[name]
    # Bounds of numbers are validators too, and take None.
    return flag.default is None and not all(v.checker(None) for v in flag.validators)


def place(name: str) -> str:
    """The placeholder of a flag's value."""
    flag = flags.FLAGS[name]
    values = getattr(flag.parser, "enum_values", None)
    return "|".join(values) if values else _PLACES.get(name) or _KINDS.get(flag.flag_type(), "TEXT")


def _flag(name: str, width: int) -> list[str]:
    """A flag and its meaning, in two columns."""
    flag = flags.FLAGS[name]
    text = re.sub(r"^<.*?>: ", "", flag.help or "")  # of an enum: its values
    text = re.sub(
        r"\.?;\s+repeat this option to specify a list of values", "; may be repeated.", text
    )
    if required(name):
        text += " Required."
    elif flag.default not in (None, "", False, []):
        text += f" Default: {(flag.default_as_str or '').strip(chr(39))}."
    head = f"  --{name}" if flag.boolean else f"  --{name}={place(name)}"
    lines = wrap(text, width, _INDENT, _INDENT)
    if len(head) + 2 > _INDENT:
        return [head, *lines]
    return [head.ljust(_INDENT) + lines[0].strip(), *lines[1:]]
