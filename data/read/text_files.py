"""Documents of .txt files: a line each, or a whole file."""

from __future__ import annotations

from collections.abc import Iterator

from data.errors import DataError
from data.read.lines import read_raw_lines
from data.read.reading import PIECE_BYTES, ReadOptions, Span, decode, opened, parse_each


def read_lines(
    path: str, span: Span | None, options: ReadOptions
) -> Iterator[tuple[str, dict | DataError]]:
    """(location, {"text": line}) pairs; blank lines are skipped."""
    return parse_each(read_raw_lines(path, span, options), _parse)


def read_whole(
    path: str, span: Span | None, options: ReadOptions
) -> Iterator[tuple[str, dict | DataError]]:
    """One (location, {"text": content of the file}) pair; none if it is blank."""
    del span
    return parse_each(whole(path, options), _parse)


def whole(path: str, options: ReadOptions) -> Iterator[tuple[str, bytes | DataError]]:
    """One (location, content) pair; a DataError in place of a content that is too large."""
    pieces, size = [], 0
    with opened(path) as file:
        while piece := file.read(PIECE_BYTES):
            pieces.append(piece)
            size += len(piece)
            if size > options.max_bytes:
                yield f"{path}:1", options.too_large()
                return
        yield f"{path}:1", b"".join(pieces)


def _parse(raw: bytes) -> dict | None:
    text = decode(raw).removesuffix("\n")
    return {"text": text} if text.strip() else None
