"""Text on a terminal, as the terminal shows it."""

import io
import random
import re

import pytest
from rich.cells import cell_len

from train.chat.display import CLEAR, Column, Columns, wrap


def screen(written: str) -> list[str]:
    """The lines of a terminal: CLEAR empties the line that the cursor is in."""
    lines = re.sub(r"\x1b\[\d+m", "", written).split("\n")
    return [line.rpartition(CLEAR)[2].rstrip() for line in lines]


def pieces(text: str, seed: int) -> list[str]:
    rng, found = random.Random(seed), []
    while text:
        n = rng.randint(1, 7)
        found, text = [*found, text[:n]], text[n:]
    return found


TEXTS = [
    "The quick brown fox jumps over the lazy dog, and then it rests.",
    "a" * 70 + " b\n\n- one\n- two   spaces",
    "東京は日本の首都です。" * 5,
    "code:\n\tif x:\n\t\treturn 1\n",
    "e\u0301te\u0301 " * 20,
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("label", ["", "model › "])
def test_text_that_comes_in_pieces_is_wrapped_like_the_whole(text, label):
    whole = [line.rstrip() for line in wrap(label + text, 30)]
    for seed in range(5):
        out = io.StringIO()
        column = Column(out, 30, label, "32")
        for piece in pieces(text, seed):
            column.write(piece)
        assert screen(out.getvalue()) == whole
    assert all(cell_len(line) <= 30 for line in whole)
    words = "".join(f"{label}{text}".split())
    assert "".join("".join(whole).split()) == words


def test_words_are_not_broken():
    assert wrap("one two three four", 9) == ["one two ", "three ", "four"]


def test_control_characters_are_escaped():
    hostile = "a\x1b[2Jb\rc\x07d\u202ee\x9bf\ud800"
    out = io.StringIO()
    Column(out, 30).write(hostile)
    assert "\x1b" not in out.getvalue()


def test_columns_hold_both_texts_whichever_is_ahead():
    left, right = "one two three four five six seven", "alpha beta"
    for seed in range(5):
        out = io.StringIO()
        columns = Columns(out, 33, ["runs/a", "runs/b"])
        turns = [(0, p) for p in pieces(left, seed)] + [(1, p) for p in pieces(right, seed)]
        random.Random(seed).shuffle(turns)
        written = ["", ""]
        texts = [iter(pieces(left, seed)), iter(pieces(right, seed))]
        for side, _ in turns:
            piece = next(texts[side])
            written[side] += piece
            columns.write(side, piece)
        columns.finish(1)
        columns.finish(0)
        assert written == [left, right]
        rows = [[cell.strip() for cell in line.split("│")] for line in screen(out.getvalue())[:-1]]
        assert rows[0] == ["runs/a", "runs/b"]
        assert [row[0] for row in rows[1:]] == [line.strip() for line in wrap(left, 15)]
        assert " ".join(row[1] for row in rows[1:]).strip() == right
