"""The price of a run before it is launched, with a compiler that is a formula."""

import dataclasses
import datetime
import json

import pytest

from configs import ppo, pretrain
from ranges import ConfigError
from tpu.fit import command, levels, plan, report
from tpu.fit.prices import Prices
from train.config.run import build

PRICES = Prices(
    "p.toml", datetime.date(2026, 11, 1),
    {"v5e": {"spot": 1.0, "reserved": 1.5}, "v6e": {"spot": 2.0}},
)  # fmt: skip
FILE = "date = 2026-11-01\n[v5e]\nspot = 1.0\nreserved = 1.5\n[v6e]\nspot = 2.0\n"
# {slice: seconds of a step}; the first does not fit
SECONDS = {"v5e-4": None, "v5e-8": 4.0, "v5e-16": 2.5, "v6e-8": 1.0}


def of_slice(recipe, topology, slices, vocab_size, sweep=False, hlo="", typed=()):
    seconds = SECONDS[topology]
    if seconds is None:
        return {"fits": False, "error": "out of memory", "peak_bytes_per_chip": 20 * 2**30,
                "hbm_bytes_per_chip": 16 * 2**30}  # fmt: skip
    return {
        "fits": True, "predicted_step_seconds": seconds, "predicted_mfu": 0.4, "devices": 8,
        "tokens_per_step": 1000, "parameters": 50, "flops_per_step_per_chip": 1e6,
        "whole_parameter_gathers": [],
    }  # fmt: skip


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch):
    monkeypatch.setattr(report, "of_slice", of_slice)
    monkeypatch.setattr(report, "show", lambda found: "REPORT")


def fit(tmp_path, topology, **flags):
    (tmp_path / "p.toml").write_text(FILE)
    values = {
        "workdir": "", "topology": topology.split(","), "slices": 1, "vocab_size": 300,
        "steps": "", "sweep": False, "typed": (), "price": str(tmp_path / "p.toml"), "goodput": 0.9,
        "deadline": None, "hlo": "", "json": "",
    }  # fmt: skip
    return command.from_flags(values | flags, pretrain.get_config("smoke"))


def test_hours_and_dollars_by_hand():
    """9,000 steps of 4 s are 10 hours, and 12.5 at a goodput of 0.8; 16 chips at $1."""
    machines = plan.slices_of("v5e-8", 2)
    assert machines == plan.Slices("v5e-8", 2, "v5e", 16)
    made = plan.plan(of_slice(None, "v5e-8", 2, 300), 9000, machines, 0.8, PRICES)
    assert made.hours == pytest.approx(12.5) and made.tokens == 9_000_000
    assert made.dollars == pytest.approx({"spot": 200.0, "reserved": 300.0})


@pytest.mark.parametrize(
    "name,kind,chips",
    [("v5p-128", "v5p", 64), ("v5litepod-16", "v5e", 16), ("v5p:4x4x4", "v5p", 64)],
)
def test_chips_of_a_slice(name, kind, chips):
    assert plan.slices_of(name, 1)[2:] == (kind, chips)


@pytest.mark.parametrize("name", ["v5e", "v5e-17", "v5e:4xx", "v5e:a", ""])
def test_what_is_no_slice(name):
    with pytest.raises(ValueError, match=f"--topology={name}"):
        plan.slices_of(name, 1)


@pytest.mark.parametrize(
    "budget,steps",
    [("20x", 1), ("4e3x", 200), ("1e6tokens", 1000), ("8e9flops", 1000), ("2h", 1800)],
)
def test_a_budget_is_a_number_of_steps(budget, steps):
    recipe = pretrain.get_config("smoke")
    recipe.budget = budget
    found = of_slice(None, "v5e-8", 1, 300)
    assert plan.number_of_steps(build(recipe), found) == steps


def ramp():
    """A recipe with 2 steps of 4 rows, 3 of 8 and then 16, and its report on one batch shard, whose
    step takes a second and as many seconds as it has rows."""
    recipe = pretrain.get_config("smoke")
    recipe.steps = 10
    recipe.data.batch_ramp = {"2": 4, "5": 8}
    compiled = []

    def compile_one(config):
        compiled.append((config.data.batch_size, config.accumulate, config.data.batch_ramp))
        rows = config.data.batch_size
        return {
            "fits": True, "predicted_step_seconds": 1.0 + rows, "predicted_mfu": rows / (1 + rows),
            "tokens_per_step": 64 * rows, "flops_per_step_per_chip": 2.0 * rows, "devices": 8,
            "parameters": 50,
        }  # fmt: skip

    config = build(recipe)
    found = levels.with_levels(compile_one(config), config, 1, compile_one)
    assert compiled[1:] == [(4, 1, {}), (8, 1, {})]
    return config, found


