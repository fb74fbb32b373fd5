"""Mail threads of .mbox files, by the standard library.

A conversation is a thread: the messages that name each other in `In-Reply-To` and `References`, in
the order of their dates. Whoever opened it is the user and the others answer, unless
`data.transforms.roles` says otherwise. Automatic replies are a bot's.
"""

from __future__ import annotations

import contextlib
import email
import email.errors
import email.header
import email.message
import email.utils
import mailbox
import re
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime

from data.errors import DataError
from data.read.exports import files
from data.read.exports.markup import markdown_of
from data.read.reading import ReadOptions, Span, opened

_EARLIEST = datetime(1, 1, 1, tzinfo=UTC)


def read(
    path: str, span: Span | None, options: ReadOptions
) -> Iterator[tuple[str, dict | DataError]]:
    """(location, record) pairs, one a thread, in the order of their first messages in the file."""
    del span
    with tempfile.NamedTemporaryFile(suffix=".mbox") as copy:  # also of a .gz, or a bucket
        with opened(path) as file:
            if (start := file.peek(5)[:5]) and start != b"From ":
                raise DataError(
                    f"{path} is no mbox: its first line should begin with 'From ', and begins with "
                    f"{start.decode('utf-8', 'replace')!r}"
                )
            shutil.copyfileobj(file, copy)
        copy.flush()
        with contextlib.closing(mailbox.mbox(copy.name, create=False)) as box:
            yield from _threads(path, box, options)


def _threads(
    path: str, box: mailbox.mbox, options: ReadOptions
) -> Iterator[tuple[str, dict | DataError]]:
    threads: dict[str, list[tuple[int, dict | DataError, datetime]]] = {}
    thread_of: dict[str, str] = {}  # {id of a message: that of the thread's first}
    for number, key in enumerate(box.keys()):
        mail = email.message_from_bytes(box.get_bytes(key))
        own = _ids(mail, "Message-ID")[:1] or [f"<{number}>"]
        others = [*_ids(mail, "References"), *_ids(mail, "In-Reply-To")]
        root = next((thread_of[id] for id in others if id in thread_of), (others or own)[0])
        for id in own + others:
            thread_of.setdefault(id, root)
        try:
            message: dict | DataError = _message(mail)
        except DataError as error:
            message = error
        threads.setdefault(root, []).append((number, message, _date(mail)))
    for found in threads.values():
        location = f"{path}[{found[0][0]}]"
        found.sort(key=lambda entry: entry[2])
        errors = [(number, m) for number, m, _ in found if isinstance(m, DataError)]
        messages = [m for _, m, _ in found if isinstance(m, dict)]
        if errors:
            number, error = errors[0]
            yield f"{path}[{number}]", error
        elif sum(len(m["content"].encode()) for m in messages) > options.max_bytes:
            yield location, options.too_large()
        else:
            yield location, _conversation(messages)


def _header(mail: email.message.Message, name: str) -> str:
    """A header as text; as it is written where it is malformed."""
    value = mail.get(name, "")
    try:
        return str(email.header.make_header(email.header.decode_header(value)))
    except (email.errors.HeaderParseError, LookupError, ValueError):
        return str(value)


def _ids(mail: email.message.Message, header: str) -> list[str]:
    return re.findall(r"<[^<>\s]+>", _header(mail, header))


def _date(mail: email.message.Message) -> datetime:
    """The date of a message, in UTC; a message without a readable one comes first."""
    try:
        date = email.utils.parsedate_to_datetime(_header(mail, "Date"))
        return date if date.tzinfo else date.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError):
        return _EARLIEST


def _message(mail: email.message.Message) -> dict:
    """The message of a mail, of its first part of plain text, or else of HTML, with its subject.

    Raises:
      DataError: that part cannot be decoded.
    """
    texts: dict[str, email.message.Message] = {}
    attachments = []
    for part in mail.walk():
        kind = part.get_content_type()
        if part.is_multipart():
            continue
        if kind in ("text/plain", "text/html") and part.get_content_disposition() != "attachment":
            texts.setdefault(kind, part)
        else:
            attachments.append(kind)
    text = ""
    if "text/plain" in texts:
        text = _text(texts["text/plain"])
    elif "text/html" in texts:
        text = markdown_of(_text(texts["text/html"]))
    name, address = email.utils.parseaddr(_header(mail, "From"))
    automatic = _header(mail, "Auto-Submitted").lower() not in ("", "no")
    author = files.author(address.lower(), name, address.lower(), "bot" if automatic else "")
    message = {"author": author, "content": text.replace("\r\n", "\n").strip(), "private": False}
    return message | {"attachments": attachments, "subject": _header(mail, "Subject")}


def _text(part: email.message.Message) -> str:
    """The text of a part, by the encoding that it declares, or as UTF-8.

    Raises:
      DataError: it is neither.
    """
    raw = part.get_payload(decode=True)
    assert isinstance(raw, bytes)  # a part of text
    declared = part.get_content_charset("utf-8")
    for encoding in (declared, "utf-8"):
        try:
            return raw.decode(encoding)
        except (ValueError, LookupError):
            continue
    raise DataError(
        f"a message that says it is {declared!r:.40}, and is neither that nor UTF-8",
        "invalid_encoding",
    )


def _conversation(messages: list[dict]) -> dict:
    subject, opener = messages[0]["subject"], messages[0]["author"]["id"]
    for message in messages:
        del message["subject"]
        author = message["author"]
        author["kind"] = author["kind"] or ("opener" if author["id"] == opener else "others")
    return {
        "subject": subject, "status": None, "rating": None, "tags": [], "customer": opener,
        "messages": messages,
    }  # fmt: skip
