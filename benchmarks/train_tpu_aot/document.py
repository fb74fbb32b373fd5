"""docs/fit.md: predictions of tpu.fit beside published step times and MaxText's programs."""

from __future__ import annotations

from types import SimpleNamespace

from benchmarks import results
from benchmarks.train_tpu_aot.anchors import MAXTEXT, RUNS
from tpu import chips


def row(name: str, report: dict) -> str:
    """A line of the table of predictions."""
    shape, remat = _settings(name)
    what = f"{shape}, `{remat}`"
    if not report["fits"]:
        return f"| {name} | {what} | does not fit | | | | |"
    seconds, memory = report["seconds"], report["memory_gib"]
    parts = f"{seconds['compute']:.2f} + {seconds['kernels']:.2f}; {seconds['ici']:.2f}"
    return (
        f"| {name} | {what} | **{report['predicted_step_seconds']:.2f}** "
        f"({report['serial_step_seconds']:.2f}) | {parts} | "
        f"{report['tokens_per_second_per_chip']:,.0f} | {report['predicted_mfu']:.1%} | "
        f"{memory['peak']:.1f} of {memory['device has']} |"
    )


def _settings(name: str) -> tuple[str, str]:
    """(rows a chip × length, remat) of a run."""
    settings = dict(a.split("=", 1) for a in RUNS[name].arguments)
    rows = int(settings["--config.data.batch_size"]) // int(settings["--config.mesh.fsdp"])
    return f"{rows} × {int(settings['--config.data.length']):,}", settings["--config.model.remat"]


def comparison(name: str, report: dict) -> str:
    """A line of the table beside MaxText: each cell has MaxText's figure, ours, and ours / its."""
    run = RUNS[name]
    seconds, temporaries = run.maxtext.seconds, run.maxtext.temporaries
    theirs, ours = run.default
    default = f"–, {ours:.2f}" if theirs is None else _ratio(theirs, ours, 2)
    if not report["fits"]:
        return f"| {name} | {seconds:.3f}, does not fit | {temporaries:.1f} | {default} |"
    compute = _ratio(seconds, report["seconds"]["compute"], 3)
    memory = _ratio(temporaries, report["memory_gib"]["temporaries"], 1)
    return f"| {name} | {compute} | {memory} | {default} |"


def _ratio(theirs: float, ours: float, digits: int) -> str:
    return f"{theirs:.{digits}f}, {ours:.{digits}f}: **{ours / theirs:.2f}**"


def published(name: str, report: dict) -> str:
    """A sentence about a step time measured on TPUs."""
    run = RUNS[name]
    kernels, step = report["seconds"]["kernels"], report["predicted_step_seconds"]
    maxtext = run.maxtext.seconds + kernels
    return (
        f"{name}: MaxText's authors measured {run.published:.3f} s a step. The estimate of "
        f"MaxText's program is {maxtext:.2f} s ({maxtext / run.published:.2f} of it), that of ours "
        f"{step:.2f} s ({step / run.published:.2f}), both with the larger vector memory. These "
        "compare an estimate with a measurement; the table above compares the programs."
    )


