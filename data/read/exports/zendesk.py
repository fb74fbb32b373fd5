"""Tickets of Zendesk: `zendesk:PATH`.

A .json with `tickets`, a list of them, or a .jsonl with one a line. A ticket has its `comments`:
`author_id`, `body` (or `html_body`), and `public`. People are those of `users` in the same file, or
of a users.json or users.jsonl beside it, by `id`, with `role`: end-user, agent or admin. Without
them the `requester_id` is the user, and `assignee_id` an agent.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from data.errors import DataError
from data.read import json_records
from data.read.exports import files
from data.read.exports.markup import markdown_of
from data.read.reading import ReadOptions, Span, parse_each


def read(
    name: str, tfds_dir: str, span: Span | None, options: ReadOptions
) -> Iterator[tuple[str, dict | DataError]]:
    """(location, record) pairs, one a ticket."""
    del tfds_dir, span
    paths = [path for path in files.files_of(name) if os.path.basename(path) not in files.USERS]
    if not paths:
        raise DataError(f"{name} has users alone; name the file of the tickets")
    for path in paths:
        people = _people(path, options)
        tickets = files.objects(path, "tickets", options)
        yield from parse_each(tickets, functools.partial(_conversation, people=people))


def _people(path: str, options: ReadOptions) -> dict[str, dict]:
    """{id: user} of the users in a file of tickets, or of a file beside it."""
    beside = [os.path.join(os.path.dirname(path), name) for name in files.USERS]
    source = next((other for other in beside if epath.Path(other).exists()), path)
    if source == path and files.ending_of(path) == ".jsonl":
        return {}
    people = {}
    try:
        for location, user in files.objects(source, "users", options._replace(records="")):
            if isinstance(user, DataError):
                raise DataError(f"{location}: {user}")
            people[str(user.get("id"))] = user
    except json_records.NoSuchPlace:
        if source != path:
            raise
    return people


def _conversation(ticket: dict, people: dict[str, dict]) -> dict:
    comments = files.list_at(ticket, "comments")
    messages = []
    for comment in comments:
        body = files.text_at(comment, "body") or files.text_at(comment, "plain_body")
        body = body or markdown_of(files.text_at(comment, "html_body"))
        private = comment.get("public", True) is False
        author = _author(comment.get("author_id"), ticket, people)
        message = {"author": author, "content": body.strip(), "private": private}
        messages.append(message | {"attachments": comment.get("attachments")})
    rating = ticket.get("satisfaction_rating")
    fields = {
        "subject": ticket.get("subject"),
        "status": ticket.get("status"),
        "rating": rating.get("score") if isinstance(rating, dict) else rating,
        "tags": ticket.get("tags") or [],
        "customer": ticket.get("requester_id") or _id_in(ticket.get("requester")),
    }
    others = {k: v for k, v in ticket.items() if k not in ("comments", "satisfaction_rating")}
    return others | fields | {"messages": messages}


def _id_in(person: Any) -> Any:
    return person.get("id") if isinstance(person, dict) else None


def _author(id: Any, ticket: dict, people: dict[str, dict]) -> dict[str, str]:
    """The author of a comment, from the users, or else from what the ticket says of its people."""
    embedded = [ticket.get(key) for key in ("requester", "assignee", "submitter")]
    own = {str(p.get("id")): p for p in embedded if isinstance(p, dict)}
    person = people.get(str(id)) or own.get(str(id), {})
    kind = person.get("role")
    if not kind and id is not None:
        customer = ticket.get("requester_id") or _id_in(ticket.get("requester"))
        agent = ticket.get("assignee_id") or _id_in(ticket.get("assignee"))
        kinds = {str(agent): "agent", str(customer): "end-user"}  # one id may be a number
        kind = kinds.get(str(id), "")
    return files.author(id, person.get("name"), person.get("email"), kind)
