"""A run that there is beside its prediction, from records written by hand."""

import json

import pytest

from ranges import ConfigError
from tpu.fit import measured, report
from train.config.run import build, default
from train.runtime.resume import config_json

V5E = "16 × TPU v5 lite"
REPORT = {
    "fits": True, "predicted_step_seconds": 1.6, "predicted_mfu": 0.5,
    "flops_per_step_per_chip": 1e9,
}  # fmt: skip


@pytest.fixture
def workdir(tmp_path):
    """write(...): a run with 100 steps of 2 s, and 50 s of other things in two attempts."""

    def write(steps=100, attempts=((0, V5E), (40, V5E)), ramp=None, **other):
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        recipe = default()
        recipe.steps = 400
        recipe.data.update(batch_size=16, batch_ramp=ramp or {})
        (folder / "config.json").write_text(config_json(build(recipe)))
        model = {
            "vocab_size": 300,
            "num_layers": 1,
            "embed_dim": 8,
            "num_heads": 1,
            "mlp_dim": 8,
            "num_kv_heads": 1,
            "head_dim": 8,
        }
        (folder / "models.json").write_text(json.dumps({"policy": model}))
        seconds = {"step": 200.0, "compile": 30.0, "checkpoint": 20.0}
        record = {"seconds": seconds, "attempts": 2, "between_seconds": 70.0, "steps": steps}
        (folder / "goodput.json").write_text(json.dumps(record | other))
        lines = [json.dumps({"step": step, "devices": name}) for step, name in attempts]
        (folder / "attempts.jsonl").write_text("\n".join(lines) + "\n")
        records = [{"step": s, "kind": "train", "elapsed_seconds": 2.5 * s, "mfu": 0.3 + s / 1000}
                   for s in (40, 70, 100)]  # fmt: skip
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        return str(folder)

    return write


@pytest.fixture
def price(tmp_path):
    text = "date = 2026-11-01\n[v5e]\nspot = 1.0\nreserved = 9.0\n[v6e]\nspot = 4.0\n"
    (tmp_path / "p.toml").write_text(text)
    return str(tmp_path / "p.toml")


def test_measured_beside_predicted(workdir, price, tmp_path, monkeypatch, capsys):
    asked = []

    def of_slice(recipe, topology, slices, vocab_size):
        asked.append((recipe.steps, topology, slices, vocab_size))
        return REPORT

    monkeypatch.setattr(report, "of_slice", of_slice)
    measured.run(workdir(), price, 0.8, [], 1, str(tmp_path / "out.json"))
    assert asked == [(400, "v5e-16", 1, 300)]
    text = capsys.readouterr().out
    assert "100 of 400 steps, 16 × TPU v5 lite, 2 attempts" in text
    rows = {line[:22].strip(): line[22:].split() for line in text.splitlines()[3:9]}
    assert rows["seconds of a step"] == ["1.6", "2", "+25%"]
    assert rows["MFU"] == ["50.0%", "37.0%", "-26%"]
    assert rows["goodput"][:2] == ["80.0%", "80.0%"]  # 200 of 250 s
    assert rows["hours"] == ["0.0556", "0.0694", "+25%"]  # 200 s and 250 s
    assert rows["dollars, spot"] == ["$0.89", "$1.11", "+25%"]
    assert rows["dollars, reserved"] == ["$8.00", "$10.00", "+25%"]
    assert "Not in steps: compile 12.0%, checkpoint 8.0%." in text
    assert "1:10 between attempts" in text
    assert "The other 300 steps take 0.208 hours at this pace ($3.33 spot, $30.00 reserved)" in text
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["measured"]["dollars"]["spot"] == pytest.approx(250 / 3600 * 16)


