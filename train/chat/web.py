"""A conversation as a web page of this machine (train/chat/page/, loopback.py).

The page holds the conversation, and sends all of it with each question; an answer is a stream of
JSON lines. It is sampled as it is sent, so that a closed connection stops the sampling.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Annotated, Any, Literal

import msgspec

import loopback
from train.chat.answer import forgotten_mark, marks, scored
from train.chat.session import Session

try:
    from starlette.applications import Starlette
    from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    from train.chat.markdown import to_html
except ImportError as error:
    raise ValueError(f"a web page needs {error.name}; type: pip install '.[web]'") from None

INTERVAL = 0.05  # least seconds between two forms of an answer
PAGE = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}


class Message(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant"]
    content: str


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request for an answer.

    Attributes:
      model: the number of the model. messages: the conversation with it, a question last.
      draw: the number of the answer, as in `ChatModel.stream`.
    """

    model: Annotated[int, msgspec.Meta(ge=0, le=1)]
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    temperature: Annotated[float, msgspec.Meta(ge=0, le=100)]
    draw: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


def serve(session: Session, listening: socket.socket, notice: str = "") -> None:
    """Serves a session's models at a socket of `loopback.listen`, until Ctrl-C."""
    print(f"http://{loopback.HOST}:{listening.getsockname()[1]}  Ctrl-C ends", flush=True)
    loopback.serve(build(session, notice), listening)


def build(session: Session, notice: str = "") -> Starlette:
    """The application of the page.

    Args:
      session: for its models, its scorer and its settings to begin with; its turns are not used.
    """
    locks = [asyncio.Lock() for _ in session.models]  # a model writes one answer at a time

    async def about(_: Request) -> Response:
        return JSONResponse({
            "models": [model.name for model in session.models],
            "scorer": session.scorer.name if session.scorer else "",
            "temperature": session.temperature, "system": session.system, "notice": notice,
        })  # fmt: skip

    async def answer(request: Request) -> Response:
        too_long = "the conversation is too long; begin a new one"
        question = await loopback.read_json(request, Question, too_long)
        if question.model >= len(session.models) or question.messages[-1].role != "user":
            raise loopback.Refusal("there is no such model, or no question")
        messages = [msgspec.to_builtins(message) for message in question.messages]
        try:
            fit = session.models[question.model].fit
            ids, forgotten = await run_in_threadpool(fit, messages)
        except ValueError as error:
            raise loopback.Refusal(str(error)) from None
        lines = _lines(session, question, messages, ids)
        return _Stream(_events(locks[question.model], lines, forgotten))

    return loopback.application([
        *loopback.files("train.chat", PAGE),
        Route("/api/about", about),
        Route("/api/answer", answer, methods=["POST"]),
    ])  # fmt: skip


class _Stream(StreamingResponse):
    """JSON lines. Their generator is closed with the connection, which releases its lock."""

    def __init__(self, lines: AsyncGenerator[str, None]):
        super().__init__(lines, media_type="application/x-ndjson")
        self._lines = lines

    async def __call__(self, scope, receive, send) -> None:
        async with contextlib.aclosing(self._lines):
            await super().__call__(scope, receive, send)


def _line(**fields: Any) -> str:
    return json.dumps(fields) + "\n"


async def _events(
    lock: asyncio.Lock, lines: Iterator[str], forgotten: int
) -> AsyncGenerator[str, None]:
    if forgotten:
        yield _line(note=forgotten_mark(forgotten))
    if lock.locked():
        yield _line(waiting=True)
    async with lock:
        async for line in iterate_in_threadpool(lines):
            yield line


def _lines(session: Session, question: Question, messages: list[dict], ids: Any) -> Iterator[str]:
    """The forms of an answer as it grows, as JSON lines; the last with how it ended."""
    model, last = session.models[question.model], -INTERVAL
    for answer in model.stream(ids, question.draw, question.temperature):
        if answer.end and session.scorer:
            messages = [*messages, {"role": "assistant", "content": answer.text}]
            answer = scored(session.scorer, answer, messages)
        if answer.end or time.monotonic() - last >= INTERVAL:
            last = time.monotonic()
            ending = {"end": answer.end, "marks": marks(answer, model.limit)} if answer.end else {}
            yield _line(text=answer.text, html=to_html(answer.shown), **ending)
