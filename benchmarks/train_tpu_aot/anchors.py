"""The runs of docs/fit.md, and the figures of MaxText's programs beside them."""

from __future__ import annotations

from typing import NamedTuple

# What MaxText's programs were compiled with: its snapshot, and the same JAX and libtpu as ours.
MAXTEXT = {"date": "August 2026", "jax": "0.10.2", "libtpu": "0.0.52"}


class Program(NamedTuple):
    """MaxText's own program for a run, compiled with the vector memory of tpu/chips.py.

    Attributes:
      remat: its policy. seconds: a step's of XLA's instructions without attention kernels and
        collectives; matmuls, other: its parts. temporaries: GiB.
    """

    remat: str
    seconds: float
    matmuls: float
    other: float
    temporaries: float


class Run(NamedTuple):
    """A model on a slice, and the figures that a report of `tpu.fit` does not hold.

    Attributes:
      arguments: flags of `tpu.fit`.
      maxtext: the program beside ours.
      default: instructions and attention kernels of both programs, compiled with libtpu's default
        vector memory: seconds a step of MaxText's (None: not compiled) and of ours (November 2026,
        the program of docs/fit.json with `_SCOPED_VMEM` of tpu/chips.py empty).
      published: seconds a step that MaxText's authors measured on TPUs, or None.
      differs: settings of MaxText's program that ours does not express.
    """

    arguments: list[str]
    maxtext: Program
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
        Program("offload", 3.402, 2.330, 1.073, 27.3), (None, 5.13), 4.546,
        "MaxText's moves other activations to the host (28 GiB)",
    ),
    "Llama 3.1 8B, v5p-128": Run(
        pretrain("llama3.1-8b", "v5p-128", 64, 4, 4096, "matmuls", 128256),
        Program("minimal", 2.021, 1.722, 0.299, 52.1), (3.10, 2.93), None,
        "",
    ),
    "Llama 2 7B, v5p-128": Run(
        pretrain("llama2-7b", "v5p-128", 64, 4, 4096, "matmuls", 32000),
        Program("minimal", 1.763, 1.492, 0.271, 44.8), (2.75, 2.77), None,
        "",
    ),
    "Llama 2 7B, v5e-256": Run(
        pretrain("llama2-7b", "v5e-256", 256, 4, 2048, "projections", 32000),
        Program("save_qkv_proj", 2.360, 2.037, 0.323, 9.9), (3.05, 3.30), None,
        "",
    ),
}  # fmt: skip
