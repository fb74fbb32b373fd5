"""The docstrings of the running Python, extracted without importing the whole standard library.

`entries()` reads three places:

- the source files of the standard library, parsed with `ast` (importing every module would run
  code, open displays and need libraries that may be missing);
- the modules written in C, which have no Python source: a fixed list is imported and inspected;
- `pydoc_data.topics`, the chapters of the language reference behind `help("assert")`.

This file needs only the standard library, and the result depends on it alone: the same Python gives
the same entries in the same order.
"""

import ast
import importlib
import inspect
import pathlib
import re
import sysconfig
import types
import warnings
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias


class Entry(NamedTuple):
    """One documented thing.

    name: fully qualified, as a reader would write it (`shutil.copytree`, `str.find`).
    kind: "module", "class", "function", "method", "property" or "topic".
    doc: its documentation, indentation cleaned as `inspect.cleandoc` does.
    """

    name: str
    kind: str
    doc: str


Definition: TypeAlias = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

# Folders of the standard library that are not its public documentation: tests, packages that pip
# installed, and caches.
SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
)

# Pure-Python versions of C modules, and files that a public module is assembled from: their
# documentation is listed under the public name. A key stands for a module and its submodules.
PUBLIC_MODULES = {
    "_collections_abc": "collections.abc",
    "_py_abc": "abc",
    "_pydatetime": "datetime",
    "_pydecimal": "decimal",
    "_pyio": "io",
    "_sitebuiltins": "builtins",
    "_strptime": "time",
    "_threading_local": "threading",
    "_weakrefset": "weakref",
    "importlib._abc": "importlib.abc",
    "importlib._bootstrap": "importlib.machinery",
    "importlib._bootstrap_external": "importlib.machinery",
    "pathlib._abc": "pathlib",
    "pathlib._local": "pathlib",
}

# Modules with parts in C, by their public names. Not every Python has each of them (`audioop` was
# removed in 3.13, `resource` is not on Windows); `c_entries` uses those that exist.
C_MODULES = (
    "abc", "array", "asyncio", "atexit", "audioop", "binascii", "bisect", "builtins", "bz2",
    "cmath", "codecs", "collections", "contextvars", "crypt", "csv", "ctypes", "curses",
    "curses.panel", "datetime", "dbm.gnu", "decimal", "errno", "faulthandler", "fcntl",
    "functools", "gc", "grp", "hashlib", "heapq", "hmac", "imp", "io", "itertools",
    "json.decoder", "json.encoder", "locale", "lzma", "marshal", "math", "mmap",
    "multiprocessing.synchronize", "nis", "operator", "os", "ossaudiodev", "pickle", "posixpath",
    "pwd", "pyexpat", "queue", "random", "re", "readline", "resource", "select", "signal",
    "socket", "spwd", "sqlite3", "ssl", "stat", "statistics", "string", "struct", "symtable",
    "sys", "syslog", "termios", "threading", "time", "tracemalloc", "types", "typing",
    "unicodedata", "uuid", "warnings", "weakref", "xml.etree.ElementTree", "zipimport", "zlib",
    "zoneinfo",
)  # fmt: skip


def entries(stdlib: pathlib.Path | None = None) -> list[Entry]:
    """Returns every documented name of the standard library, sorted by name, each name once.

    The source takes precedence over introspection: its docstring is the same or longer.

    Args:
        stdlib: the folder of the standard library's source; by default, this Python's.

    Raises:
        RuntimeError: the folder holds no source (some embedded Pythons ship bytecode alone).
    """
    stdlib = stdlib or pathlib.Path(sysconfig.get_path("stdlib"))
    if not (stdlib / "os.py").is_file():
        raise RuntimeError(
            f"pydocs reads the standard library's source, and {stdlib} has none (no os.py there). "
            "Run with a Python that ships its source: the ones from python.org, conda, uv, pyenv "
            "and Linux distributions do."
        )
    by_name: dict[str, Entry] = {}
    for source in (source_entries(stdlib), c_entries(), topic_entries()):
        for entry in source:
            by_name.setdefault(entry.name, entry)
    return [by_name[name] for name in sorted(by_name)]


# --- Source files ---------------------------------------------------------------------------


