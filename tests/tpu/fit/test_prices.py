"""Price files: their numbers, date and age; bad ones are a line each."""

import datetime
import re

import pytest
from documentation import ROOT

from data.errors import DataError
from tpu.fit import prices

TODAY = datetime.date(2026, 12, 1)


def read(tmp_path, text):
    path = tmp_path / "p.toml"
    path.write_text(text)
    return prices.read(str(path), TODAY)


def test_numbers_date_and_age(tmp_path):
    text = 'date = 2026-11-01\n[v5e]\nreserved = 2\nspot = 0.5\n["NVIDIA H200"]\non_demand = 3.5\n'
    table = read(tmp_path, text)
    assert table.of("v5e") == {"spot": 0.5, "reserved": 2.0}
    assert table.of("NVIDIA H200") == {"on_demand": 3.5}
    assert table.described(TODAY).endswith("p.toml of 2026-11-01, 30 days old")
    assert table.described(TODAY.replace(year=2027)).endswith(
        "days old: check that they still hold"
    )
    with pytest.raises(DataError, match=r"no price of v6e; it has v5e, NVIDIA H200. Add \[v6e\]"):
        table.of("v6e")


def test_the_example_says_that_it_is_invented():
    path = ROOT / prices.EXAMPLE
    assert "INVENTED" in path.read_text().splitlines()[0]
    assert {"v5e", "v5p", "v6e", "cpu"} <= prices.read(str(path)).dollars.keys()


@pytest.mark.parametrize(
    "text,message",
    [
        ("", "needs the date of its prices"),
        ("[v5e]\nspot = 1", "needs the date of its prices"),
        ("date = '2026-11-01'\n[v5e]\nspot = 1", "without quotes: date = 2026-12-01"),
        ("date = 2026-12-02\n[v5e]\nspot = 1", "2026-12-02, is in the future"),
        ("date = 2026-11-01", "has no prices"),
        ("date = 2026-11-01\n[v5e\nspot = 1", r"p.toml:2 is no TOML"),
        ("date = 2026-11-01\n[v5e]\nspot = 1\nspot = 2", r"p.toml:4 is no TOML: Cannot overwrite"),
        ("date = 2026-11-01\n[v5x]\nspot = 1", "p.toml:2: 'v5x' is no kind.*did you mean v5"),
        ("date = 2026-11-01\nv5e = 1", r"p.toml:2: write \[v5e\] and below it one of spot"),
        ("date = 2026-11-01\n[v5e]", r"p.toml:2: write \[v5e\]"),
        ("date = 2026-11-01\n[v6e]\nspot=1\n[v5e]\nsopt = 1", "p.toml:5: v5e.sopt: .*mean spot"),
        ("date = 2026-11-01\n[v5e]\nspot = 0", "p.toml:3: v5e.spot is 0; write the dollars"),
        ("date = 2026-11-01\n[v5e]\nspot = nan", "p.toml:3: v5e.spot is nan"),
        ("date = 2026-11-01\n[v5e]\nspot = inf", "p.toml:3: v5e.spot is inf"),
        ("date = 2026-11-01\n[v5e]\nspot = true", "p.toml:3: v5e.spot is True"),
        ("date = 2026-11-01\n[v5e]\nspot = '$1'", r"p.toml:3: v5e.spot is '\$1'"),
    ],
)
def test_bad_files_are_a_line_each(text, message, tmp_path):
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"--price=.*nowhere cannot be read: No such file"):
        prices.read(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="cannot be read"):
        prices.read(str(tmp_path))
    (tmp_path / "latin").write_bytes(b"date = 2026-11-01 # \xe9")
    with pytest.raises(DataError, match="no text in UTF-8"):
        prices.read(str(tmp_path / "latin"))
    assert re.fullmatch(r"[\w/]+\.toml", prices.EXAMPLE)
