"""Documentation as data: the commands, code blocks and code spans of Markdown pages and docstrings,
and commands parsed by the real flags and settings, without running anything, or run in this
process."""

import argparse
import ast
import contextlib
import importlib.util
import io
import os
import re
import runpy
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from absl import app, flags

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("model", "train", "data", "configs", "tpu", "benchmarks", "tests")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w/]+\.py)\n")  # the first line of a block of Python that is a file
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")


class Block(NamedTuple):
    """A fenced block of a Markdown page."""

    language: str
    text: str


def pages() -> list[Path]:
    """The Markdown pages of the repository."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(match[1], match[2]) for match in _FENCE.finditer(text)]


def spans(text: str) -> list[str]:
    """The inline code of a page or docstring, a line break in it as a space."""
    return [" ".join(span.split()) for span in _SPAN.findall(_FENCE.sub("", text))]


def prose(text: str) -> str:
    """A page without its code."""
    return _SPAN.sub("", _FENCE.sub("", text))


def docstring(path: Path) -> str:
    """The docstring of a Python file; "" without one."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=False) or ""


def documented_commands(path: Path) -> list[list[str]]:
    """The commands of a Markdown page, a Python file's docstring or the Makefile, as words."""
    text = path.read_text(encoding="utf-8") if path.suffix != ".py" else docstring(path)
    lines = spans(text)
    text = text.replace("\\\n", "")
    if path.name == "Makefile":
        for name, value in {"PY": "python", "DEMO": "runs/demo", "SEED": "0"}.items():
            text = text.replace(f"$({name})", value)
        lines += text.splitlines()
    elif path.suffix == ".md":
        for block in blocks(text):
            if block.language == "sh":
                lines += block.text.splitlines()
            elif not block.language:  # a session: what is typed, and what is printed
                lines += re.findall(r"^\$ (.*)$", block.text, re.MULTILINE)
    else:
        lines += re.findall(r"^ {4}(.*)$", text, re.MULTILINE)
    return [words for line in lines for words in _commands(line)]


def _commands(line: str) -> list[list[str]]:
    """The `python -m` and `make` commands of a line of a shell."""
    if "python -m " not in line and not re.match(r"make\b", line):
        return []
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>()")
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set(";&|()"):
            parts.append([])
        else:  # [--flag=N]: an option, and a number
            parts[-1].append(re.sub(r"=[A-Z]$", "=1", word.strip("[]")))
    found = []
    for words in parts:
        words = words[: words.index(">")] if ">" in words else words
        python = next((i for i, w in enumerate(words) if re.search(r"(^|/)python$", w)), None)
        if python is not None and words[python + 1 : python + 2] == ["-m"]:
            found.append(["python", *words[python + 1 :]])
        elif words[:1] == ["make"] and len(words) > 1:
            found.append(words)
    return found


def apply(change: str, root: Path) -> None:
    """Applies a diff whose first line names the file and whose hunks are separated by @@."""
    name, _, hunks = change.partition("\n")
    path = root / name.removeprefix("# ")
    text = path.read_text()
    for hunk in re.split(r"^@@\n", hunks, flags=re.MULTILINE):
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        assert text.count(before) == 1, f"{name}: not there once:\n{before}"
        text = text.replace(before, after)
    path.write_text(text)


def apply_page(page: Path, root: Path) -> None:
    """Makes a page's files and changes in a copy of the repository."""
    for block in blocks(page.read_text()):
        if block.language == "diff":
            apply(block.text, root)
        elif block.language == "python" and (match := _FILE.match(block.text)):
            (root / match[1]).write_text(block.text[match.end() :])


class Refused(Exception):
    """A command that the real flags refuse."""


