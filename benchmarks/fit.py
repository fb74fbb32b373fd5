"""What fit.py predicts beside published step times and MaxText's estimates: writes docs/fit.md.

python -m benchmarks.fit             # everything that docs/fit.json does not hold yet
python -m benchmarks.fit --only='Llama 3.1 8B, v6e-256' --fresh

"""

from __future__ import annotations

from typing import NamedTuple

from absl import app

from benchmarks import compiled


class Run(NamedTuple):
    """Attributes:
    arguments: of tpu.fit. maxtext: seconds a step of MaxText's own program by the same kind
    of
      estimate (August 2026, JAX 0.10.2, libtpu 0.0.52). published: measured by its authors on
      TPUs, or None. differs: what its settings have that ours do not express.
    """

    arguments: list[str]
    maxtext: float
    published: float | None
    differs: str


def pretrain(size, topology, chips, rows, length, remat, vocab_size):
    return [
        f"--config=configs/pretrain.py:size={size}", f"--topology={topology}",
        f"--vocab_size={vocab_size}", f"--config.data.length={length}",
        f"--config.data.batch_size={rows * chips}", "--config.mesh.data=1",
        f"--config.mesh.fsdp={chips}", "--config.model.dtype=bfloat16",
        f"--config.model.remat={remat}",
    ]  # fmt: skip


RUNS = {
    "Llama 3.1 8B, v6e-256": Run(
        pretrain("llama3.1-8b", "v6e-256", 256, 4, 8192, "offload", 128256), 4.10, 4.546,
        "it moves other activations to the host (28 GiB)",
    ),
    "Llama 3.1 8B, v5p-128": Run(
        pretrain("llama3.1-8b", "v5p-128", 64, 4, 4096, "minimal", 128256), 3.10, None,
        "its `minimal` keeps the outputs of all matmuls",
    ),
    "Llama 2 7B, v5p-128": Run(
        pretrain("llama2-7b", "v5p-128", 64, 4, 4096, "minimal", 32000), 2.75, None,
        "its `minimal` keeps the outputs of all matmuls",
    ),
    "Llama 2 7B, v5e-256": Run(
        pretrain("llama2-7b", "v5e-256", 256, 4, 2048, "qkv", 32000), 3.05, None,
        "its `save_qkv_proj` does not keep attention's output",
    ),
}  # fmt: skip


def row(name: str, report: dict) -> str:
    run = RUNS[name]
    settings = dict(a.split("=", 1) for a in run.arguments)
    rows = int(settings["--config.data.batch_size"]) // int(settings["--config.mesh.fsdp"])
    what = f"{rows} × {int(settings['--config.data.length']):,}, "
    what += f"`{settings['--config.model.remat']}`"
    if not report["fits"]:
        return f"| {name} | {what} | does not fit | | | | | {run.maxtext:.2f} | |"
    seconds, memory = report["seconds"], report["memory_gib"]
    step = report["predicted_step_seconds"]
    published = f"{run.published:.3f} (ours {step / run.published:.2f})" if run.published else "–"
    parts = f"{seconds['compute']:.2f} + {seconds['kernels']:.2f}; {seconds['ici']:.2f}"
    return (
        f"| {name} | {what} | **{step:.2f}** ({report['serial_step_seconds']:.2f}) | {parts} | "
        f"{report['tokens_per_second_per_chip']:,.0f} | {report['predicted_mfu']:.1%} | "
        f"{memory['peak']:.1f} of {memory['device has']} | {run.maxtext:.2f} | {published} |"
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
        "causal attention once. MaxText's column is the same kind of estimate of its own program, "
        "with collectives left out.",
        "",
        "| model, slice | rows a chip × length, remat | s/step (serial) | instructions + kernels; "
        "links | tokens/s a chip | MFU | peak GiB | MaxText, estimate | published |",
        "|---|---|---|---|---|---|---|---|---|",
        *(row(name, report) for name, report in reports.items()),
        "",
        "What differs from MaxText's settings:",
        "",
        *(f"- {name}: {RUNS[name].differs}." for name in reports),
        "",
        "By the same kind of estimate, MaxText's programs came to 0.90 to 1.24 of their published "
        "step times: differences of less than a few percent mean nothing, and a ratio to a "
        "published time is to be read beside that range.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    compiled.define_flags()
    runs = {name: run.arguments for name, run in RUNS.items()}
    app.run(lambda _: compiled.write("fit", runs, row, document))
