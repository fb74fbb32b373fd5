"""Changes to the syntax of chat templates before they are compiled.

`Generation` adds the tag {% generation %}. `Instrument` inserts filters of the sandbox
(data/text/template_sandbox.py): `_step` in every loop, `_measured` where values are compared or
looked up, and `_concat` for `~`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import ext, nodes, visitor
from jinja2.parser import Parser

from data.text.tracked_text import Source, Tracked, as_tracked

if TYPE_CHECKING:
    from data.text.template_sandbox import Sandbox

GENERATION = "generation"


class Generation(ext.Extension):
    """`{% generation %} … {% endgeneration %}`: text that the assistant writes."""

    environment: Sandbox
    tags = {"generation"}  # noqa: RUF012, Jinja's own form

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        self.environment.marks = True
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller):
        text = as_tracked(caller())
        self.environment.generations += 1
        whole = (0, len(text), Source(self.environment.generations, GENERATION))
        return Tracked(text, [*text._spans, whole])


class Instrument(visitor.NodeTransformer):
    """Inserts a step into every loop's body and condition, a count where values are compared or
    looked up, and a tracked `~`."""

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        if not _is_constant(node.expr):  # a comparison with a constant ends soon
            for operand in node.ops:
                if not _is_constant(operand.expr):
                    operand.expr = _measured(operand.expr)
                    node.expr = _measured(node.expr)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = _measured(node.key)
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        step = nodes.Filter(nodes.Const(True), "_step", [], [], None, None)
        step.set_lineno(node.lineno)
        node.body.insert(0, nodes.ExprStmt(step).set_lineno(node.lineno))
        if node.test is not None:
            node.test = nodes.And(step, node.test)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return nodes.Filter(nodes.List(node.nodes), "_concat", [], [], None, None).set_lineno(
            node.lineno
        )


def _measured(node):
    if _is_constant(node):
        return node
    return nodes.Filter(node, "_measured", [], [], None, None).set_lineno(node.lineno)


def _is_constant(node) -> bool:
    try:
        node.as_const()
    except nodes.Impossible:
        return False
    return True