def check_command(words: list[str]) -> None:
    """Parses a command without running it.

    Raises:
      Refused: there is no such module, target, flag, recipe or setting, or a value is not taken.
    """
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        for word in words[1:]:
            if "=" not in word and word not in targets:
                raise Refused(f"there is no make target {word}")
        return
    module, arguments = words[2], words[3:]
    package = module.partition(".")[0]
    if package not in PACKAGES:
        try:
            metadata.version(package)  # find_spec("pip") would replace distutils in this process
        except metadata.PackageNotFoundError as error:
            raise Refused(f"there is no package {package}") from error
    if module == "pytest":
        for word in arguments:
            if word.startswith("tests/") and not (ROOT / word).exists():
                raise Refused(f"there is no {word}")
    if package not in PACKAGES:
        return
    if importlib.util.find_spec(module) is None:
        raise Refused(f"there is no module {module}")
    if arguments:
        _parse(module, arguments)


class _Parsed(BaseException):
    """Raised in place of what a command does after its arguments were parsed."""


def _parse(module: str, arguments: list[str]) -> None:
    """Defines a module's flags as running it does, and parses arguments by them."""
    before, errors = set(flags.FLAGS), io.StringIO()
    parsers = []

    def run(main, argv=None, flags_parser=flags.FLAGS):
        parsers.append(flags_parser)

    def parse_args(parser, args=None, namespace=None):
        real(parser, args, namespace)
        raise _Parsed

    real = argparse.ArgumentParser.parse_args
    try:
        with (
            mock.patch.object(app, "run", run),
            mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args),
            mock.patch("train.runtime.outputs.guard", lambda: None),
            mock.patch.object(sys, "argv", [module, *arguments]),
            contextlib.redirect_stderr(errors),
        ):
            with contextlib.suppress(_Parsed):
                runpy.run_module(module, run_name="__main__")
            for parser in parsers:
                parser([module, *arguments])
                _build_recipe()
    except (SystemExit, flags.Error, ValueError) as error:
        raise Refused(f"{errors.getvalue().strip()} {error}") from error
    finally:
        _forget(set(flags.FLAGS) - before)
    if module == "tpu.launch" and "--" in arguments:
        command = arguments[arguments.index("--") + 1 :]
        check_command(["python", *(command if command[0] == "-m" else ["-m", "train", *command])])


def _forget(names: set[str]) -> None:
    """Removes the flags that a command defined; those of a library that it imported stay."""
    for name in names:
        module = flags.FLAGS.find_module_defining_flag(name) or ""
        own = module.split(".")[0] in PACKAGES or module.startswith(str(ROOT))
        if own or name.startswith("config."):
            delattr(flags.FLAGS, name)


def _build_recipe() -> None:
    """Builds the recipe of parsed flags, or each stage of a chain."""
    from train.config.run import build

    if "config" not in flags.FLAGS or not (recipe := flags.FLAGS.config):
        return
    for config in recipe.get("stages", {"": recipe}).values():
        build(config)


class Typed(NamedTuple):
    """The exit code of a command, and what it printed."""

    code: int
    text: str


def type_command(line: str) -> Typed:
    """Runs `python -m MODULE …`, after `cd DIR && ` in that folder.

    Signals, the log file and the compilation cache of this process are left as they are.
    """
    words = shlex.split(line)
    folder = Path.cwd()
    if words[0] == "cd":
        folder, words = Path(words[1]), words[3:]
    module = words[2]
    before, printed, code = set(flags.FLAGS), io.StringIO(), 0

    def run(main, argv=None, flags_parser=None):
        main(flags_parser(sys.argv))

    with contextlib.ExitStack() as stack:
        for name, instead in (
            ("train.runtime.outputs.guard", lambda: None),
            ("train.runtime.metrics.quiet_to_file", lambda path: ""),
            ("train.runtime.processes.watch_for_preemption", lambda: None),
            ("train.terminal.interrupts.watch", lambda workdir: None),
            ("train.runtime.compilation.enable", lambda *args: None),
        ):
            stack.enter_context(mock.patch(name, instead))
        stack.enter_context(mock.patch.object(app, "run", run))
        stack.enter_context(mock.patch.object(sys, "argv", [module, *words[3:]]))
        stack.enter_context(mock.patch.dict(os.environ))
        stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(contextlib.redirect_stdout(printed))
        stack.enter_context(contextlib.redirect_stderr(printed))
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            _forget(set(flags.FLAGS) - before)
    return Typed(code, printed.getvalue())
