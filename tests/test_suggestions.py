"""Suggestions for misspelled names."""

from suggestions import did_you_mean, nearest


def test_the_nearest_name():
    assert nearest("peak_Ir", ["peak_lr", "schedule"]) == "peak_lr"
    assert nearest("xyz", ["peak_lr", "schedule"]) == ""
    assert nearest("p", {"peak_lr": 0, "schedule": 1}, cutoff=0) == "peak_lr"


def test_the_question():
    assert did_you_mean("a") == "; did you mean a?"
    assert did_you_mean("a", "", "b") == "; did you mean a or b?"
    assert did_you_mean("") == did_you_mean() == ""
