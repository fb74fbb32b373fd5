"""Text of others on a terminal."""

import io

import pytest

from printable import SafeConsole, escaped

HOSTILE = "a\x1b[2Jb\rc\x07d\u202ee\x9bf\ud800"


def test_control_characters_are_escaped():
    assert escaped(HOSTILE) == r"a\x1b[2Jb\rc\x07d\u202ee\x9bf\ud800"
    assert escaped("é 東京 👩\u200d🔬\n\tx") == "é 東京 👩\u200d🔬\n\tx"
    assert escaped("\x1b]8;;http://x\x1b\\y\x00\x7f\u2028\u2066z") == (
        r"\x1b]8;;http://x\x1b\y\x00\x7f\u2028\u2066z"
    )


@pytest.mark.parametrize("text", ["[link=http://x]a[/link]", "[/]", "[bold]a"])
def test_a_console_shows_brackets_as_they_are(text):
    out = io.StringIO()
    SafeConsole(file=out, force_terminal=True).print(f"{text}\x1b[2J")
    assert out.getvalue() == f"{text}\\x1b[2J\n"
