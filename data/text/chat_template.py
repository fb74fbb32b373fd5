"""Chat templates of open models: Jinja programs that turn messages into text.

A prompt is the text with the template's generation prompt. For a whole conversation
`ChatTemplate.conversation` also finds the text that the assistant writes: the `{% generation %}`
blocks, where the template has them; else, for each of its messages, the text after the prompt for
it. The messages' text is tracked through the template (data/text/tracked_text.py), so the result is
exactly what `transformers` renders.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2

from data.errors import DataError
from data.schemas.messages import THOUGHTS
from data.text.template_budget import TooMuch
from data.text.template_sandbox import Sandbox
from data.text.template_syntax import GENERATION
from data.text.tracked_text import Source, as_tracked, track

# The template of ChatML, for tokenizers that have none (`python -m train.convert`).
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_MARKERS = ("<|im_start|>", "<|im_end|>")

_TOOLS = Source(-1, "tools")
WHAT_TO_TYPE = (
    "Mark what the assistant writes with {% generation %} … {% endgeneration %} in a copy of the "
    "template, and import the model with --chat_template=FILE"
)


class TemplateError(DataError):
    """A template does not parse, refuses the messages, or does not show who wrote which text."""

    def __init__(self, message: str, reason: str = "chat_template"):
        super().__init__(message, reason)


class Rendered(NamedTuple):
    """A conversation as text. Positions are in characters.

    Attributes:
      content: (start, end) of the text from messages and tools.
      responses: (start, end) of what the assistant writes, without the token that ends the turn
        unless the template marks it ({% generation %}); empty for a prompt.
      authors: the index of each response's message; -1 if unknown.
      limits: where the text of another message begins after each response.
      marked: the template has {% generation %} blocks, so `responses` are exact.
      line: (position) -> the template's line that wrote it, for errors.
    """

    text: str
    content: list[tuple[int, int]]
    responses: Sequence[tuple[int, int]] = ()
    authors: Sequence[int] = ()
    limits: Sequence[int | None] = ()
    marked: bool = False
    line: Callable[[int], str] = str


class _Page(NamedTuple):
    """Rendered text.

    Attributes:
      spans: (start, end, Source) of text from messages. lines: (start of a piece of the text, line
        of Jinja's code that wrote it). parts: whether contents were passed as lists of parts.
    """

    text: str
    spans: tuple
    lines: list[tuple[int, int]]
    parts: bool


def _raise(message):
    raise jinja2.TemplateError(message)


class ChatTemplate:
    """A compiled template, run in a sandbox (data/text/template_sandbox.py).

    Args:
      source: Jinja text. variables: what it may refer to, such as bos_token.
      date: the ISO date that `strftime_now` gives; "" is the time of rendering. Training text must
        be the same when a run is resumed on another day.
    """

    def __init__(self, source: str, variables: Mapping[str, str], date: str = ""):
        self.source, self._variables, self._date = source, dict(variables), date
        self._sandbox = Sandbox()
        self._sandbox.globals |= {"raise_exception": _raise, "strftime_now": self._strftime}
        try:
            self._template = self._sandbox.compile_source(source)
        except Exception as e:  # Jinja and Python raise anything for text that is no template
            line = f" at line {e.lineno}" if isinstance(e, jinja2.TemplateSyntaxError) else ""
            raise TemplateError(f"the chat template does not parse{line}: {_message(e)}") from e

    def _strftime(self, form: str) -> str:
        day = datetime.datetime.fromisoformat(self._date) if self._date else datetime.datetime.now()
        return day.strftime(form)

    def text(self, messages: Sequence[Mapping], prompt: bool, tools: list | None = None) -> str:
        """Messages as text; `prompt` appends the generation prompt.

        Raises:
          TemplateError: the template refuses them.
        """
        return self._page(messages, prompt, tools).text

    def plain(
        self, messages: Sequence[Mapping], tools: list | None = None, prompt: bool = False
    ) -> Rendered:
        """A conversation as text; `prompt` appends the generation prompt.

        Raises:
          TemplateError: the template refuses the messages, or leaves one out.
        """
        page = self._complete_page(messages, prompt, tools)
        return Rendered(page.text, _content(page))

    def conversation(self, messages: Sequence[Mapping], tools: list | None = None) -> Rendered:
        """A whole conversation as text, with the assistant's part of it.

        Raises:
          TemplateError: the template refuses the messages, leaves one out, or does not show where
            an answer begins.
        """
        page = self._complete_page(messages, False, tools)
        line = functools.partial(self._line_at, page)
        marked = [(a, b) for a, b, source in page.spans if source.field == GENERATION]
        if self._sandbox.marks:
            authors = [_author(page, messages, span) for span in marked]
            limits = [end for _, end in marked]
            return Rendered(page.text, _content(page), marked, authors, limits, True, line)
        authors = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        extents = [self._extent(page, messages, i) for i in authors]
        starts = [
            self._answer_start(page, messages, tools, i, start)
            for i, (start, _) in zip(authors, extents, strict=True)
        ]
        responses = [(start, end) for start, (_, end) in zip(starts, extents, strict=True)]
        limits = [
            min((a for a, _, s in page.spans if a >= end and s.message != i), default=None)
            for i, (_, end) in zip(authors, responses, strict=True)
        ]
        return Rendered(page.text, _content(page), responses, authors, limits, False, line)

    # Rendering.

    def _page(self, messages, prompt: bool, tools=None, parts: bool = False) -> _Page:
        """Renders the template; `parts` passes contents as lists of parts."""
        pieces, lines, length = [], [], 0
        size = sum(400 + _length(m) for m in messages) + _length(tools)
        try:
            self._sandbox.begin(size)
            context = self._template.new_context(
                dict(
                    self._variables,
                    messages=[_tracked(i, message, parts) for i, message in enumerate(messages)],
                    tools=track(tools, _TOOLS) if tools else None,
                    documents=None,
                    add_generation_prompt=prompt,
                )
            )
            stream: Any = self._template.root_render_func(context)
            for piece in stream:
                lines.append((length, stream.gi_frame.f_lineno))
                pieces.append(piece)
                length += len(piece)
                self._sandbox.check_size(length)
            whole = as_tracked(self._sandbox.concat(pieces))
            whole.encode()  # raises on a lone surrogate
        except Exception as e:  # a template is a program and may raise anything
            line = self._line_of_error(e)
            place = f" at its line {line}" if line else ""
            raise TemplateError(
                f"the model's chat template refuses these messages{place}: {_message(e)}"
            ) from e
        return _Page(str.__str__(whole), whole._spans, lines, parts)

    def _line_of_error(self, error: Exception) -> int:
        """The template's line that raised an error; 0 if none did."""
        line, trace = 0, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == "<template>":
                line = self._template.get_corresponding_lineno(trace.tb_lineno)
            trace = trace.tb_next
        return line

    def _line_at(self, page: _Page, position: int) -> str:
        """The template's line that wrote the text at a position, for errors."""
        code = next((line for start, line in reversed(page.lines) if start <= position), 0)
        number = self._template.get_corresponding_lineno(code)
        lines = self.source.splitlines()[number - 1 : number] or [""]
        return f"line {number} of the model's chat template ({lines[0].strip()[:60]})"

    def _complete_page(self, messages, prompt: bool, tools) -> _Page:
        """A page with everything that the messages say.

        Templates of models for images accept only lists of parts, and omit plain text.
        """
        try:
            page = self._page(messages, prompt, tools)
            missing = self._missing(page, messages, prompt, tools)
            if missing is None:
                return page
        except TemplateError as e:
            missing = e
        if isinstance(missing.__cause__, TooMuch):
            raise missing
        try:
            page = self._page(messages, prompt, tools, parts=True)
            # Other templates would write a list in Python's notation.
            unchanged = [
                page.text[a:b] in messages[s.message]["content"]
                for a, b, s in page.spans
                if s.field == "content"
            ]
            if all(unchanged):
                missing_parts = self._missing(page, messages, prompt, tools)
                if missing_parts is None:
                    return page
                missing = missing_parts if unchanged else missing
        except TemplateError:
            pass
        raise missing

    def _missing(self, page: _Page, messages, prompt: bool, tools) -> TemplateError | None:
        """An error if the text does not depend on something that a message says, else None. Names
        and ids of calls may be left out: they only link results to calls, and many templates rely
        on the order."""
        seen = {source for _, _, source in page.spans}

        def depends(i, **changed):
            other = [*messages[:i], messages[i] | changed, *messages[i + 1 :]]
            try:
                return self._page(other, prompt, tools, page.parts).text != page.text
            except TemplateError:
                return True

        def no_place(name, place):
            return TemplateError(
                f"the model's chat template has no place for {name}{place}, so that it would be "
                "lost. Leave it out of the data, or import the model with --chat_template=FILE, a "
                "template that has one"
            )

        if tools and _TOOLS not in seen:
            return no_place("the record's tools", "")
        for i, message in enumerate(messages):
            role, content = message["role"], message["content"]
            place = f" (messages[{i}])"
            answer = role == "assistant"
            if answer and prompt:
                continue  # a template may leave out parts of earlier answers
            unseen = content.strip() and Source(i, "content") not in seen
            if unseen and not depends(i, content=content + " again"):
                return no_place(f"{'an' if answer else 'a'} {role} message", place)
            if message.get("tool_calls") and Source(i, "tool_calls") not in seen:
                return no_place("tool calls", place)
            if (reasoning(message) or "").strip() and Source(i, "reasoning") not in seen:
                # Earlier thoughts may be left out if they are shown in the last turn.
                last = self._page(messages[: i + 1], False, tools, page.parts)
                if Source(i, "reasoning") not in {source for _, _, source in last.spans}:
                    return no_place("a message's reasoning", place)
        return None

    # The assistant's text.

    def _extent(self, page: _Page, messages, i: int) -> tuple[int, int]:
        """(start, end) of the text from message i."""
        own = [(a, b) for a, b, s in page.spans if s.message == i and s.field != GENERATION]
        if not own:
            raise TemplateError(
                f"the model's chat template changes what the assistant says in messages[{i}], or "
                f"writes nothing of it, so the tokens to learn from cannot be told. {WHAT_TO_TYPE}"
            )
        start, end = min(own)[0], max(b for _, b in own)
        between = [s for a, b, s in page.spans if s.message != i and start <= a < b <= end]
        if any(source.field != GENERATION for source in between):
            raise TemplateError(
                f"{self._line_at(page, start)} writes the answer of messages[{i}] together with "
                f"other messages, so the tokens to learn from cannot be told. {WHAT_TO_TYPE}"
            )
        return start, end

    def _answer_start(self, page: _Page, messages, tools, i: int, start: int) -> int:
        """The start of answer i, after the prompt for it. `start`: where its own text begins."""
        try:
            prompt = self._page(messages[:i], True, tools, page.parts)
        except TemplateError:
            return start  # the template has no such prompt: the answer is the message's own text
        if page.text.startswith(prompt.text) and len(prompt.text) <= start:
            return len(prompt.text)
        # Earlier turns are shown differently than in the prompt, for example without thoughts.
        # Compare the text before the answer with the end of the prompt.
        before = max((b for _, b, s in page.spans if b <= start and s.message != i), default=0)
        header = page.text[before:start]
        request = prompt.text[max((b for _, b, _ in prompt.spans), default=0) :]
        if (at := header.find(request)) >= 0:
            return before + at + len(request)
        if header in request:
            return start
        same = next(n for n, (x, y) in enumerate(zip(header, request)) if x != y)
        # A marker counts as shared only as a whole.
        same = 1 + max(header.rfind(c, 0, same) for c in "\n>]|")
        if header.strip() and not header[:same].strip():
            raise TemplateError(
                f"{self._line_at(page, start)} shows an answer otherwise than it asks for one "
                f"(after {header[-40:]!r}, and not {request[-40:]!r}), so the tokens to learn from "
                f"cannot be told. {WHAT_TO_TYPE}"
            )
        # The prompt ends with more than is shown, such as the marker that opens a thought: the
        # answer begins with its own text, or, for a tool call, with the template's marker for it.
        first = min((a, s.field) for a, _, s in page.spans if s.message == i)[1]
        return start if first == "content" else before + same


def reasoning(message: Mapping) -> str | None:
    """The thought beside a message's content; None if there is none."""
    return next((message[key] for key in THOUGHTS if message.get(key) is not None), None)


def _tracked(i: int, message: Mapping, parts: bool) -> dict:
    """Message i for the template, with its text tracked."""
    fields = {}
    for key, value in message.items():
        field = "reasoning" if key in THOUGHTS else key
        if key not in ("role", "weight"):
            fields[key] = track(value, Source(i, field))
    if parts:
        fields["content"] = [{"type": "text", "text": fields["content"]}]
    if (thought := reasoning(message)) is not None:
        thought = track(thought, Source(i, "reasoning"))
        fields = {"thinking": thought} | fields | {"reasoning_content": thought}
    return {"role": message["role"]} | fields


def _length(value) -> int:
    """The approximate number of characters of a JSON value."""
    if isinstance(value, Mapping):
        return sum(_length(k) + _length(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return sum(map(_length, value))
    return len(value) if isinstance(value, str) else 8


def _content(page: _Page) -> list[tuple[int, int]]:
    return sorted({(a, b) for a, b, s in page.spans if s.field != GENERATION})


def _author(page: _Page, messages, span) -> int:
    """The index of the message that a {% generation %} block belongs to: the assistant's message
    with the longest overlap, else the one last shown before it."""
    start, end = span
    answers = [
        (a, b, s.message)
        for a, b, s in page.spans
        if s.field != GENERATION and s.message >= 0 and messages[s.message]["role"] == "assistant"
    ]
    overlaps = [(min(b, end) - max(a, start), i) for a, b, i in answers if a <= end and start <= b]
    if overlaps:
        return max(overlaps)[1]
    before = [i for _, b, i in answers if b <= start]
    after = [i for a, _, i in answers if a >= end]
    return max(before, default=min(after, default=-1))


def _message(error: Exception) -> str:
    """The first line of an error's message."""
    # A SyntaxError as text names a line of Jinja's generated code.
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    message = message.replace("data.text.tracked_text.Tracked object", "str object")
    return next(iter(message.splitlines()), "")[:300] or type(error).__name__
