"""Where chat templates run: Jinja's sandbox, with text that is tracked, and work that is counted.

A template is code from elsewhere. Every loop body, call, filter and operator costs a step, and text
by its length; a template that takes more than it may, in steps, in the size of one value or in
processor time, is stopped with an error. What it computes does not change.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Iterator, Mapping, MappingView

import jinja2
from jinja2 import ext, filters, nodes, runtime, sandbox, visitor

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

GENERATION = "generation"

# A template takes a few hundred steps a message. These take about a second, and some more are given
# for each character of the messages.
_STEPS = 1_000_000
_SECONDS = 20.0
# Characters of one text, or items of one list: so many, and a few times what the messages hold.
_SIZE = 4_000_000
_CHARACTERS_A_STEP = 16
# Widths, counts and repetitions that a filter or a method of text may be given.
_COUNT = 100_000
_INDENT = 64  # of JSON
_BITS = 4096  # of a number

# Filters whose text already says where it came from, as they cut and join `Tracked` itself, or
# give back one of the values that they were given.
_EXACT = {
    *("attr", "capitalize", "d", "default", "e", "escape", "first", "forceescape", "format"),
    *("join", "last", "lower", "max", "min", "replace", "reverse", "safe", "string", "sum"),
    *("tojson", "trim", "upper"),
}
# Filters that make text of what they are given.
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
# What no template of a chat needs: not the same twice, or of a time that grows with the square.
_LEFT_OUT = ("pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr")
_METHODS_WITH_WIDTH = {"center", "expandtabs", "ljust", "rjust", "zfill"}
_METHODS_OF_PIECES = {"rsplit", "split", "splitlines"}
_METHODS_LEFT_OUT = ("encode", "maketrans", "translate")

_CONVERSION = re.compile(r"%(?:\((?P<key>[^)]*)\))?(?P<form>[#0\- +]*[\d.]*)(?P<type>.)", re.S)
_WIDE = re.compile(r"\d{6}")
_NONE_LEFT = object()


class TooMuch(jinja2.TemplateRuntimeError):
    """A template that takes more time or memory than a conversation can need."""


class _Generation(ext.Extension):
    """`{% generation %} … {% endgeneration %}`: what the assistant writes."""

    tags = {"generation"}  # noqa: RUF012, Jinja's own form

    def parse(self, parser):
        line = next(parser.stream).lineno
        self.environment.marks = True
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller):
        text = as_tracked(caller())
        self.environment.generations += 1
        whole = (0, len(text), Source(self.environment.generations, GENERATION))
        return Tracked(text, [*text._spans, whole])


def _is_constant(node) -> bool:
    try:
        node.as_const()
    except nodes.Impossible:
        return False
    return True


class _Counting(visitor.NodeTransformer):
    """Puts a step into every loop's body and condition, `~` where it is tracked, and a count of
    what is compared or looked up."""

    @staticmethod
    def _measured(node):
        if _is_constant(node):
            return node
        return nodes.Filter(node, "_measured", [], [], None, None).set_lineno(node.lineno)

    def visit_Compare(self, node):
        self.generic_visit(node)
        if not _is_constant(node.expr):  # what is compared with a constant soon differs
            for operand in node.ops:
                if not _is_constant(operand.expr):
                    operand.expr = self._measured(operand.expr)
                    node.expr = self._measured(node.expr)
        return node

    def visit_Pair(self, node):
        self.generic_visit(node)
        node.key = self._measured(node.key)
        return node

    def visit_For(self, node):
        self.generic_visit(node)
        step = nodes.Filter(nodes.Const(True), "_step", [], [], None, None)
        step.set_lineno(node.lineno)
        node.body.insert(0, nodes.ExprStmt(step).set_lineno(node.lineno))
        if node.test is not None:
            node.test = nodes.And(step, node.test)
        return node

    def visit_Concat(self, node):
        self.generic_visit(node)
        return nodes.Filter(nodes.List(node.nodes), "_concat", [], [], None, None).set_lineno(
            node.lineno
        )


class Sandbox(sandbox.ImmutableSandboxedEnvironment):
    """Jinja as `transformers` sets it up for chat templates.

    Attributes:
      marks: whether the template has {% generation %} blocks.
    """

    marks = False
    intercepted_binops = frozenset(["+", "*", "%", "**"])

    def __init__(self):
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, ext.loopcontrols]
        )
        self.begin(0)
        for name in _LEFT_OUT:
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
        self.filters |= {"_step": self._step, "_concat": self._concat, "_measured": self._whole}
        self.tests |= {name: self._test(self.tests[name]) for name in _COMPARING_TESTS}
        self.concat, self.finalize = self._joined, self.text

    def compile_source(self, source: str) -> jinja2.Template:
        self.begin(len(source))
        tree = _Counting().visit(self.parse(source))
        tree.set_environment(self)
        code = self.compile(tree)
        return jinja2.Template.from_code(self, code, self.make_globals(None))

    # What a rendering may take.

    def begin(self, size: int) -> None:
        """A rendering of messages of `size` characters begins."""
        self.generations = 0
        self._left = _STEPS + 8 * size
        self._longest = _SIZE + 8 * size
        self._pause = self._left
        self._until = time.thread_time() + _SECONDS

    def spend(self, steps: int) -> None:
        self._left -= steps
        if self._left <= self._pause:
            self._pause = self._left - 100
            if self._left <= 0 or time.thread_time() > self._until:
                raise TooMuch("it takes too many steps: its loops or calls may have no end")

    def fits(self, size: int) -> None:
        if size > self._longest:
            raise TooMuch(f"it makes a text or list of more than {self._longest:,} characters")
        self.spend(1 + size // _CHARACTERS_A_STEP)

    def _charged(self, value):
        if isinstance(value, str | list | tuple | dict):
            self.fits(len(value))
            self.spend(0 if isinstance(value, str) else len(value))
        elif isinstance(value, Iterator):
            return self._counted(value)
        return value

    def _counted(self, items):
        for item in items:
            self.spend(1)
            yield item

    @staticmethod
    def _count(values) -> None:
        for value in values:
            if isinstance(value, int) and abs(value) > _COUNT:
                raise TooMuch(f"it asks for {value:,} of something at once")

    @jinja2.pass_context  # or Jinja would run it once, when it compiles
    def _step(self, context, value):
        self.spend(1)
        return value

    def _whole(self, value):
        """A value that is compared or looked up: lists in lists that share them have no end."""
        if isinstance(value, Mapping | list | tuple | MappingView):
            self.sources_in(value)
        return value

    def _test(self, run):
        @functools.wraps(run)
        def tested(*args):
            return run(*map(self._whole, args))

        return tested

    def getitem(self, obj, argument):
        return super().getitem(obj, self._whole(argument))

    # Text, and where it came from.

    def sources_in(self, value) -> set[Source]:
        found, stack = set(), [value]
        while stack:
            value = stack.pop()
            if isinstance(value, str):
                self.spend(1 + len(value) // _CHARACTERS_A_STEP)
                found |= sources(value)
            elif isinstance(value, Mapping):
                stack += [*value.keys(), *value.values()]
            elif isinstance(value, list | tuple | MappingView):
                stack += value
            self.spend(1)
        return found

    def text(self, value) -> str:
        """str(value) as Jinja writes it."""
        if isinstance(value, str):
            return value
        found = self.sources_in(value)
        return smear(str(value), found) if found else str(value)

    def _joined(self, parts) -> Tracked:
        parts = list(parts)
        self.fits(sum(map(len, parts)))
        return concat(parts)

    def _concat(self, values) -> Tracked:
        return self._joined(map(self.text, values))

    def wrap_str_format(self, value):
        owner, name = getattr(value, "__self__", None), getattr(value, "__name__", "")
        if not isinstance(owner, str) or name not in ("format", "format_map"):
            return None
        if name == "format":
            return lambda *args, **kwargs: self._format(owner, args, kwargs)
        return lambda values: self._format(owner, (), values)

    def _format(self, form, args, kwargs):
        self.spend(len(form))
        inside, parts, number = sandbox.SandboxedFormatter(self), [], 0
        for literal, name, spec, conversion in inside.parse(form):
            parts.append(literal)
            if name is None:
                continue
            if not name or name[0] in ".[":
                name, number = f"{number}{name}", number + 1
            if "{" in spec or _WIDE.search(spec):
                raise TooMuch(f"it formats a value as {spec[:20]!r}")
            value, _ = inside.get_field(name, args, kwargs)
            found = self.sources_in(value)
            if conversion:
                value = smear(inside.convert_field(value, conversion), found)
            if spec:
                value = smear(format(_plain(value), spec), found)
            parts.append(self.text(value))
        whole = self._joined(parts)
        return smear(whole, sources(form) | sources(whole)) if sources(form) else whole

    def _percent(self, form, values):
        self.spend(len(form))
        named = isinstance(values, Mapping)
        given = iter(values if isinstance(values, tuple) else [values])
        parts, at = [], 0
        for match in _CONVERSION.finditer(form):
            parts.append(form[at : match.start()])
            at, key, spec = match.end(), match["key"], match["form"]
            if match["type"] == "%":
                parts.append("%")
                continue
            if match["type"] == "*" or _WIDE.search(spec):
                raise TooMuch(f"it formats a value as {match[0][:20]!r}")
            value = values[key] if key is not None else next(given, _NONE_LEFT)
            if value is _NONE_LEFT:
                raise TypeError("not enough values for a format")
            if match["type"] == "s" and not spec:
                parts.append(self.text(value))
            else:
                one = f"%{spec}{match['type']}" % (_plain(value),)
                parts.append(smear(one, self.sources_in(value)))
        if not named and next(given, _NONE_LEFT) is not _NONE_LEFT:
            raise TypeError("too many values for a format")
        return self._joined([*parts, form[at:]])

    # Operators, calls and filters.

    def call_binop(self, context, operator, left, right):
        self.spend(1)
        if operator == "%" and isinstance(left, str):
            return self._percent(left, right)
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length()
            if operator in ("*", "**") and bits + right.bit_length() > _BITS:
                raise TooMuch("it computes with a number too large")
        elif operator == "*":
            for text, count in ((left, right), (right, left)):
                if isinstance(text, str | list | tuple) and isinstance(count, int):
                    self.fits(len(text) * max(count, 0))
        return self._charged(super().call_binop(context, operator, left, right))

    def is_safe_attribute(self, obj, attr, value):
        left_out = isinstance(obj, str) and attr in _METHODS_LEFT_OUT
        return not left_out and super().is_safe_attribute(obj, attr, value)

    def call(__self, __context, __obj, *args, **kwargs):
        __self.spend(20)
        args = list(args)
        owner = getattr(__obj, "__self__", None)
        if __obj is dict or isinstance(owner, Mapping | list | tuple | runtime.LoopContext):
            __self._whole(args if isinstance(owner, runtime.LoopContext) else [owner, args])
        if isinstance(owner, str):
            __obj = getattr(as_tracked(owner), __obj.__name__)
            __self._before_method(owner, __obj.__name__, args, kwargs)
        return __self._charged(super().call(__context, __obj, *args, **kwargs))

    def _before_method(self, owner, name, args, kwargs):
        self.spend(len(owner) // _CHARACTERS_A_STEP)
        if name in _METHODS_WITH_WIDTH:
            self._count([*args, *kwargs.values()])
        if name in _METHODS_OF_PIECES:
            self.spend(len(owner))
        elif name == "join" and args:
            args[0] = list(self._counted(args[0]))
            self.fits(sum(len(x) + len(owner) for x in args[0] if isinstance(x, str)))
        elif name == "replace" and len(args) > 1:
            self._fits_replaced(owner, *args[:2])
        elif name == "expandtabs":
            width = next(iter([*args, *kwargs.values()]), 8)
            self.fits(owner.count("\t") * width)

    def _fits_replaced(self, text, old, new):
        if isinstance(old, str) and isinstance(new, str):
            count = text.count(old)
            self.fits(len(text) + count * len(new))
            self.spend(count)

    def _fits_filtered(self, name, text, given):
        self._count(given)
        widths = [len(x) if isinstance(x, str) else x for x in given]
        widest = max((x for x in widths if isinstance(x, int)), default=0)
        if name == "indent":
            self.fits((text.count("\n") + 1) * widest)
        elif name == "tojson" and widest > _INDENT:
            raise TooMuch(f"it indents JSON by {widest:,}")

    def _measured(self, name, value):
        """The value of a filter that reads its characters or items one by one, or compares them."""
        if isinstance(value, str):
            self.spend(len(value))
        elif name in _COMPARING:
            value = list(value) if isinstance(value, Iterator) else value
            self.sources_in(value)
        return value

    def _filter(self, name: str, run):
        """A filter with its work counted, and its text tracked."""
        # Jinja's own arguments come first: the context, say.
        first = int(getattr(run, "jinja_pass_arg", None) is not None)

        @functools.wraps(run)
        def filtered(*args, **kwargs):
            self.spend(1)
            args = list(args)
            if len(args) > first and name in _OF_TEXT:
                args[first] = self.text(args[first])
            elif len(args) > first:
                args[first] = self._measured(name, args[first])
            if name == "attr":
                self._whole(args)
            if name in _WITH_COUNTS:
                self._fits_filtered(name, args[first], [*args[first + 1 :], *kwargs.values()])
            result = run(*args, **kwargs)
            if isinstance(result, str) and name not in _EXACT:
                found = self.sources_in([*args[first:], *kwargs.values()])
                result = smear(result, found) if found else str(result)
            return self._charged(result)

        return filtered

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
            self.fits(len(parts[-1]))
        return self._joined(parts[1:])

    def _replace(self, text, old, new, count=None):
        old, new = self.text(old), self.text(new)
        self._fits_replaced(text, old, new)
        return as_tracked(text).replace(old, new, -1 if count is None else count)

    def _sum(self, items, attribute=None, start=0):
        if attribute is not None:
            items = map(filters.make_attrgetter(self, attribute), items)
        for item in items:
            start = self.call_binop(None, "+", start, item)
        return start

    def _tojson(self, value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        found = self.sources_in(value)
        text = json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )
        return smear(text, found) if found else text


def _plain(value):
    """A value for Python's own formatting, which reads no further than text and numbers."""
    return str.__str__(value) if isinstance(value, Tracked) else value