def source_entries(stdlib: pathlib.Path) -> Iterator[Entry]:
    """Yields the docstrings of all modules, classes, functions and methods under `stdlib`."""
    for path in sorted(stdlib.rglob("*.py")):
        parts = path.relative_to(stdlib).with_suffix("").parts
        if SKIPPED_FOLDERS.intersection(parts) or not all(part.isidentifier() for part in parts):
            continue
        if parts[-1] == "__init__":
            parts = parts[:-1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in the source
            try:
                tree = ast.parse(path.read_bytes())
            except SyntaxError:
                continue  # a file that is invalid on purpose, as an example for tools
        yield from _node_entries(tree, public_name(".".join(parts)), "module")


def _node_entries(node: ast.Module | Definition, name: str, kind: str) -> Iterator[Entry]:
    """Yields the docstring of `node`, then those of the definitions inside it.

    Definitions inside a function are left out: they cannot be reached by a dotted name.
    """
    doc = ast.get_docstring(node)
    if doc and doc.strip():
        yield Entry(name, kind, doc.strip())
    if kind not in ("module", "class"):
        return
    for child in _definitions(node):
        if isinstance(child, ast.ClassDef):
            child_kind = "class"
        elif any("property" in ast.unparse(d) for d in child.decorator_list):
            child_kind = "property"
        else:
            child_kind = "function" if kind == "module" else "method"
        yield from _node_entries(child, f"{name}.{child.name}", child_kind)


def _definitions(node: ast.AST) -> Iterator[Definition]:
    """Yields the definitions in the body of `node`, also those under `if`, `try` and `with`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            yield child
        elif isinstance(child, ast.If | ast.Try | ast.ExceptHandler | ast.With):
            yield from _definitions(child)


def public_name(module: str) -> str:
    """Returns the name under which a reader knows `module`: `_pyio` is `io`."""
    for private, public in PUBLIC_MODULES.items():
        if module == private or module.startswith(private + "."):
            return public + module[len(private) :]
    return module


# --- Modules in C ---------------------------------------------------------------------------


def c_entries() -> Iterator[Entry]:
    """Yields the docstrings of the parts of `C_MODULES` written in C, under public names.

    A name of `builtins` is written without its module, as in code: `str.find`.
    """
    seen: set[int] = set()
    for module_name in C_MODULES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # several are deprecated, and warn on import
            try:
                module = importlib.import_module(module_name)
            except ImportError:
                continue  # not part of this Python or of this operating system
        yield from _documented(module, module_name, "module")
        prefix = "" if module_name == "builtins" else module_name + "."
        # An alias (`array.ArrayType`, `EnvironmentError`) is sorted after the class's own name, and
        # is then already in `seen`.
        members = sorted(
            vars(module).items(), key=lambda m: (getattr(m[1], "__name__", None) != m[0], m[0])
        )
        for attribute, value in members:
            # Programs replace `sys.excepthook` and the like, and Python keeps the originals as
            # `__excepthook__`.
            value = vars(module).get(f"__{attribute}__", value)
            # What another module owns is listed there; a module's C part is `_name`, or, for os,
            # `posix` or `nt`.
            owner = getattr(value, "__module__", None)
            if attribute.startswith("_") or id(value) in seen or not _owned(owner, module_name):
                continue
            if inspect.isclass(value):
                seen.add(id(value))
                yield from _class_entries(value, prefix + attribute)
            elif inspect.isbuiltin(value):
                seen.add(id(value))
                yield from _documented(value, prefix + attribute, "function")


def _owned(owner: str | None, module_name: str) -> bool:
    """Whether an object whose `__module__` is `owner` is listed under `module_name`."""
    if not isinstance(owner, str) or owner == "__main__":
        return False
    c_parts = {"os": ("posix", "nt"), "threading": ("_thread",), "types": ("builtins",)}
    allowed = (module_name, "_" + module_name, *c_parts.get(module_name, ()))
    return owner.startswith("_") or owner in allowed or owner.split(".")[0] == module_name


def _class_entries(cls: type, name: str) -> Iterator[Entry]:
    yield from _documented(cls, name, "class")
    for attribute, value in sorted(vars(cls).items()):
        if isinstance(value, types.GetSetDescriptorType | types.MemberDescriptorType):
            yield from _documented(value, f"{name}.{attribute}", "property")
        elif isinstance(value, staticmethod | classmethod):
            yield from _documented(value.__func__, f"{name}.{attribute}", "method")
        elif isinstance(value, types.MethodDescriptorType | types.ClassMethodDescriptorType):
            yield from _documented(value, f"{name}.{attribute}", "method")


def _documented(value: object, name: str, kind: str) -> Iterator[Entry]:
    # `value.__doc__`, not `inspect.getdoc`, which inherits the documentation of a base class.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some classes warn on access that they are deprecated
        doc = value.__doc__
    if isinstance(doc, str) and doc.strip():
        yield Entry(name, kind, inspect.cleandoc(doc))


# --- The language reference -----------------------------------------------------------------


def topic_entries() -> Iterator[Entry]:
    """Yields the chapters behind `help("assert")`, named as `help` calls them."""
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        yield Entry(f"topic {name}", "topic", inspect.cleandoc(text))


# --- The first paragraph --------------------------------------------------------------------

_RULE = re.compile(r"^\s*([=\-~*^#_+.])\1{2,}\s*$")  # underlines of headings
_ROLE = re.compile(r":[a-z]+(?::[a-z]+)?:(?=`)")  # :class:`Foo`, :py:func:`bar`
_RETURNS = re.compile(r"[\w.]+\([^()]*\)\s*->")  # the signature of an alias: another name's
# "copy(src, dst)", "S.find(sub) -> int", "pi = 3.14", or a name alone.
_SIGNATURE = re.compile(r"(?:\w+\.)*(\w+)\s*(?:\(.*|=.*|->.*|)$")
_WORD = re.compile(r"[a-z]+")


def tidy(text: str) -> str:
    """Removes heading underlines and reST role names from a docstring or topic."""
    lines = (line.rstrip() for line in text.splitlines() if not _RULE.match(line))
    return _ROLE.sub("", "\n".join(lines)).strip()


def summary(name: str, doc: str) -> str:
    """Returns the first paragraph of prose of a docstring in one line, or "" if it has none.

    Docstrings of C functions often open with the signature ("getattr(object, name) -> value"),
    and some modules with their own name; those lines are skipped.
    """
    for paragraph in re.split(r"\n\s*\n", tidy(doc)):
        text = " ".join(" ".join(_without_signature(paragraph, name)).split())
        if text:
            return text if is_prose(text) else ""
    return ""


def _without_signature(paragraph: str, name: str) -> list[str]:
    """Returns the lines of a paragraph after the signature lines at its top.

    A signature's continuation lines are indented more than it is, or inside its brackets.
    """
    last = name.rpartition(".")[2]
    lines = paragraph.splitlines()
    signatures, start, open_brackets = 0, 0, 0
    for line in lines:
        opening = _SIGNATURE.match(line)
        if (opening and opening.group(1) == last) or line.strip(" .") in (name, last + ".py"):
            signatures += 1
        elif not start or not (line.startswith((" ", "\t")) or open_brackets > 0):
            break
        open_brackets += line.count("(") - line.count(")")
        start += 1
    if start == len(lines) and signatures == 1:
        # "L.count(value) -> integer -- return number of occurrences": the sentence is the tail. A
        # shorter tail names the type of the result, and the sentence follows below.
        tail = re.split(r"->|\s--?\s|\):\s", " ".join(lines))[-1].strip()
        return [tail] if tail != paragraph and len(tail.split()) >= 6 else []
    return lines[start:]


def is_prose(text: str) -> bool:
    """Whether a line reads as prose: 15 to 600 characters, mostly words, no console session."""
    if not 15 <= len(text) <= 600 or ">>> " in text or _RETURNS.match(text):
        return False
    letters = sum(char.isalpha() or char == " " for char in text)
    return len(_WORD.findall(text.lower())) >= 3 and letters >= 0.75 * len(text)


def normalise(text: str) -> str:
    """Returns the lower-case words of a text, joined by single spaces, to compare texts."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def is_public(name: str) -> bool:
    """Whether no part of a dotted name is private. `__future__` and `__enter__` are public."""
    return not any(
        part.startswith("_") and not (part.startswith("__") and part.endswith("__"))
        for part in name.split(".")
    )
