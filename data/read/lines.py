"""Files read line by line, or in spans of whole lines."""

from __future__ import annotations

import io
from collections.abc import Iterator

from data.errors import DataError
from data.read.reading import PIECE_BYTES, ReadOptions, Span, opened

# Bytes of a file of lines in one part when a corpus is prepared.
SPAN_BYTES = 64 << 20


def read_raw_lines(
    path: str, span: Span | None, options: ReadOptions
) -> Iterator[tuple[str, bytes | DataError]]:
    """(location, line) pairs of a file or a span of it; a DataError in place of a line that is too
    large."""
    with opened(path) as file:
        for number, line in lines(file, options.max_bytes, span):
            yield f"{path}:{number}", options.too_large() if line is None else line


def line_spans(path: str) -> list[Span | None]:
    """Spans of whole lines, of SPAN_BYTES or a little more; a gzip is one, as it cannot be read
    from the middle."""
    if path.endswith(".gz"):
        return [None]
    spans: list[Span | None] = []
    start, line = 0, 1
    with opened(path) as file:
        while data := file.read(SPAN_BYTES):
            stop, after = start + len(data), line + data.count(b"\n")
            if not data.endswith(b"\n"):
                stop, after = stop + skip_line(file), after + 1
            spans.append(Span(start, stop, line))
            start, line = stop, after
    return spans or [None]


def lines(
    file: io.BufferedReader, max_bytes: int, span: Span | None = None
) -> Iterator[tuple[int, bytes | None]]:
    """(number, line) pairs of a file or a span of it. None stands for a line of more than
    `max_bytes`, line end excluded, which is skipped without being held in memory."""
    start, stop, number = span or (0, None, 1)
    if start:
        file.seek(start)
    while line := file.readline(max_bytes + 2):
        start += len(line)
        if len(line) > max_bytes and len(line.rstrip(b"\r\n")) > max_bytes:
            yield number, None
            start += 0 if line.endswith(b"\n") else skip_line(file)
        else:
            yield number, line
        number += 1
        if stop is not None and start >= stop:
            return


def skip_line(file: io.BufferedReader) -> int:
    """Reads to the end of the line; returns the number of bytes read."""
    count = 0
    while piece := file.readline(PIECE_BYTES):
        count += len(piece)
        if piece.endswith(b"\n"):
            break
    return count
