"""Chat templates of open models: Jinja programs that turn messages into text.

`ChatTemplate.conversation` renders once and finds, in the same pass, which characters came from
the messages (so that no text of theirs can pass for a control token) and which the model is to
write. Both are marked by characters that no message holds, put around every message's content,
and taken out again.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jinja2
from jinja2 import ext, nodes, sandbox

# The turns of ChatML, for tokenizers that have no template (`python -m train.convert`).
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_MARKERS = ("<|im_start|>", "<|im_end|>")

# Supplementary private use: characters that text hardly ever holds, and 65,534 to choose from.
_PRIVATE = range(0xF0000, 0xFFFFE)


class TemplateError(ValueError):
    """A template that does not parse, refuses the messages, or hides which text is whose."""


class Rendered(NamedTuple):
    """A conversation as text.

    Attributes:
      text: the whole. content: (start, end) of what came from messages, in characters.
      responses: (start, end) of what the assistant writes, one a turn of its own, without the
        token that ends the turn unless the template marks it ({% generation %}).
      marked: the template has {% generation %} blocks, so `responses` are exact.
    """

    text: str
    content: list[tuple[int, int]]
    responses: list[tuple[int, int]]
    marked: bool


class _Generation(ext.Extension):
    """`{% generation %} … {% endgeneration %}`: what the assistant writes."""

    tags = {"generation"}  # noqa: RUF012, Jinja's own form

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_mark", [nodes.ContextReference()])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _mark(self, context, caller):
        opening, closing = context.get("generation_marks", ("", ""))
        return opening + caller() + closing


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message):
    raise jinja2.TemplateError(message)


class ChatTemplate:
    """A compiled template, run in Jinja's sandbox: a template is code from elsewhere.

    Args:
      source: Jinja text. variables: what it may name, such as bos_token.
      date: ISO date that `strftime_now` tells; "" is the moment of rendering. Training text must
        be the same when a run is resumed on another day.
    """

    def __init__(self, source: str, variables: Mapping[str, str], date: str = ""):
        self.source, self._variables, self._date = source, dict(variables), date
        environment = sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, ext.loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals |= {"raise_exception": _raise, "strftime_now": self._strftime}
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as e:
            raise TemplateError(f"the chat template does not parse: {e}") from e

    def _strftime(self, form: str) -> str:
        day = datetime.datetime.fromisoformat(self._date) if self._date else datetime.datetime.now()
        return day.strftime(form)

    def text(self, messages, prompt: bool, marks=("", ""), tools=None) -> str:
        """Messages as text; `prompt` ends it where the assistant is to go on.

        Raises:
          TemplateError: the template refuses them.
        """
        try:
            return self._template.render(
                messages=[dict(m) for m in messages],
                add_generation_prompt=prompt,
                generation_marks=marks,
                tools=tools,
                documents=None,
                **self._variables,
            )
        except (jinja2.TemplateError, TypeError) as e:
            raise TemplateError(f"the model's chat template refuses these messages: {e}") from e

    def conversation(
        self, messages: Sequence[Mapping], prompt: bool = False, tools: list | None = None
    ) -> Rendered:
        """Text, and which characters of it are whose.

        Raises:
          TemplateError: the template refuses the messages, changes what they say, or leaves it
            open where an answer begins.
        """
        marks = _unused(6, (m["content"] for m in messages))
        marked, plain = [], [dict(m) for m in messages]
        for message in plain:
            core = message["content"].strip()  # a template may trim: marks stay inside that
            before, after = message["content"].split(core, 1) if core else ("", message["content"])
            pair = marks[:2] if message["role"] == "assistant" else marks[2:4]
            marked.append(message | {"content": before + pair[0] + core + pair[1] + after})
        raw = self.text(marked, prompt, marks[4:], tools)
        text, found = _take_out(raw, marks)
        if text != self.text(plain, prompt, tools=tools):
            raise TemplateError(
                "the model's chat template changes a message by what it says (it may look for tool "
                "calls or thoughts), so that its text cannot be told from the template's"
            )
        others, generations = _pairs(found, *marks[2:4]), _pairs(found, *marks[4:])
        answers = _answers([(mark == marks[0], at) for mark, at in found if mark in marks[:2]])
        wanted = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        if len(answers) != len(wanted):
            raise TemplateError(
                f"the model's chat template wrote {len(answers)} of {len(wanted)} answers, so it "
                "cannot be told which text is the assistant's"
            )
        content, responses = list(others), []
        for i, (start, end) in zip(wanted, answers):
            if generations and start is not None:
                content.append((start, end))
                continue
            before = max((b for _, b in content if b <= end), default=0)
            begin = self._answer_start(
                text, plain[:i], before, end if start is None else start, tools
            )
            responses.append((begin, end))
            content.append((begin if start is None else start, end))
        if generations:
            responses = generations
        return Rendered(text, sorted(content), responses, bool(generations))

    def _answer_start(self, text: str, before, after: int, limit: int, tools) -> int:
        """Where the assistant's turn begins: where the prompt for it would have ended.

        Args:
          before: the messages before it, whose text ends at `after`. limit: where it has begun.
        """
        prompt = self.text(before, True, tools=tools)
        if text.startswith(prompt) and len(prompt) <= limit:
            return len(prompt)
        # Earlier turns may be shown otherwise than they were asked (thoughts are left out).
        opening = prompt[len(_common(prompt, self.text(before, False, tools=tools))) :]
        at = text.find(opening, after, limit) if opening else -1
        if at < 0:
            raise TemplateError(
                "the model's chat template shows an answer otherwise than it asks for one, and has "
                "no {% generation %} block: the tokens to learn from cannot be told"
            )
        return at + len(opening)


def _unused(count: int, texts) -> list[str]:
    """Characters that stand in none of the texts."""
    present = set().union(*map(set, texts))
    return [c for c in map(chr, _PRIVATE[: count + len(present)]) if c not in present][:count]


def _take_out(text: str, marks):
    """The text without marks, and [(mark, where it stood)] in order."""
    kept, found, length = [], [], 0
    for c in text:
        if c in marks:
            found.append((c, length))
        else:
            kept.append(c)
            length += 1
    return "".join(kept), found


def _pairs(found, opening: str, closing: str):
    """(start, end) of each opening mark with the closing one that follows it."""
    places = [(mark, at) for mark, at in found if mark in (opening, closing)]
    if [mark for mark, _ in places] != [opening, closing] * (len(places) // 2):
        raise TemplateError(
            "the model's chat template takes a message apart, so that its text cannot be told from "
            "the template's"
        )
    return [(a, b) for (_, a), (_, b) in zip(places[::2], places[1::2])]


def _answers(places):
    """(start or None, end) of each answer. A template that parts thoughts from an answer may lose
    the mark before them; the one after the answer must be there.

    Args:
      places: [(whether the mark opens, where it stood)] in order.
    """
    found, start = [], None
    for opens, at in places:
        if not opens:
            found.append((start, at))
        start = at if opens else None
    return found


def _common(a: str, b: str) -> str:
    """The longest common beginning."""
    n = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return a[:n]
