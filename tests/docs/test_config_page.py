"""docs/config.md is what train/config/settings_page.py writes, with a meaning of each setting."""

import dataclasses

from documentation import ROOT

from train.config import fields, settings_page
from train.config.run import keys


def test_the_page_is_current():
    path = ROOT / "docs/config.md"
    assert path.read_text() == settings_page.page(), (
        "docs/config.md is out of date: python -m train.config.reference > docs/config.md"
    )


def test_every_setting_has_a_meaning():
    rows = [
        [cell.strip() for cell in line.replace("\\|", "¦").split("|")[1:-1]]
        for line in settings_page.page().splitlines()
        if line.startswith("| `")
    ]
    assert [row[0] for row in rows if not row[-1]] == []
    named = {row[0].strip("`") for row in rows}
    groups = ("pretrain_data.", "value_optimizer.")  # refer to data and optimizer
    parents = {key.rpartition(".")[0] for key in keys()}
    leaves = {key for key in keys() if key not in parents and not key.startswith(groups)}
    assert leaves <= named


def test_attributes_of_a_docstring():
    @dataclasses.dataclass(frozen=True)
    class Settings:
        """Settings of a kettle.

        Attributes:
          rate: watts: of the coil. low, high: bounds of the
            temperature, in °C; lid: `open` or `closed`.
          unknown: stays part of the entry before it.
        """

        rate: int = 1
        low: int = 1
        high: int = 1
        lid: str = ""

    assert fields.attributes(Settings.__doc__, ["rate", "low", "high", "lid"]) == {
        "rate": "watts: of the coil",
        "low": "bounds of the temperature, in °C",
        "high": "bounds of the temperature, in °C",
        "lid": "`open` or `closed`. unknown: stays part of the entry before it",
    }
