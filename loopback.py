"""Web pages that this machine alone reaches: a socket, headers, requests of JSON, the server.

A foreign page in the same browser does not reach them either: the name that the browser asked for
is checked, other types of body than JSON are refused, and no other origin is allowed, so that a
browser sends none of them a JSON body.

This file imports nothing of Seedpod, so that data/ and train/ can both use it.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any, TypeVar

import msgspec

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import BaseRoute, Route
except ImportError as error:
    raise ValueError(f"a web page needs {error.name}; type: pip install '.[web]'") from None

HOST = "127.0.0.1"
MAX_BODY = 2**20  # bytes of a request
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
Body = TypeVar("Body")


class Refusal(Exception):
    """A request that is refused, with a status of HTTP."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status

    def response(self) -> Response:
        return JSONResponse({"error": str(self)}, self.status)


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


def serve(
    app: Starlette, listening: socket.socket, done: Callable[[], bool] = lambda: False
) -> None:
    """Serves an application at a socket of `listen`, until Ctrl-C or until it is done.

    Args:
      done: is called twice a second, in a thread of its own.
    """
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", ws="none",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server, ended = uvicorn.Server(config), threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            if done():
                server.should_exit = True

    threading.Thread(target=watch, daemon=True).start()
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        print()
    finally:
        ended.set()


def application(routes: Sequence[BaseRoute], hosts: Sequence[str] = ()) -> Starlette:
    """An application whose every response has HEADERS.

    Args:
      hosts: names besides this machine's own by which a tunnel reaches it.
    """
    allowed = [HOST, "localhost", *hosts]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(_Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=allowed, www_redirect=False),
        ],
        exception_handlers={Refusal: _refuse},  # type: ignore[dict-item]
    )


def files(package: str, names: Mapping[str, str]) -> list[Route]:
    """Routes of the files in the folder `page` of a package. `names`: {path: name of the file}."""

    async def page(request: Request) -> Response:
        name = names[request.url.path]
        text = (resources.files(package) / "page" / name).read_bytes()
        return Response(text, media_type=TYPES[name.rpartition(".")[2]])

    return [Route(path, page) for path in names]


async def read_json(request: Request, body_type: type[Body], too_long: str) -> Body:
    """The body of a request.

    Args:
      too_long: the message about one of more than MAX_BODY.

    Raises:
      Refusal: it is no JSON, too long, or of another form.
    """
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise Refusal("send application/json", 415)
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise Refusal(too_long, 413)
    try:
        return msgspec.json.decode(body, type=body_type)
    except msgspec.DecodeError as error:
        raise Refusal(str(error)) from None


async def _refuse(_: Request, refusal: Refusal) -> Response:
    return refusal.response()


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
