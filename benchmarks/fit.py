"""Predictions of tpu.fit beside published step times and MaxText's programs: writes docs/fit.md.

python -m benchmarks.fit             # compiles the steps that docs/fit.json lacks
python -m benchmarks.fit --only='Llama 3.1 8B, v6e-256' --fresh
"""

from __future__ import annotations

from typing import NamedTuple

from absl import app

from benchmarks import compiled


class Run(NamedTuple):
    """A model on a slice, and the figures that a report of `tpu.fit` does not hold.

    Attributes:
      arguments: flags of `tpu.fit`.
      maxtext: MaxText's own program (August 2026, JAX 0.10.2, libtpu 0.0.52), compiled with the
        vector memory of tpu/chips.py: seconds a step of XLA's instructions without collectives, and
        temporaries in GiB.
      default: instructions and attention kernels of both programs, compiled with libtpu's default
        vector memory: seconds a step of MaxText's (None: not compiled) and of ours (November 2026,
        the program of docs/fit.json with `_SCOPED_VMEM` of tpu/chips.py empty).
      published: seconds a step that MaxText's authors measured on TPUs, or None.
      differs: settings of MaxText's program that ours does not express.
    """

    arguments: list[str]
    maxtext: tuple[float, float]
    default: tuple[float | None, float]
    published: float | None
    differs: str


def pretrain(
    size: str, topology: str, chips: int, rows: int, length: int, remat: str, vocab_size: int
) -> list[str]:
    return [
        f"--config=configs/pretrain.py:size={size}", f"--topology={topology}",
        f"--vocab_size={vocab_size}", f"--config.data.length={length}",
        f"--config.data.batch_size={rows * chips}", "--config.mesh.data=1",
        f"--config.mesh.fsdp={chips}", "--config.model.dtype=bfloat16",
        f"--config.model.remat={remat}",
    ]  # fmt: skip


RUNS = {
    "Llama 3.1 8B, v6e-256": Run(
        pretrain("llama3.1-8b", "v6e-256", 256, 4, 8192, "offload", 128256),
        (3.402, 27.3), (None, 5.13), 4.546,
        "MaxText's moves other activations to the host (28 GiB)",
    ),
    "Llama 3.1 8B, v5p-128": Run(
        pretrain("llama3.1-8b", "v5p-128", 64, 4, 4096, "minimal", 128256),
        (2.021, 52.1), (3.10, 2.93), None,
        "MaxText's `minimal` keeps the outputs of all matmuls",
    ),
    "Llama 2 7B, v5p-128": Run(
        pretrain("llama2-7b", "v5p-128", 64, 4, 4096, "minimal", 32000),
        (1.763, 44.8), (2.75, 2.77), None,
        "MaxText's `minimal` keeps the outputs of all matmuls",
    ),
    "Llama 2 7B, v5e-256": Run(
        pretrain("llama2-7b", "v5e-256", 256, 4, 2048, "qkv", 32000),
        (2.360, 9.9), (3.05, 3.30), None,
        "MaxText's `save_qkv_proj` does not keep the output of attention",
    ),
}  # fmt: skip


def row(name: str, report: dict) -> str:
    """A line of the table of predictions."""
    run = RUNS[name]
    settings = dict(a.split("=", 1) for a in run.arguments)
    rows = int(settings["--config.data.batch_size"]) // int(settings["--config.mesh.fsdp"])
    what = f"{rows} × {int(settings['--config.data.length']):,}, "
    what += f"`{settings['--config.model.remat']}`"
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


def comparison(name: str, report: dict) -> str:
    """A line of the table beside MaxText: each cell has MaxText's figure, ours, and ours / its."""
    run = RUNS[name]
    (seconds, temporaries), (theirs, ours) = run.maxtext, run.default
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
    maxtext = run.maxtext[0] + kernels
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
        "Written by `python -m benchmarks.fit` from docs/fit.json; no TPU was used. `python -m "
        "tpu.fit` compiles the train step for the slice and adds up libtpu's estimated cycles of "
        "each instruction (loops as often as they run, at the clock of tpu/chips.py), attention "
        "kernels from their shapes at half of the chip's peak, and collectives by bytes over the "
        "stated link rates. A step takes the largest of instructions with kernels, links, and the "
        "network between slices; in parentheses their sum, as if nothing overlapped. MFU counts "
        "causal attention once.",
        "",
        "bfloat16 compute, float32 weights, AdamW with float32 moments. Compiler options: "
        "`xla_tpu_scoped_vmem_limit_kib` (65472 on v5e and v5p, 98304 on v6e) and "
        "`xla_tpu_offload_gather_to_sparsecore=false`.",
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
        "the last column both are compiled with libtpu's default, and attention kernels are added. "
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
        *(f"- {name}: {RUNS[name].differs}." for name in reports),
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


if __name__ == "__main__":
    compiled.define_flags()
    runs = {name: run.arguments for name, run in RUNS.items()}
    app.run(lambda _: compiled.write("fit", runs, row, document))