def document(reports: dict[str, dict]) -> str:
    """docs/fit.md."""
    lines = [
        "# Predicted step times",
        "",
        "Written by `python -m benchmarks.train_tpu_aot` from docs/fit.json; no TPU was used. "
        "`python -m tpu.fit` compiles the train step for the slice and adds up libtpu's "
        "estimated cycles of each instruction (loops as often as they run, at the clock of "
        "tpu/chips.py), attention kernels from their shapes at half of the chip's peak, and "
        "collectives by bytes over the stated link rates. A step takes the largest of "
        "instructions with kernels, links, and the network between slices; in parentheses "
        "their sum, as if nothing overlapped. MFU counts causal attention once. `python -m "
        "benchmarks.hlo_profile` shows the cycles of a program by kind of operation and by source "
        "line.",
        "",
        "bfloat16 compute, float32 weights, AdamW with float32 moments. Compiler options: "
        "`xla_tpu_scoped_vmem_limit_kib` (65472 on v5e and v5p, 98304 on v6e), "
        "`xla_tpu_offload_gather_to_sparsecore=false` and "
        "`xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000` (before it, no program here "
        "gathered weights in parts either).",
        "",
        "| model, slice | rows a chip × length, remat | s/step (serial) | instructions + kernels; "
        "links | tokens/s a chip | MFU | peak GiB |",
        "|---|---|---|---|---|---|---|",
        *(row(name, report) for name, report in reports.items()),
        "",
        "## Beside MaxText",
        "",
        "MaxText's own train step (August 2026) and ours, by the same kind of estimate, with the "
        "same slice, rows, length and precision, both compiled by JAX 0.10.2 and libtpu 0.0.52. "
        "Each cell has MaxText's figure, ours, and ours as a multiple of MaxText's: above 1, ours "
        "is slower or larger. In the first two columns both are compiled with the same "
        "`xla_tpu_scoped_vmem_limit_kib`, the one above, which MaxText itself sets in its recipes "
        "for v6e only; attention kernels, the same on both sides, and collectives are left out. In "
        "the last column both are compiled with libtpu's default, ours as it was before "
        "2026-11-30, and attention kernels are added. "
        "A figure of one column beside a figure of another measures the compiler option rather "
        "than the code. Whether MaxText's leave gathers to the SparseCore is not recorded.",
        "",
        "| model, slice | larger vector memory: XLA's instructions, s/step | larger vector memory: "
        "temporaries, GiB | libtpu's default: instructions + kernels, s/step |",
        "|---|---|---|---|",
        *(comparison(name, report) for name, report in reports.items()),
        "",
        "Other differences of settings:",
        "",
        *(f"- {name}: {RUNS[name].differs}." for name in reports if RUNS[name].differs),
        "",
        *(
            published(name, report) + "\n"
            for name, report in reports.items()
            if RUNS[name].published and report["fits"]
        ),
        "Four of MaxText's programs have published step times. Their estimates are 1.06, 1.24 and "
        "1.21 of these with libtpu's default vector memory (16B and 32B on v5e-256, 32B on "
        "v5p-128), and 0.90 with the larger one (Llama 3.1 8B on v6e-256). Differences of less "
        "than 3% mean nothing.",
    ]
    return "\n".join(lines) + "\n"


def result(reports: dict[str, dict]) -> results.Result:
    """Both sides' figures and options, a row for each program."""
    rows, options = [], {}
    for name, report in reports.items():
        shape, remat = _settings(name)
        theirs, made = RUNS[name].maxtext, report.get("made", {})
        parts = f"{theirs.seconds:.3f} ({theirs.matmuls:.3f} + {theirs.other:.3f})"
        rows.append([f"{name}, {shape}", _program("MaxText", MAXTEXT), f"`{theirs.remat}`", parts,
                     "", f"{theirs.temporaries:.1f}", ""])  # fmt: skip
        cells = ["", _program("ours", made), f"`{remat}`"]
        if not report["fits"]:
            rows.append([*cells, "does not fit", "", "", ""])
            continue
        seconds, memory = report["seconds"]["compute"], report["memory_gib"]["temporaries"]
        rows.append([*cells, f"{seconds:.3f}", f"**{seconds / theirs.seconds:.2f}**",
                     f"{memory:.1f}", f"**{memory / theirs.temporaries:.2f}**"])  # fmt: skip
        device = SimpleNamespace(platform="tpu", device_kind=report["device"])
        given = chips.compiler_options(device)
        options[report["device"]] = " ".join(f"{k}={v}" for k, v in given.items())
    columns = ("model, slice, rows a chip × length", "program", "remat",
               "s/step (matmuls + other)", "ratio", "temporaries, GiB", "ratio")  # fmt: skip
    return results.Result(
        "train_tpu_aot", [results.Table(columns, rows)],
        {name: {"ours": report, "maxtext": RUNS[name].maxtext._asdict()}
         for name, report in reports.items()},
        {f"compiler options of {kind}": given for kind, given in options.items()},
        notes=[
            "Seconds are of XLA's instructions: attention kernels, the same on both sides, and "
            "collectives are left out. MaxText's programs have the same vector memory; whether "
            "they leave gathers to the SparseCore is not recorded."
        ],
    )  # fmt: skip


def _program(name: str, made: dict[str, str]) -> str:
    return ", ".join([name, *(made[k] for k in ("date",) if k in made),
                      *(f"{k} {made[k]}" for k in ("jax", "libtpu") if k in made)])  # fmt: skip
