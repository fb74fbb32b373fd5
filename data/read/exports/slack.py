"""Threads of a Slack export: `slack:FOLDER`.

The folder is the unpacked export: users.json, and a folder for each channel with a .json a day,
which is a list of messages. A conversation is a thread: whoever opened it is the user and the
others answer, unless `data.transforms.roles` says otherwise. Its tags are the reactions to its
first message. Messages outside of threads, and events such as somebody joining, are no
conversations.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from etils import epath

from data.errors import DataError
from data.read import json_records
from data.read.exports import files
from data.read.exports.markup import from_slack
from data.read.reading import ReadOptions, Span

# Kinds of messages that somebody wrote; the others are events.
_WRITTEN = ("", "thread_broadcast", "bot_message", "me_message", "file_share")
_USERS = "users.json"


def read(
    name: str, tfds_dir: str, span: Span | None, options: ReadOptions
) -> Iterator[tuple[str, dict | DataError]]:
    """(location, record) pairs, one a thread, channel by channel."""
    del tfds_dir, span
    folder = files.place_of(name)
    if not epath.Path(folder).is_dir():
        raise DataError(f"{folder} is no folder; unpack the export, and name its folder: {name}")
    users_path = epath.Path(folder) / _USERS
    if not users_path.exists():
        raise DataError(f"{folder} has no {_USERS}; name the folder of an unpacked Slack export")
    people = {str(user.get("id")): user for _, user in _checked(os.fspath(users_path), options)}
    channels = sorted(os.fspath(entry) for entry in epath.Path(folder).iterdir() if entry.is_dir())
    if not channels:
        raise DataError(f"{folder} has no folder of a channel beside {_USERS}")
    for channel in channels:
        yield from _threads(channel, people, options)


def _checked(path: str, options: ReadOptions) -> Iterator[tuple[str, dict]]:
    """(location, object) pairs of a .json that is a list.

    Raises:
      DataError: one is bad, so that a thread would lack a message.
    """
    for location, record in json_records.read_list(path, None, options._replace(records="")):
        if isinstance(record, DataError):
            raise DataError(f"{location}: {record}")
        yield location, record


def _threads(
    channel: str, people: dict[str, dict], options: ReadOptions
) -> Iterator[tuple[str, dict | DataError]]:
    """(location of the first message, record) pairs of a channel, in the order of their first
    messages."""
    threads: dict[str, list[tuple[str, dict]]] = {}
    for path in sorted(p for p in _paths_in(channel) if files.ending_of(p) == ".json"):
        for location, message in _checked(path, options):
            try:
                root = message.get("thread_ts") or message["ts"]
                float(message["ts"]), float(root)
            except (KeyError, TypeError, ValueError):
                raise DataError(
                    f"{location}: a message without 'ts', the time that is its name"
                ) from None
            if message.get("subtype", "") in _WRITTEN:
                threads.setdefault(root, []).append((location, message))
            else:
                options.leave_out("events dropped, such as somebody joining")

    def name_of(id: str) -> str:
        user = people.get(id, {})
        names = (_profile(user).get("display_name"), user.get("real_name"), user.get("name"), id)
        return str(next(filter(None, names), "somebody"))

    for root, found in sorted(threads.items(), key=lambda item: float(item[0])):
        found.sort(key=lambda pair: float(pair[1]["ts"]))
        location, first = found[0]
        if len(found) == 1 and not first.get("reply_count"):
            options.leave_out("messages outside of threads dropped")
            continue
        try:
            yield location, _conversation(channel, root, [m for _, m in found], people, name_of)
        except DataError as error:
            yield location, error


def _profile(user: dict) -> dict:
    profile = user.get("profile")
    return profile if isinstance(profile, dict) else {}


def _paths_in(folder: str) -> list[str]:
    return [os.fspath(entry) for entry in epath.Path(folder).iterdir()]


def _conversation(
    channel: str, root: str, thread: list[dict], people: dict[str, dict],
    name_of: Callable[[str], str],
) -> dict:  # fmt: skip
    if thread[0]["ts"] != root:
        raise DataError(
            f"a thread without its first message, {root}; it was deleted, or is in a file that is "
            "not there",
            "no_first_message",
        )
    opener, messages = _author_id(thread[0]), []
    for message in thread:
        id = _author_id(message)
        user = people.get(id, {})
        is_bot = user.get("is_bot") or message.get("bot_id")
        kind = "bot" if is_bot else "opener" if id == opener else "others"
        text = from_slack(files.text_at(message, "text"), name_of)
        name = name_of(id) if id in people else message.get("username")
        author = files.author(id, name, _profile(user).get("email"), kind)
        held = {"files": message.get("files")}
        messages.append({"author": author, "content": text, "private": False} | held)
    reactions = files.list_at({"reactions": thread[0].get("reactions")}, "reactions")
    return {
        "id": root,
        "channel": os.path.basename(channel),
        "subject": None,
        "status": None,
        "rating": None,
        "tags": [reaction.get("name") for reaction in reactions],
        "customer": opener,
        "messages": messages,
    }


def _author_id(message: dict) -> str:
    return str(message.get("user") or message.get("bot_id") or message.get("username") or "")
