"""Chat templates of open models: Jinja programs that turn messages into text.

A prompt is the template with its generation prompt, and nothing more. Of a whole conversation
`ChatTemplate.conversation` also finds which text the assistant is to write: what `{% generation %}`
blocks mark, where the template has them; else, for each of its messages, from where the prompt for
it would have ended. The messages' text is tracked through the template
(data/text/tracked_text.py), so
what is rendered is exactly what `transformers` renders.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jinja2

from data.errors import DataError
from data.text.template_sandbox import GENERATION, Sandbox, TooMuch
from data.text.tracked_text import Source, as_tracked, track

# The turns of ChatML, for tokenizers that have no template (`python -m train.convert`).
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_MARKERS = ("<|im_start|>", "<|im_end|>")

# How a thought beside the content is called; templates read the first, gpt-oss' the second.
REASONING = ("reasoning_content", "thinking", "reasoning")
_TOOLS = Source(-1, "tools")
WHAT_TO_TYPE = (
    "Mark what the assistant writes with {% generation %} … {% endgeneration %} in a copy of the "
    "template, and import the model with --chat_template=FILE"
)


class TemplateError(DataError):
    """A template that does not parse, refuses the messages, or hides which text is whose."""

    def __init__(self, message, reason="chat_template"):
        super().__init__(message, reason)


class Rendered(NamedTuple):
    """A conversation as text.

    Attributes:
      text: the whole. content: (start, end) of what came from messages and tools, in characters.
      responses: (start, end) of what the assistant writes, without the token that ends the turn
        unless the template marks it ({% generation %}); none of a prompt. authors: the message
        that each response is of, by its number, -1 where nobody knows. limits: where the text of
        another message begins after each.
      marked: the template has {% generation %} blocks, so `responses` are exact.
      line: (place in the text) -> the template's line that wrote it, for errors.
    """

    text: str
    content: list[tuple[int, int]]
    responses: Sequence[tuple[int, int]] = ()
    authors: Sequence[int] = ()
    limits: Sequence[int | None] = ()
    marked: bool = False
    line: Callable[[int], str] = str


class _Page(NamedTuple):
    """Text, its (start, end, Source), and (where a piece of it begins, line of Jinja's code)."""

    text: str
    spans: tuple
    lines: list[tuple[int, int]]
    parts: bool  # contents were given as lists of parts


def _raise(message):
    raise jinja2.TemplateError(message)


class ChatTemplate:
    """A compiled template, run in a sandbox (data/text/template_sandbox.py).

    Args:
      source: Jinja text. variables: what it may name, such as bos_token.
      date: ISO date that `strftime_now` tells; "" is the moment of rendering. Training text must
        be the same when a run is resumed on another day.
    """

    def __init__(self, source: str, variables: Mapping[str, str], date: str = ""):
        self.source, self._variables, self._date = source, dict(variables), date
        self._sandbox = Sandbox()
        self._sandbox.globals |= {"raise_exception": _raise, "strftime_now": self._strftime}
        try:
            self._template = self._sandbox.compile_source(source)
        except Exception as e:  # whatever Jinja or Python make of text that is no template
            line = f" at line {e.lineno}" if isinstance(e, jinja2.TemplateSyntaxError) else ""
            raise TemplateError(f"the chat template does not parse{line}: {_said(e)}") from e

    def _strftime(self, form: str) -> str:
        day = datetime.datetime.fromisoformat(self._date) if self._date else datetime.datetime.now()
        return day.strftime(form)

    def text(self, messages, prompt: bool, tools=None) -> str:
        """Messages as text; `prompt` ends it where the assistant is to go on.

        Raises:
          TemplateError: the template refuses them.
        """
        return self._page(messages, prompt, tools).text

    def plain(self, messages: Sequence[Mapping], tools=None, prompt: bool = False) -> Rendered:
        """A conversation as text; `prompt`: one that awaits an answer.

        Raises:
          TemplateError: the template refuses the messages, or leaves one out that was to be read.
        """
        page = self._complete_page(messages, prompt, tools)
        return Rendered(page.text, _content(page))

    def conversation(self, messages: Sequence[Mapping], tools=None) -> Rendered:
        """A whole conversation as text, and which of it is the assistant's.

        Raises:
          TemplateError: the template refuses the messages, leaves one out, or leaves it open where
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
        places = [self._place(page, messages, i) for i in authors]
        starts = [
            self._answer_start(page, messages, tools, i, place)
            for i, place in zip(authors, places, strict=True)
        ]
        responses = [(start, end) for start, (_, end) in zip(starts, places, strict=True)]
        limits = [
            min((a for a, _, s in page.spans if a >= end and s.message != i), default=None)
            for i, (_, end) in zip(authors, responses, strict=True)
        ]
        return Rendered(page.text, _content(page), responses, authors, limits, False, line)

    # Rendering.

    def _page(self, messages, prompt: bool, tools=None, parts: bool = False) -> _Page:
        """The page that the template renders; `parts` passes contents as lists of parts."""
        pieces, lines, length = [], [], 0
        size = sum(400 + _length(m) for m in messages) + _length(tools)
        try:
            self._sandbox.begin(size)
            context = self._template.new_context(
                dict(
                    self._variables,
                    messages=[_shown(i, message, parts) for i, message in enumerate(messages)],
                    tools=track(tools, _TOOLS) if tools else None,
                    documents=None,
                    add_generation_prompt=prompt,
                )
            )
            stream = self._template.root_render_func(context)
            for piece in stream:
                lines.append((length, stream.gi_frame.f_lineno))
                pieces.append(piece)
                length += len(piece)
                self._sandbox.fits(length)
            whole = as_tracked(self._sandbox.concat(pieces))
            whole.encode()  # half a surrogate pair is no text
        except Exception as e:  # a template is a program: anything may come out of it
            line = self._line_of_error(e)
            where = f" at its line {line}" if line else ""
            raise TemplateError(
                f"the model's chat template refuses these messages{where}: {_said(e)}"
            ) from e
        return _Page(str.__str__(whole), whole._spans, lines, parts)

    def _line_of_error(self, error) -> int:
        line, trace = 0, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == "<template>":
                line = self._template.get_corresponding_lineno(trace.tb_lineno)
            trace = trace.tb_next
        return line

    def _line_at(self, page: _Page, place: int) -> str:
        """The template's line that wrote a place of the text, and what it says."""
        code = next((line for at, line in reversed(page.lines) if at <= place), 0)
        number = self._template.get_corresponding_lineno(code)
        lines = self.source.splitlines()[number - 1 : number] or [""]
        return f"line {number} of the model's chat template ({lines[0].strip()[:60]})"

    def _complete_page(self, messages, prompt: bool, tools) -> _Page:
        """A page on which all that the messages say is seen.

        Templates for pictures take lists of parts alone, and write nothing of a plain text.
        """
        try:
            page = self._page(messages, prompt, tools)
            missing = self._missing(page, messages, prompt, tools)
        except TemplateError as e:
            page, missing = None, e
        if missing is None:
            return page
        if isinstance(missing.__cause__, TooMuch):
            raise missing
        try:
            page = self._page(messages, prompt, tools, parts=True)
            # Others would write a list as Python does.
            shown = [
                page.text[a:b] in messages[s.message]["content"]
                for a, b, s in page.spans
                if s.field == "content"
            ]
            if all(shown):
                of_parts = self._missing(page, messages, prompt, tools)
                if of_parts is None:
                    return page
                missing = of_parts if shown else missing
        except TemplateError:
            pass
        raise missing

    def _missing(self, page: _Page, messages, prompt: bool, tools) -> TemplateError | None:
        """An error if the text does not depend on something that a message says, else None. Names
        and ids of calls only say which call a result is of, and many templates go by the order.
        """
        seen = {source for _, _, source in page.spans}

        def depends(i, **changed):
            other = [*messages[:i], messages[i] | changed, *messages[i + 1 :]]
            try:
                return self._page(other, prompt, tools, page.parts).text != page.text
            except TemplateError:
                return True

        def no_place(what, where):
            return TemplateError(
                f"the model's chat template has no place for {what}{where}, so that it would be "
                "lost. Leave it out of the data, or import the model with --chat_template=FILE, a "
                "template that has one"
            )

        if tools and _TOOLS not in seen:
            return no_place("the record's tools", "")
        for i, message in enumerate(messages):
            role, content = message["role"], message["content"]
            where = f" (messages[{i}])"
            answer = role == "assistant"
            if answer and prompt:
                continue  # templates may leave out of the past what they like
            unseen = content.strip() and Source(i, "content") not in seen
            if unseen and not depends(i, content=content + " again"):
                return no_place(f"{'an' if answer else 'a'} {role} message", where)
            if message.get("tool_calls") and Source(i, "tool_calls") not in seen:
                return no_place("tool calls", where)
            if (reasoning(message) or "").strip() and Source(i, "reasoning") not in seen:
                # Thoughts of the past may be left out, if they are shown while they are new.
                new = self._page(messages[: i + 1], False, tools, page.parts)
                if Source(i, "reasoning") not in {source for _, _, source in new.spans}:
                    return no_place("a message's reasoning", where)
        return None

    # Which text is the assistant's.

    def _place(self, page: _Page, messages, i: int) -> tuple[int, int]:
        """(start, end) of what the template wrote of message i."""
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

    def _answer_start(self, page: _Page, messages, tools, i: int, place) -> int:
        """Where answer i begins: where the prompt for it would have ended."""
        start, _ = place
        try:
            prompt = self._page(messages[:i], True, tools, page.parts)
        except TemplateError:
            return start  # nothing is asked in this way: what it says itself is the answer
        if page.text.startswith(prompt.text) and len(prompt.text) <= start:
            return len(prompt.text)
        # Earlier turns are shown otherwise than they were asked: thoughts are left out, say. What
        # stands before the answer is compared with what would stand before it when it is asked.
        before = max((b for _, b, s in page.spans if b <= start and s.message != i), default=0)
        header = page.text[before:start]
        asked = prompt.text[max((b for _, b, _ in prompt.spans), default=0) :]
        if (at := header.find(asked)) >= 0:
            return before + at + len(asked)
        if header in asked:
            return start
        same = next(n for n, (x, y) in enumerate(zip(header, asked)) if x != y)
        # Of a sign that they share the beginning of, they share nothing.
        same = 1 + max(header.rfind(c, 0, same) for c in "\n>]|")
        if header.strip() and not header[:same].strip():
            raise TemplateError(
                f"{self._line_at(page, start)} shows an answer otherwise than it asks for one "
                f"(after {header[-40:]!r}, and not {asked[-40:]!r}), so the tokens to learn from "
                f"cannot be told. {WHAT_TO_TYPE}"
            )
        # It asks for more than it shows (a thought is opened): the answer begins at its own place,
        # which for a tool call is the sign that the template puts before it.
        first = min((a, s.field) for a, _, s in page.spans if s.message == i)[1]
        return start if first == "content" else before + same


def reasoning(message: Mapping) -> str | None:
    """The thought beside a message's content; None if there is none."""
    return next((message[key] for key in REASONING if message.get(key) is not None), None)


def _shown(i: int, message: Mapping, parts: bool) -> dict:
    """Message i as the template sees it, its text tracked."""
    shown = {}
    for key, value in message.items():
        field = "reasoning" if key in REASONING else key
        if key not in ("role", "weight"):
            shown[key] = track(value, Source(i, field))
    if parts:
        shown["content"] = [{"type": "text", "text": shown["content"]}]
    if (thought := reasoning(message)) is not None:
        thought = track(thought, Source(i, "reasoning"))
        shown = {"thinking": thought} | shown | {"reasoning_content": thought}
    return {"role": message["role"]} | shown


def _length(value) -> int:
    """Characters of a value of JSON, roughly."""
    if isinstance(value, Mapping):
        return sum(_length(k) + _length(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return sum(map(_length, value))
    return len(value) if isinstance(value, str) else 8


def _content(page: _Page) -> list[tuple[int, int]]:
    return sorted({(a, b) for a, b, s in page.spans if s.field != GENERATION})


def _author(page: _Page, messages, span) -> int:
    """The message that a {% generation %} block is of: the assistant's that it has most of, or the
    one last shown before it."""
    start, end = span
    of = [(a, b, s.message) for a, b, s in page.spans if s.field != GENERATION and s.message >= 0]
    of = [(a, b, i) for a, b, i in of if messages[i]["role"] == "assistant"]
    inside = [(min(b, end) - max(a, start), i) for a, b, i in of if a <= end and start <= b]
    if inside:
        return max(inside)[1]
    before = [i for _, b, i in of if b <= start]
    after = [i for a, _, i in of if a >= end]
    return max(before, default=min(after, default=-1))


def _said(error: Exception) -> str:
    """A line of what an error says."""
    said = error.msg if isinstance(error, SyntaxError) else str(error)  # that names Jinja's code
    said = said.replace("data.text.tracked_text.Tracked object", "str object")
    return next(iter(said.splitlines()), "")[:300] or type(error).__name__
