"""The pages on which people compare answers and see how far they are (data/ranking/page/).

Each annotator has a link with a secret after `#`, which a browser does not send to the server by
itself; a page sends it in the header `Authorization`. The sources of answers are never sent, and
the order in which answers are shown depends on the annotator and the question.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec

import loopback
from data.ranking.overview import overview
from data.ranking.questions import MOST_CANDIDATES, Answer, Question, Text
from data.ranking.store import Conflict, Store

try:
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError as error:
    raise ValueError(f"a web page needs {error.name}; type: pip install '.[web]'") from None

PAGE = {
    "/": "index.html", "/page.css": "page.css", "/page.js": "page.js",
    "/overview": "overview.html", "/overview.js": "overview.js",
}  # fmt: skip
OWNER = "/owner"  # a name that no annotator can have
PRESENT = 60.0  # seconds for which a page that was not closed counts as open
EXPORT_DELAY = 2.0  # least seconds from an answer to its export

Numbers = Annotated[
    list[Annotated[int, msgspec.Meta(ge=0, lt=MOST_CANDIDATES)]],
    msgspec.Meta(max_length=MOST_CANDIDATES),
]


class Sent(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request with an answer; candidates are numbered as they were shown.

    Attributes:
      id, replaces: as of `Store.record`. rank: None for a skipped question.
    """

    question: int
    id: Annotated[str, msgspec.Meta(min_length=8, max_length=64)]
    rank: Numbers | None
    replaces: Annotated[str, msgspec.Meta(max_length=64)] = ""
    unsafe: Numbers = []
    comment: Text = ""
    ideal: Text = ""
    seconds: float = 0.0


@dataclasses.dataclass
class Room:
    """Everything that the pages need.

    Attributes:
      annotators: their names. each: people who answer a question. order: as of `Store.next`.
      sampler: a data.ranking.sampling.Sampler, or None. export: writes the files.
      hosts: other names of this machine, as of `loopback.application`.
    """

    store: Store
    annotators: Sequence[str]
    export: Callable[[], Any]
    each: int = 1
    order: str = "random"
    sampler: Any = None
    hosts: Sequence[str] = ()


def shown_order(annotator: str, question: Question) -> list[int]:
    """The numbers of a question's candidates in the order in which an annotator sees them."""
    order = list(range(len(question.candidates)))
    random.Random(f"{annotator}/{question.key()}").shuffle(order)
    return order


def links(room: Room, address: str) -> dict[str, str]:
    """{annotator: link}, and the link of the overview under OWNER."""
    found = {name: f"{address}/#{room.store.token(name)}" for name in room.annotators}
    return found | {OWNER: f"{address}/overview#{room.store.token(OWNER)}"}


class _Presence:
    """The open pages of each annotator."""

    def __init__(self):
        self._seen: dict[str, dict[str, float]] = {}

    def elsewhere(self, name: str, tab: str) -> bool:
        """Whether another page of this annotator is open; notes this one."""
        now, tabs = time.monotonic(), self._seen.setdefault(name, {})
        tabs[tab] = now
        return any(now - at < PRESENT for other, at in tabs.items() if other != tab)

    def leave(self, name: str, tab: str) -> None:
        self._seen.get(name, {}).pop(tab, None)


class _Exports:
    """Exports soon after an answer, and not after every one."""

    def __init__(self, export: Callable[[], Any]):
        self._export, self.error, self._delay = export, "", EXPORT_DELAY
        self._task: asyncio.Task[None] | None = None

    def soon(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._later())

    async def _later(self) -> None:
        await asyncio.sleep(self._delay)
        begun = time.monotonic()
        try:
            await run_in_threadpool(self._export)
            self.error = ""
        except OSError as error:  # answers are in the database all the same
            self.error = f"the export failed: {error}"
        self._delay = max(EXPORT_DELAY, 10 * (time.monotonic() - begun))


