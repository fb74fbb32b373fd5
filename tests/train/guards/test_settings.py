"""The table of settings that a resumed run may change."""

import pytest

from ranges import ConfigError
from train.config import fields
from train.guards import settings
from train.guards.settings import CHANGES, Difference, Kind, check_names, kind_of, refusal
from train.objectives import registry

KEYS = [setting.key for group in fields.groups() for setting in group.settings]


def test_every_setting_is_in_the_table():
    missing = [
        key for key in KEYS
        if not any(key == name or key.startswith(f"{name}.") for name in CHANGES)
        and not settings.LOCATIONS.fullmatch(key)
        and key.partition(".")[0] not in registry.fields()
    ]  # fmt: skip
    assert not missing, "add them to CHANGES"


def test_every_row_of_the_table_is_of_a_setting_and_says_something():
    for name, kind in CHANGES.items():
        assert any(key == name or key.startswith(f"{name}.") for key in KEYS), name
        above = name.rpartition(".")[0]
        assert CHANGES.get(above) is not kind, f"{name} is as {above}"


@pytest.mark.parametrize(
    ("setting", "before", "now", "kind"),
    [
        ("model.remat", "none", "full", Kind.FREE),
        ("accumulate", 1, 2, Kind.FREE),
        ("evals.wiki.source", None, "a", Kind.FREE),
        ("optimizer.peak_lr", 0.1, 0.2, Kind.NAMED),
        ("optimizer.lr_multipliers.hidden", None, 0.2, Kind.NAMED),
        ("optimizer.clip_norm", 1.0, 2.0, Kind.NAMED),
        ("optimizer.clip_norm", 1.0, 0.0, Kind.REFUSED),
        ("optimizer.name", "adamw", "muon", Kind.REFUSED),
        ("init_from.policy", "a", "b", Kind.FREE),
        ("init_from.reward", None, "b", Kind.REFUSED),
        ("data.batch_size", 8, 16, Kind.REFUSED),
        ("data.source", "a", "b", Kind.NAMED),
        ("mine.weight", 1.0, 2.0, Kind.NAMED),  # a plugin's
    ],
)
def test_kinds(setting, before, now, kind):
    assert kind_of(setting, before, now) is kind


def test_places_of_data_are_free_where_the_rows_are_known():
    assert kind_of("data.mixture.a.source", "x", "y", rows_known=True) is Kind.FREE
    assert kind_of("data.mixture.a.weight", 1, 2, rows_known=True) is Kind.REFUSED


def difference(setting, before=1, now=2, **kwargs):
    return Difference(setting, before, now, kind_of(setting, before, now), **kwargs)


def test_a_refusal_is_a_line_a_change_and_the_flag_to_type():
    changes = [difference(s) for s in ("log_every", "steps", "optimizer.lr_multipliers.a,b")]
    assert refusal("runs/a", changes, (), "policy") == (
        "runs/a was begun with other settings:\n"
        "steps: 1 -> 2 (allowed when named)\n"
        "optimizer.lr_multipliers.a,b: 1 -> 2 (allowed when named)\n"
        "log_every: 1 -> 2 (free)\n"
        "Type the old values, or add --allow_change=steps,optimizer.lr_multipliers; or start from "
        "its weights with the new ones: --workdir=NEW --config.init_from.policy=runs/a"
    )
    assert refusal("runs/a", changes, ("steps",), "policy")
    assert refusal("runs/a", changes, ("steps", "optimizer"), "policy") == ""
    text = refusal(
        "runs/a", [*changes, difference("seed")], ("steps", "optimizer", "seed"), "value"
    )
    assert text.splitlines()[1] == "seed: 1 -> 2 (refused)"
    assert "Type the old values of what is refused, and add --allow_change=steps,opt" in text
    many = [difference("seed", "x" * 500, "y" * 500)] * 30
    assert "and 10 more" in refusal("w", many, (), "policy")
    assert len(refusal("w", many, (), "policy")) < 6000


def test_a_name_that_is_no_setting_is_answered_with_the_nearest():
    assert check_names(["steps", "optimizer.peak_lr", "data"]) == (
        "steps", "optimizer.peak_lr", "data",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"optimizer\.peak_lrr.*did you mean optimizer\.peak_lr"):
        check_names(["optimizer.peak_lrr"])
    with pytest.raises(ConfigError, match=r"learning_rate.*did you mean optimizer\.peak_lr"):
        check_names(["learning_rate"])
