"""Names and addresses are replaced and counted, those that an export knows or a library finds."""

from collections import Counter

import pytest

from data.clean.redact import redact
from data.config import DataConfig
from data.errors import DataError


def redacted(text, kinds, people=(), **options):
    counts = Counter()
    example = redact({"text": text, "people": people}, kinds, counts, **options)
    assert example.keys() == {"text"}
    return example["text"], dict(counts)


def test_names_that_the_export_gives():
    text = "Hello Ben Miller, this is Ana. Benjamin and ben@x.org stay; Miller's goes."
    people = ("Ben Miller", "Ana López-Ruiz", "a", "")
    wanted = "Hello [NAME], this is [NAME]. Benjamin and [EMAIL] stay; [NAME]'s goes."
    assert redacted(text, ("people", "email"), people) == (wanted, {"people": 3, "email": 1})
    assert redacted(text, ("people",)) == (text, {})
    assert redacted(text, (), people) == (text, {})


def test_names_in_scripts_without_capitals_or_spaces():
    people = ("مريم علي", "李明", "7 of 9")
    text = "كتبت مريم إليك، عليه. 我叫李明。7 of 9 stay."
    wanted = "كتبت [NAME] إليك، عليه. 我叫[NAME]。7 of 9 stay."
    assert redacted(text, ("people",), people) == (wanted, {"people": 2})


def test_addresses():
    pytest.importorskip("pyap", reason="the extra `names` is not installed")
    text = "It is 221B Baker Street, London NW1 6XE, I think. I have 3 orders of 40 euros."
    wanted = "It is [ADDRESS], I think. I have 3 orders of 40 euros."
    assert redacted(text, ("address",)) == (wanted, {"address": 1})
    canada = redacted("To 742 Evergreen Terrace, Toronto, ON M5V 2T6.", ("address",))
    assert canada == ("To [ADDRESS].", {"address": 1})


@pytest.mark.slow  # importing spaCy takes seconds
def test_names_that_a_pipeline_finds(tmp_path):
    spacy = pytest.importorskip("spacy", reason="the extra `names` is not installed")
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("entity_ruler")
    ruler.add_patterns(
        [{"label": "PERSON", "pattern": "Tom Baker"}, {"label": "GPE", "pattern": "Oslo"}]
    )
    pipeline.to_disk(tmp_path / "rules")
    options = {"model": str(tmp_path / "rules")}
    text = "Tom Baker of Oslo wrote to tom@x.org."
    wanted = "[NAME] of Oslo wrote to [EMAIL]."
    assert redacted(text, ("name", "email"), **options) == (wanted, {"name": 1, "email": 1})
    spacy.blank("en").to_disk(tmp_path / "none")
    with pytest.raises(DataError, match="finds no names: it has no parts, and no ner"):
        redacted(text, ("name",), model=str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"cannot be loaded .* python -m spacy download no_such"):
        redacted(text, ("name",), model="no_such")


def test_a_pipeline_that_finds_nothing_asked_for_is_refused():
    with pytest.raises(DataError, match=r"data.redact_model finds names; add name to data.redact"):
        DataConfig(source="a", redact="email", redact_model="de_core_news_sm")