def test_every_level_of_a_ramp_is_priced_at_its_own_cost(capsys):
    """2 · 5 + 3 · 9 + 5 · 17 s are 122, 2 · 4 + 3 · 8 + 5 · 16 rows are 112."""
    config, found = ramp()
    assert plan.number_of_steps(config, found) == 10
    made = plan.plan(found, 10, plan.slices_of("v5e-8", 1), 0.5, PRICES)
    assert (made.tokens, made.step_seconds) == (112 * 64, 12.2)
    assert made.hours == pytest.approx(122 / 0.5 / 3600)
    text = plan.show(made, found, PRICES)
    assert f"MFU {112 / 122:.1%}" in text  # one FLOP of two a second
    assert "    from step 2" in text and "9   8 rows of 64 tokens" in text


@pytest.mark.parametrize("budget", ["7168tokens", "1792flops", "143.36x", "0.03388889h"])
def test_a_budget_counts_every_level_of_a_ramp(budget):
    config, found = ramp()
    assert plan.number_of_steps(dataclasses.replace(config, budget=budget), found) == 10


def test_a_budget_that_ends_within_a_ramp_and_a_level_that_does_not_fit():
    config, found = ramp()
    with pytest.raises(ConfigError, match=r"batch_ramp.5: it would end at step 5"):
        plan.number_of_steps(dataclasses.replace(config, budget="1000tokens"), found)
    small = levels.with_levels(
        {"fits": True}, config, 1, lambda _: {"fits": False, "error": "out of memory"}
    )
    assert small["error"] == "batches of 4 × 64: out of memory"


def test_budgets_that_cannot_be():
    recipe = pretrain.get_config("smoke")
    recipe.budget = "1tokens"
    with pytest.raises(ConfigError, match="less than a step"):
        plan.number_of_steps(build(recipe), of_slice(None, "v5e-8", 1, 300))
    recipe = ppo.get_config()
    recipe.budget = "20x"
    with pytest.raises(ConfigError, match="which samples"):
        plan.number_of_steps(build(recipe), of_slice(None, "v5e-8", 1, 300))


def test_one_slice_shows_what_is_assumed(tmp_path, capsys):
    assert fit(tmp_path, "v5e-8", steps="9000", json=str(tmp_path / "out.json"))
    text = capsys.readouterr().out
    assert "REPORT\n\na run of 9,000 steps on v5e-8 (8 chips)" in text
    assert "11.1" in text and "$88.89   $1 a chip-hour" in text and "$133" in text
    assert "goodput of 90% is assumed" in text and "not a measurement" in text
    assert "p.toml of 2026-11-01, " in text.replace("\n", " ") and "days old" in text
    made = json.loads((tmp_path / "out.json").read_text())["plan"]
    assert made["goodput_assumed"] == 0.9 and made["hours"] == pytest.approx(100 / 9)
    assert made["priced_on"] == "2026-11-01"


def test_without_steps_and_prices_it_is_the_report_alone(tmp_path, capsys):
    assert fit(tmp_path, "v5e-8", price="")
    assert capsys.readouterr().out == "REPORT\n"


def test_the_cheapest_slice_by_a_deadline(tmp_path, capsys):
    """9,000 steps: 11.1 h on v5e-8 ($89), 6.9 on v5e-16 ($111), 2.8 on v6e-8 ($44, spot alone)."""
    every = "v5e-4,v5e-8,v5e-16,v6e-8"
    assert fit(tmp_path, every, steps="9000", deadline=8.0, json=str(tmp_path / "out.json"))
    text = capsys.readouterr().out
    assert "v5e-4             does not fit: 20.0 of 16 GiB" in text
    assert "cheapest spot within 8 hours: v6e-8, 2.78 hours, $44.44" in text
    assert "cheapest reserved within 8 hours: v5e-16, 6.94 hours, $167" in text
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["cheapest"] == {"spot": "v6e-8", "reserved": "v5e-16"}
    assert fit(tmp_path, every, steps="9000")
    assert "cheapest reserved: v5e-8, 11.1 hours, $133" in capsys.readouterr().out
    assert not fit(tmp_path, "v5e-8,v5e-16", steps="9000", deadline=1.0)
    assert "no slice here ends the run within 1 hours" in capsys.readouterr().out
    assert not fit(tmp_path, "v5e-4", steps="9000")
    table = [line for line in text.splitlines() if line[:3] in ("sli", "v5e", "v6e")]
    assert len(table) == 5 and max(map(len, table)) <= 60


@pytest.mark.parametrize(
    "flags,message",
    [
        ({"price": "", "deadline": 8.0}, "--deadline chooses the cheapest"),
        ({"topology": "v5e-8,v5e-8"}, "names a slice twice"),
        ({"topology": "v5e-8,v6e-8", "hlo": "x"}, "--topology compiles many"),
        ({"topology": "v5p-8"}, "no price of v5p; it has v5e, v6e"),
        ({"steps": "soon"}, "is no budget"),
        ({"workdir": "runs/x"}, "leave out --config"),
    ],
)
def test_bad_input_is_refused_before_anything_is_compiled(flags, message, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "of_slice", None)
    topology = flags.pop("topology", "v5e-8")
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, topology, **flags)
