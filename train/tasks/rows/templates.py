"""Jinja templates over the fields of a document, for tasks of one's own.

They run in the sandbox of chat templates (data/text/template_sandbox.py): a template that takes too
much is stopped.
"""

from __future__ import annotations

import re
from typing import Any

import jinja2

from data.errors import DataError
from data.text.template_sandbox import Sandbox
from suggestions import did_you_mean, nearest
from train.tasks.base import Document

_EXPRESSION = re.compile(r"\{\{((?:(?!\{\{|\}\}).)*)\}\}", re.DOTALL)


class Template:
    """A compiled template.

    Args:
      source: text such as "Question: {{question}}". key: its name in errors.

    Raises:
      DataError: it does not parse.
    """

    def __init__(self, source: str, key: str):
        self.source, self._key = source, key
        self._sandbox = Sandbox()
        self._sandbox.undefined = jinja2.StrictUndefined
        # As in lm-evaluation-harness.
        self._sandbox.keep_trailing_newline = True
        self._sandbox.trim_blocks = self._sandbox.lstrip_blocks = False
        expression = _EXPRESSION.fullmatch(source.strip())
        self._value = f"{{% set value = {expression[1]} %}}" if expression else ""
        try:
            self._template = self._sandbox.compile_source(self._value or source)
        except jinja2.TemplateSyntaxError as error:
            raise DataError(f"{key} is not a template: {error.message}: {source!r:.80}") from None

    def value(self, document: Document) -> Any:
        """The value of a template that is one expression, such as a list in "{{choices}}"; else
        `text`."""
        if not self._value:
            return self.text(document)

        def evaluate() -> Any:
            value = vars(self._template.make_module(dict(document)))["value"]
            return str(value) if isinstance(value, jinja2.Undefined) else value

        return _plain(self._run(evaluate, document))

    def text(self, document: Document) -> str:
        """The text for a document.

        Raises:
          DataError: it names a field that the document lacks, or fails.
        """
        if self._value:
            return str(self.value(document))
        return str.__str__(self._run(lambda: self._template.render(dict(document)), document))

    def _run(self, run: Any, document: Document) -> Any:
        self._sandbox.begin(sum(len(str(value)) for value in document.values()))
        try:
            return run()
        except jinja2.UndefinedError as error:
            name = re.search(r"'(\w+)' is undefined", str(error))
            near = did_you_mean(nearest(name[1], document)) if name else ""
            fields = ", ".join(key for key in document if key != "where")
            raise DataError(f"{self._key}: {error}{near} (the record has {fields})") from None
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise DataError(f"{self._key}: {error}: {self.source!r:.80}") from None


def _plain(value: Any) -> Any:
    """A value without the text that the sandbox tracks."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
