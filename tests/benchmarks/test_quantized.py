"""The tables of training in 8 bits, and the recipe of its small run."""

from benchmarks.quantized import __main__ as losses
from benchmarks.quantized import steps
from train.config.run import build


def test_losses_stand_beside_those_of_the_first_run():
    runs = {
        name: {
            "heldout": [(100, 2 * k), (200, k)],
            "training": [(s, k) for s in range(10, 201, 10)],
        }
        for name, k in (("dtype", 1.0), ("int8", 1.01))
    }
    table = losses.table(runs)
    assert table.columns == ["nats a character", "dtype", "int8"]
    assert table.rows[0] == ["held out, step 100", "2.0000", "2.0200 (1.0100)"]
    assert table.rows[2] == ["training, mean of the last 100 steps", "1.0000", "1.0100 (1.0100)"]


def test_the_held_out_text_follows_the_trained_one(tmp_path):
    (tmp_path / "all.txt").write_text("ab" * 50)
    losses.split(tmp_path / "all.txt", tmp_path / "runs")
    train, heldout = (tmp_path / "runs" / f"{n}.txt" for n in ("train", "heldout"))
    assert train.read_text() + heldout.read_text() == "ab" * 50 and len(heldout.read_text()) == 10
    config = build(losses.recipe(tmp_path / "runs", "int8", 100))
    assert config.model.matmul == "int8" and config.model.dtype == "bfloat16"


def test_a_steps_ratio_is_to_bfloat16():
    def report(seconds):
        parts = {"compute": seconds - 1, "kernels": 1.0, "ici": 0.25}
        memory = {"peak": 9.96, "device has": 16}
        return {"fits": True, "predicted_step_seconds": seconds, "seconds": parts,
                "memory_gib": memory, "tokens_per_second_per_chip": 8192 / seconds}  # fmt: skip

    reports = {"v5e-256, dtype": report(4.0), "v5e-256, int8": report(3.0)}
    what = "v5e-256, 256 × 8,192, `qkv`"
    assert steps.row("v5e-256, int8", reports) == [
        what, "`int8`", "**3.000**", "0.75", "2.000 + 1.000; 0.250", "2,731", "10.0 of 16"
    ]  # fmt: skip
    lacking = {"v5e-256, int8": {"fits": False}}
    assert steps.row("v5e-256, int8", lacking) == [what, "`int8`", "does not fit", *[""] * 4]