def test_time_is_divided_between_the_machines_of_the_attempts(workdir, price, capsys):
    """100 s until step 40 on 16 chips, the other 150 s on 8 of another kind."""
    run = measured.measure(workdir(attempts=((0, V5E), (40, "8 × TPU v6 lite"))))
    assert [(m.number, m.kind, m.seconds) for m in run.machines] == [
        (16, "v5e", 100.0), (8, "v6e", 150.0),
    ]  # fmt: skip
    measured.run(workdir(attempts=((0, V5E), (40, "8 × TPU v6 lite"))), price, 0.9, [], 1, "")
    text = capsys.readouterr().out
    assert "on several kinds of machines" in text.replace("\n", " ")
    spot = (100 * 16 * 1.0 + 150 * 8 * 4.0) / 3600
    assert f"${spot:.2f}" in text and "reserved" not in text


def test_steps_of_a_fork_are_its_own(workdir):
    run = measured.measure(workdir(steps=150, attempts=((50, V5E),)))
    assert run.steps == 100 and run.planned == 350 and run.step_seconds == 2.0


def test_the_levels_of_a_ramp_are_predicted_and_the_rest_has_larger_batches(
    workdir, price, tmp_path, monkeypatch, capsys
):
    """20 steps from step 30 of 1 s and 80 of 1.6 s; the other 270 read 4,320 rows after 1,440."""
    entries = [
        {"first_step": first, "rows": rows, "length": 64, "predicted_step_seconds": seconds,
         "flops_per_step_per_chip": 1e9 * rows / 16}
        for first, rows, seconds in ((0, 8, 1.0), (50, 16, 1.6))
    ]  # fmt: skip
    monkeypatch.setattr(report, "of_slice", lambda *args: REPORT | {"levels": entries})
    run = workdir(steps=130, attempts=((30, V5E),), ramp={"50": 8})
    measured.run(run, price, 0.8, [], 1, str(tmp_path / "out.json"))
    written = json.loads((tmp_path / "out.json").read_text())["predicted"]
    assert written["step_seconds"] == pytest.approx((20 * 1.0 + 80 * 1.6) / 100)
    assert written["hours"] == pytest.approx(148 / 0.8 / 3600)
    assert written["mfu"] == pytest.approx(0.5 * 1.6 * (20 * 0.5 + 80) / 148)
    hours = 250 / 3600 * (270 * 16) / (20 * 8 + 80 * 16)
    assert f"The other 270 steps take {hours:.3g} hours" in capsys.readouterr().out


def test_no_prediction_for_what_is_no_slice(workdir, price, capsys):
    measured.run(workdir(attempts=((0, "6 × TPU v5 lite"),)), price, 0.9, [], 1, "")
    assert "No prediction: no slice has 6 chips of v5e" in capsys.readouterr().out
    measured.run(workdir(attempts=((0, V5E),)), "", 0.9, ["v5e-8"], 1, "")
    assert "it was on 16 × TPU v5 lite, which is not v5e-8" in capsys.readouterr().out


def test_slices_of_devices():
    machines = [measured.Machines(64, "TPU v5p", 1.0)]
    assert measured.slices_of(machines, [], 1).topology == "v5p-128"  # its names count cores
    dies = measured.Machines(128, "TPU7x", 3600.0)  # two a chip
    assert (dies.chips, measured.slices_of([dies], [], 1).topology) == (64, "tpu7x-128")
    assert measured.slices_of(machines, [], 2) == ("v5p-64", 2, "v5p", 64)


def test_bad_workdirs(workdir, tmp_path, price):
    with pytest.raises(ConfigError, match=r"has no config.json; give the workdir of a run"):
        measured.measure(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="has taken no step yet"):
        measured.measure(workdir(steps=0))
    path = workdir()
    (tmp_path / "run" / "attempts.jsonl").write_text('{"step": 0, "devices": "many"}\n')
    with pytest.raises(ValueError, match=r"attempts.jsonl:1 is not of the form"):
        measured.measure(path)
    with pytest.raises(ValueError, match="has no price of cpu"):
        measured.run(workdir(attempts=((0, "1 × cpu"),)), price, 0.9, [], 1, "")
