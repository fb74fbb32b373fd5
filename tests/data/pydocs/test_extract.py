"""Extraction of docstrings, their names, and their first paragraphs."""

import pytest

from data.pydocs import extract
from data.pydocs.extract import Entry, summary


def test_tests_and_installed_packages_are_left_out(tmp_path):
    for path in ("os.py", "test/a.py", "email/tests/b.py", "site-packages/c.py", "email/d.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text('"""A module of some kind."""\n')
    names = [entry.name for entry in extract.source_entries(tmp_path)]
    assert names == ["email.d", "os"]


def test_source_is_read_without_running_it(tmp_path):
    (tmp_path / "loud.py").write_text(
        '"""Loud."""\n'
        "raise SystemExit\n"
        "try:\n"
        "    class A:\n"
        '        """An A."""\n'
        "        @property\n"
        '        def p(self): "A p."\n'
        "except ImportError:\n"
        '    async def f(): "An f."\n'
        "def g():\n"
        '    def hidden(): "Out of reach."\n'
    )
    assert list(extract.source_entries(tmp_path)) == [
        Entry("loud", "module", "Loud."),
        Entry("loud.A", "class", "An A."),
        Entry("loud.A.p", "property", "A p."),
        Entry("loud.f", "function", "An f."),
    ]


def test_a_python_without_source_says_so(tmp_path):
    with pytest.raises(RuntimeError, match="ships its source"):
        extract.entries(tmp_path)


def test_private_twins_are_known_by_their_public_names():
    assert extract.public_name("_pydecimal") == "decimal"
    assert extract.public_name("pathlib._local.x") == "pathlib.x"
    assert extract.public_name("_pyiox") == "_pyiox"


@pytest.mark.parametrize(
    ("name", "doc", "expected"),
    [
        ("m.f", "Does one thing\nwell.\n\nMore.", "Does one thing well."),
        ("getattr", "getattr(object, name) -> value\n\nGet a named one.", "Get a named one."),
        ("m.f", "f(a,\n  b=1)\nReturn the sum of both.", "Return the sum of both."),
        (
            "m.L.count",
            "L.count(v) -> int -- return how often v is in it",
            "return how often v is in it",
        ),
        ("m.D.keys", "D.keys() -> a view on the keys of D", "a view on the keys of D"),
        ("m.f", "f(ip) -> packed IP address\n\nPack an address.", "Pack an address."),
        ("m.Alias", "Real(a=1, b=2) -> an object of that kind", ""),
        ("m.f", "f(x) -> int\nf(x, y) -> int", ""),
        ("a.b.c", "a.b.c\n\nImplements the c command.", "Implements the c command."),
        ("m", "The module of m\n===============\n\nMore.", "The module of m"),
        ("m.f", "Return a :class:`Foo` with a name.", "Return a `Foo` with a name."),
        ("m.f", ">>> f(1, 2, 3, 4, 5, 6)\nTrue", ""),
        ("m.f", "Internal.", ""),
        ("m.f", "a = b + c * (d - e) ** {f}", ""),
        ("m.f", "word " * 200, ""),
    ],
)
def test_summary_is_the_first_paragraph_of_prose(name, doc, expected):
    assert summary(name, doc) == expected