async def _in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function that reads or writes files."""
    try:
        return await run_in_threadpool(function, *arguments)
    except OSError as error:
        raise loopback.Refusal(str(error), 503) from None


def build(room: Room) -> Starlette:
    """The application of the pages."""
    store, presence, exports = room.store, _Presence(), _Exports(room.export)
    names = {store.token(name): name for name in (*room.annotators, OWNER)}

    def known(request: Request, owner: bool = False) -> str:
        """The name of who sends a request."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if owner:  # a link to download a file has no headers
            token = token or request.query_params.get("key", "")
        name = names.get(token)
        if name is None or (name == OWNER) != owner:
            raise loopback.Refusal("this link is not one of this server's; ask for a new one", 401)
        return name

    def state(name: str, request: Request, number: int = 0) -> dict[str, Any]:
        """A question to an annotator, by its number or the next, and how far they are."""
        question = store.question(number) if number else store.next(name, room.each, room.order)
        recorded = store.current(name, question.id) if question else None
        if question is None or (number and recorded is None):
            question = None
        done, left = store.progress(name, room.each)
        sampler = room.sampler
        return {
            "annotator": name, "done": done, "left": left,
            "sampling": bool(sampler and sampler.running),
            "error": (sampler and sampler.error) or exports.error,
            "elsewhere": presence.elsewhere(name, request.headers.get("x-tab", "")),
            "previous": store.previous(name, question.id if question else 0),
            "question": _shown(name, question, recorded) if question else None,
        }  # fmt: skip

    async def ask(request: Request) -> Response:
        name, number = known(request), request.path_params.get("number", 0)
        return JSONResponse(await _in_thread(state, name, request, number))

    async def answer(request: Request) -> Response:
        name = known(request)
        sent = await loopback.read_json(request, Sent, "the answer is too long")
        try:
            await _in_thread(_record, store, name, sent)
        except Conflict as error:
            raise loopback.Refusal(str(error), 409) from None
        except ValueError as error:
            raise loopback.Refusal(str(error)) from None
        exports.soon()
        return JSONResponse(await _in_thread(state, name, request))

    async def leave(request: Request) -> Response:
        presence.leave(known(request), request.headers.get("x-tab", ""))
        return JSONResponse({})

    async def see(request: Request) -> Response:
        known(request, owner=True)
        sampler = room.sampler
        return JSONResponse({
            **await _in_thread(overview, store, room.each),
            "links": links(room, ""), "each": room.each, "order": room.order,
            "sampling": bool(sampler and sampler.running),
            "error": (sampler and sampler.error) or exports.error,
        })  # fmt: skip

    async def download(request: Request) -> Response:
        known(request, owner=True)
        exported = await _in_thread(room.export)
        wanted = request.path_params["file"]
        for path in exported.paths:
            kind = path.name.removeprefix(exported.paths[0].stem).removeprefix(".")
            if kind == wanted:
                headers = {"Content-Disposition": f'attachment; filename="{path.name}"'}
                return Response(path.read_bytes(), 200, headers, "application/x-ndjson")
        raise loopback.Refusal(f"there is no {wanted} yet", 404)

    return loopback.application([
        *loopback.files("data.ranking", PAGE),
        Route("/api/next", ask),
        Route("/api/question/{number:int}", ask),
        Route("/api/answer", answer, methods=["POST"]),
        Route("/api/leave", leave, methods=["POST"]),
        Route("/api/overview", see),
        Route("/export/{file}", download),
    ], room.hosts)  # fmt: skip


def _shown(name: str, question: Question, recorded: Any) -> dict[str, Any]:
    """A question as an annotator sees it, with their answer if they gave one."""
    order = shown_order(name, question)
    candidates = [question.candidates[i] for i in order]
    places = {number: place for place, number in enumerate(order)}
    shown: dict[str, Any] = {
        "id": question.id,
        "messages": [{"role": m["role"], "content": m["content"]} for m in question.messages],
        "candidates": [{"text": c.text, "cut": not c.source.get("ended", True)}
                       for c in candidates],
        "answer": None,
    }  # fmt: skip
    if recorded:
        said = recorded.answer
        shown["answer"] = {
            "id": recorded.id, "comment": said.comment, "ideal": said.ideal,
            "rank": None if said.rank is None else [said.rank[i] for i in order],
            "unsafe": [places[i] for i in said.unsafe],
        }  # fmt: skip
    return shown


def _record(store: Store, name: str, sent: Sent) -> None:
    """Records an answer, its candidates numbered as in the database."""
    order = shown_order(name, store.question(sent.question))
    rank = sent.rank
    if rank is not None:
        if len(rank) != len(order):
            raise ValueError(f"a rank of {len(rank)} answers, and there are {len(order)}")
        rank = [rank[order.index(i)] for i in range(len(order))]
    if any(place >= len(order) for place in sent.unsafe):
        raise ValueError(f"there are {len(order)} answers")
    unsafe = [order[place] for place in sent.unsafe]
    answer = Answer(rank, unsafe, sent.comment, sent.ideal, order, sent.seconds)
    store.record(name, sent.question, answer, sent.id, sent.replaces)
