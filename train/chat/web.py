"""A conversation as a web page of this machine (train/chat/page/).

The page holds the conversation, and sends all of it with each question; an answer is a stream of
JSON lines. It is sampled as it is sent, so that a closed connection stops the sampling. Only this
machine reaches the server. A foreign page in the same browser does not either: the name that the
browser asked for is checked, other types of body than JSON are refused, and no other origin is
allowed, so that a browser sends none of them a JSON body.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
import time
from collections.abc import AsyncGenerator, Iterator
from importlib import resources
from typing import Annotated, Any, Literal

import msgspec

from train.chat.answer import forgotten_mark, marks, scored
from train.chat.session import Session

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    from train.chat.markdown import to_html
except ImportError as error:
    raise ValueError(f"--web needs {error.name}; type: pip install '.[web]'") from None

HOST = "127.0.0.1"
MAX_BODY = 2**20  # bytes of a request
INTERVAL = 0.05  # least seconds between two forms of an answer
PAGE = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


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


def listen(port: int) -> socket.socket:
    """A socket of this machine that listens at a port.

    Raises:
      ValueError: the port is in use, or not for this user.
    """
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()
    except OSError as error:
        listening.close()
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error})"
        other = port + 1 if 1024 <= port < 65535 else 8080
        raise ValueError(f"port {port} {why}; give another: --port={other}") from None
    return listening


def serve(session: Session, listening: socket.socket, notice: str = "") -> None:
    """Serves a session's models at a socket of `listen`, until Ctrl-C."""
    config = uvicorn.Config(
        build(session, notice), log_config=None, access_log=False, lifespan="off", ws="none",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    print(f"http://{HOST}:{listening.getsockname()[1]}  Ctrl-C ends", flush=True)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        print()


def build(session: Session, notice: str = "") -> Starlette:
    """The application of the page.

    Args:
      session: for its models, its scorer and its settings to begin with; its turns are not used.
    """
    locks = [asyncio.Lock() for _ in session.models]  # a model writes one answer at a time

    async def page(request: Request) -> Response:
        name = PAGE[request.url.path]
        text = (resources.files("train.chat") / "page" / name).read_bytes()
        return Response(text, media_type=TYPES[name.rpartition(".")[2]])

    async def about(_: Request) -> Response:
        return JSONResponse({
            "models": [model.name for model in session.models],
            "scorer": session.scorer.name if session.scorer else "",
            "temperature": session.temperature, "system": session.system, "notice": notice,
        })  # fmt: skip

    async def answer(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return _refusal("send application/json", 415)
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                return _refusal("the conversation is too long; begin a new one", 413)
        try:
            question = msgspec.json.decode(body, type=Question)
            if question.model >= len(session.models) or question.messages[-1].role != "user":
                raise ValueError("there is no such model, or no question")
            messages = [msgspec.to_builtins(message) for message in question.messages]
            fit = session.models[question.model].fit
            ids, forgotten = await run_in_threadpool(fit, messages)
        except (ValueError, msgspec.DecodeError) as error:
            return _refusal(str(error), 400)
        lines = _lines(session, question, messages, ids)
        return _Stream(_events(locks[question.model], lines, forgotten))

    return Starlette(
        routes=[
            *(Route(path, page) for path in PAGE),
            Route("/api/about", about),
            Route("/api/answer", answer, methods=["POST"]),
        ],
        middleware=[
            Middleware(_Headers),
            Middleware(
                TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False
            ),
        ],
    )


class _Headers:
    """Adds HEADERS to every response."""

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope, receive, send) -> None:
        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                headers = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


class _Stream(StreamingResponse):
    """JSON lines. Their generator is closed with the connection, which releases its lock."""

    def __init__(self, lines: AsyncGenerator[str, None]):
        super().__init__(lines, media_type="application/x-ndjson")
        self._lines = lines

    async def __call__(self, scope, receive, send) -> None:
        async with contextlib.aclosing(self._lines):
            await super().__call__(scope, receive, send)


def _refusal(text: str, status: int) -> Response:
    return JSONResponse({"error": text}, status)


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
