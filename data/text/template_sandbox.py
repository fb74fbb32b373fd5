"""The sandbox of chat templates: Jinja's, with tracked text and counted work.

A template is code from elsewhere. Every loop body, call, filter and operator costs a step, and text
by its length (data/text/template_budget.py); a template that takes too much is stopped with an
error. The result of any other template is unchanged.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any

import jinja2
from jinja2 import ext, filters, runtime, sandbox

from data.text.template_budget import CHARACTERS_A_STEP, Budget, TooMuch
from data.text.template_syntax import Generation, Instrument
from data.text.tracked_text import (
    Safe,
    Source,
    Tracked,
    as_tracked,
    concat,
    escaped,
    smear,
    sources,
)

_MAX_INDENT = 64  # of JSON
_MAX_BITS = 4096  # of a number

# Filters whose result already records its sources, because they cut and join `Tracked` text, or
# return one of their arguments.
_EXACT = {
    *("attr", "capitalize", "d", "default", "e", "escape", "first", "forceescape", "format"),
    *("join", "last", "lower", "max", "min", "replace", "reverse", "safe", "string", "sum"),
    *("tojson", "trim", "upper"),
}
# Filters that convert their argument to text.
_OF_TEXT = {
    *("capitalize", "center", "e", "escape", "forceescape", "format", "indent", "lower", "replace"),
    *("safe", "string", "title", "trim", "truncate", "upper", "urlencode", "wordcount"),
}
_WITH_COUNTS = {"batch", "center", "indent", "round", "slice", "tojson", "truncate"}
_COMPARING = {"dictsort", "groupby", "max", "min", "sort", "unique"}
_COMPARING_TESTS = (
    *("==", "eq", "equalto", "!=", "ne", ">", "gt", "greaterthan", ">=", "ge"),
    *("<", "lt", "lessthan", "<=", "le", "in"),
)
# Not needed by chat templates: not deterministic, or of quadratic time.
_EXCLUDED_FILTERS = ("pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr")
_METHODS_WITH_WIDTH = {"center", "expandtabs", "ljust", "rjust", "zfill"}
_METHODS_OF_PIECES = {"rsplit", "split", "splitlines"}
_EXCLUDED_METHODS = ("encode", "maketrans", "translate")

_CONVERSION = re.compile(r"%(?:\((?P<key>[^)]*)\))?(?P<form>[#0\- +]*[\d.]*)(?P<type>.)", re.S)
_WIDE = re.compile(r"\d{6}")
_NONE_LEFT = object()


class Sandbox(sandbox.ImmutableSandboxedEnvironment):
    """Jinja configured as `transformers` does for chat templates.

    Attributes:
      marks: whether the template has {% generation %} blocks. generations: the number of such
        blocks in this rendering so far.
    """

    marks = False
    generations = 0
    intercepted_binops = frozenset(["+", "*", "%", "**"])

    def __init__(self):
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
        )
        self._budget = Budget()
        for name in _EXCLUDED_FILTERS:
            del self.filters[name]
        del self.globals["lipsum"]
        self.filters |= {
            "format": self._format_filter,
            "e": escaped,
            "escape": escaped,
            "forceescape": lambda text: escaped(str.__str__(text)),
            "join": self._join,
            "replace": self._replace,
            "safe": Safe.of,
            "string": self.text,
            "sum": self._sum,
            "tojson": self._tojson,
        }
        self.filters = {name: self._filter(name, f) for name, f in self.filters.items()}
        self.filters |= {"_step": self._step, "_concat": self._concat, "_measured": self._measured}
        self.tests |= {name: self._test(self.tests[name]) for name in _COMPARING_TESTS}
        self.concat, self.finalize = self._joined, self.text

    def compile_source(self, source: str) -> jinja2.Template:
        """Compiles a template with its work counted."""
        self.begin(len(source))
        tree = Instrument().visit(self.parse(source))
        tree.set_environment(self)
        code = self.compile(tree)
        return jinja2.Template.from_code(self, code, self.make_globals(None))

    def begin(self, size: int) -> None:
        """Begins a rendering of messages of `size` characters."""
        self.generations = 0
        self._budget.begin(size)

    def check_size(self, size: int) -> None:
        """Raises TooMuch if a text of `size` characters is too large."""
        self._budget.spend_text(size)

    # What the instrumented syntax calls (data/text/template_syntax.py).

    @jinja2.pass_context  # or Jinja would evaluate it once, at compile time
    def _step(self, context, value):
        self._budget.spend(1)
        return value

    def _measured(self, value):
        """A value that is compared or looked up, after counting all that it contains: lists that
        share sublists may be exponentially large."""
        if isinstance(value, Mapping | list | tuple | KeysView | ValuesView | ItemsView):
            self.sources_in(value)
        return value

    def _concat(self, values) -> Tracked:
        return self._joined(map(self.text, values))

    def _test(self, run):
        @functools.wraps(run)
        def tested(*args):
            return run(*map(self._measured, args))

        return tested

    def getitem(self, obj: Any, argument: Any) -> Any:
        return super().getitem(obj, self._measured(argument))

    # Text and its sources.

    def sources_in(self, value: Any) -> set[Source]:
        """The sources of all texts in a value."""
        result, stack = set(), [value]
        while stack:
            value = stack.pop()
            if isinstance(value, str):
                self._budget.spend(1 + len(value) // CHARACTERS_A_STEP)
                result |= sources(value)
            elif isinstance(value, Mapping):
                stack += [*value.keys(), *value.values()]
            elif isinstance(value, list | tuple | KeysView | ValuesView | ItemsView):
                stack += value
            self._budget.spend(1)
        return result

    def text(self, value: Any) -> str:
        """str(value) as Jinja writes it."""
        if isinstance(value, str):
            return value
        value_sources = self.sources_in(value)
        return smear(str(value), value_sources) if value_sources else str(value)

    def _joined(self, parts) -> Tracked:
        parts = list(parts)
        self._budget.spend_text(sum(map(len, parts)))
        return concat(parts)

    def wrap_str_format(self, value: Any) -> Callable | None:
        owner, name = getattr(value, "__self__", None), getattr(value, "__name__", "")
        if not isinstance(owner, str) or name not in ("format", "format_map"):
            return None
        if name == "format":
            return lambda *args, **kwargs: self._format(owner, args, kwargs)
        return lambda values: self._format(owner, (), values)

    def _format(self, form, args, kwargs):
        """str.format."""
        self._budget.spend(len(form))
        formatter, parts, number = sandbox.SandboxedFormatter(self), [], 0
        for literal, name, spec, conversion in formatter.parse(form):
            parts.append(literal)
            if name is None:
                continue
            if not name or name[0] in ".[":
                name, number = f"{number}{name}", number + 1
            spec = spec or ""
            if "{" in spec or _WIDE.search(spec):
                raise TooMuch(f"it formats a value as {spec[:20]!r}")
            value, _ = formatter.get_field(name, args, kwargs)
            value_sources = self.sources_in(value)
            if conversion:
                value = smear(formatter.convert_field(value, conversion), value_sources)
            if spec:
                value = smear(format(_plain(value), spec), value_sources)
            parts.append(self.text(value))
        whole = self._joined(parts)
        return smear(whole, sources(form) | sources(whole)) if sources(form) else whole

    def _percent(self, form, values):
        """The operator % of text."""
        self._budget.spend(len(form))
        named = isinstance(values, Mapping)
        positional = iter(values if isinstance(values, tuple) else [values])
        parts, at = [], 0
        for match in _CONVERSION.finditer(form):
            parts.append(form[at : match.start()])
            at, key, spec = match.end(), match["key"], match["form"]
            if match["type"] == "%":
                parts.append("%")
                continue
            if match["type"] == "*" or _WIDE.search(spec):
                raise TooMuch(f"it formats a value as {match[0][:20]!r}")
            value = values[key] if key is not None else next(positional, _NONE_LEFT)
            if value is _NONE_LEFT:
                raise TypeError("not enough values for a format")
            if match["type"] == "s" and not spec:
                parts.append(self.text(value))
            else:
                text = f"%{spec}{match['type']}" % (_plain(value),)
                parts.append(smear(text, self.sources_in(value)))
        if not named and next(positional, _NONE_LEFT) is not _NONE_LEFT:
            raise TypeError("too many values for a format")
        return self._joined([*parts, form[at:]])

    # Operators and calls.

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self._budget.spend(1)
        if operator == "%" and isinstance(left, str):
            return self._percent(left, right)
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length()
            if operator in ("*", "**") and bits + right.bit_length() > _MAX_BITS:
                raise TooMuch("it computes with a number too large")
        elif operator == "*":
            for text, count in ((left, right), (right, left)):
                if isinstance(text, str | list | tuple) and isinstance(count, int):
                    self._budget.spend_text(len(text) * max(count, 0))
        return self._budget.charge(super().call_binop(context, operator, left, right))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        excluded = isinstance(obj, str) and attr in _EXCLUDED_METHODS
        return not excluded and super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Any, __obj: Any, *args, **kwargs) -> Any:
        __self._budget.spend(20)
        args = list(args)
        owner = getattr(__obj, "__self__", None)
        if __obj is dict or isinstance(owner, Mapping | list | tuple | runtime.LoopContext):
            __self._measured(args if isinstance(owner, runtime.LoopContext) else [owner, args])
        if isinstance(owner, str):
            __obj = getattr(as_tracked(owner), __obj.__name__)
            __self._before_method(owner, __obj.__name__, args, kwargs)
        return __self._budget.charge(super().call(__context, __obj, *args, **kwargs))

    def _before_method(self, owner, name, args, kwargs):
        """Takes the steps of a method of text, and checks the size of its result."""
        self._budget.spend(len(owner) // CHARACTERS_A_STEP)
        if name in _METHODS_WITH_WIDTH:
            self._budget.check_counts([*args, *kwargs.values()])
        if name in _METHODS_OF_PIECES:
            self._budget.spend(len(owner))
        elif name == "join" and args:
            args[0] = list(self._budget.counted(args[0]))
            size = sum(len(x) + len(owner) for x in args[0] if isinstance(x, str))
            self._budget.spend_text(size)
        elif name == "replace" and len(args) > 1:
            self._before_replace(owner, *args[:2])
        elif name == "expandtabs":
            width = next(iter([*args, *kwargs.values()]), 8)
            self._budget.spend_text(owner.count("\t") * width)

    def _before_replace(self, text, old, new):
        if isinstance(old, str) and isinstance(new, str):
            count = text.count(old)
            self._budget.spend_text(len(text) + count * len(new))
            self._budget.spend(count)

    # Filters.

    def _filter(self, name: str, run):
        """A filter with its work counted and its text tracked."""
        # Jinja's own arguments, such as the context, come first.
        first = int(getattr(run, "jinja_pass_arg", None) is not None)

        @functools.wraps(run)
        def filtered(*args, **kwargs):
            self._budget.spend(1)
            args = list(args)
            if len(args) > first and name in _OF_TEXT:
                args[first] = self.text(args[first])
            elif len(args) > first:
                args[first] = self._before_filter(name, args[first])
            if name == "attr":
                self._measured(args)
            if name in _WITH_COUNTS:
                self._check_widths(name, args[first], [*args[first + 1 :], *kwargs.values()])
            result = run(*args, **kwargs)
            if isinstance(result, str) and name not in _EXACT:
                result_sources = self.sources_in([*args[first:], *kwargs.values()])
                result = smear(result, result_sources) if result_sources else str(result)
            return self._budget.charge(result)

        return filtered

    def _before_filter(self, name, value):
        """The value of a filter that reads its characters or items one by one, or compares them."""
        if isinstance(value, str):
            self._budget.spend(len(value))
        elif name in _COMPARING:
            value = list(value) if isinstance(value, Iterator) else value
            self.sources_in(value)
        return value

    def _check_widths(self, name, text, values):
        """Raises TooMuch if the counts and widths in `values` make the result too large."""
        self._budget.check_counts(values)
        widths = [len(x) if isinstance(x, str) else x for x in values]
        widest = max((x for x in widths if isinstance(x, int)), default=0)
        if name == "indent":
            self._budget.spend_text((text.count("\n") + 1) * widest)
        elif name == "tojson" and widest > _MAX_INDENT:
            raise TooMuch(f"it indents JSON by {widest:,}")

    def _format_filter(self, value, *args, **kwargs):
        if args and kwargs:
            raise jinja2.TemplateRuntimeError("format takes values by place or by name")
        return self._percent(value, kwargs or args)

    @jinja2.pass_environment
    def _join(self, environment, value, d="", attribute=None):
        if attribute is not None:
            value = map(filters.make_attrgetter(self, attribute), value)
        parts = []
        for item in value:
            parts += [self.text(d), self.text(item)]
            self._budget.spend_text(len(parts[-1]))
        return self._joined(parts[1:])

    def _replace(self, text, old, new, count=None):
        old, new = self.text(old), self.text(new)
        self._before_replace(text, old, new)
        return as_tracked(text).replace(old, new, -1 if count is None else count)

    def _sum(self, items, attribute=None, start=0):
        if attribute is not None:
            items = map(filters.make_attrgetter(self, attribute), items)
        for item in items:
            start = self.call_binop(None, "+", start, item)
        return start

    def _tojson(self, value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        value_sources = self.sources_in(value)
        text = json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )
        return smear(text, value_sources) if value_sources else text


def _plain(value):
    """A value for Python's own formatting, which sees only text and numbers."""
    return str.__str__(value) if isinstance(value, Tracked) else value
