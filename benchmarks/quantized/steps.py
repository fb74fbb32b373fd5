"""Steps of Llama 3.1 8B in 8 bits beside bfloat16, by the TPU compiler.

    python -m benchmarks.quantized.steps --json=docs/benchmarks/quantized-steps.json

Compiles the recipes of configs/pods.py with each value of `model.matmul`, and keeps each as soon as
it is compiled. What the file of --json has is compiled again only with --fresh. Needs libtpu
(`pip install 'jax[tpu]'`), no TPU.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import compiled, results
from configs import pods

SLICES = ("v5e-256", "v6e-256")
VALUES = ("dtype", "int8", "int8_tensor")
CASES = {f"{slice_}, {matmul}": (slice_, matmul) for slice_ in SLICES for matmul in VALUES}
COLUMNS = ("slice, rows × length, remat", "matmul", "s/step", "ratio",
           "instructions + kernels; links, s", "tokens/s a chip", "peak GiB")  # fmt: skip


def arguments(slice_: str, matmul: str) -> list[str]:
    """The flags of `tpu.fit`."""
    return [
        f"--config=configs/pods.py:recipe=llama3.1-8b,slice={slice_}", f"--topology={slice_}",
        "--vocab_size=128256", f"--config.model.matmul={matmul}",
    ]  # fmt: skip


def row(name: str, reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The cells of a step; its ratio is to the one in bfloat16, where that is known."""
    (slice_, matmul), report = CASES[name], reports[name]
    config = pods.get_config(f"recipe=llama3.1-8b,slice={slice_}")
    what = f"{slice_}, {config.data.batch_size} × {config.data.length:,}, `{config.model.remat}`"
    if not report["fits"]:
        return [what, f"`{matmul}`", "does not fit", *[""] * 4]
    seconds, memory = report["seconds"], report["memory_gib"]
    step, base = report["predicted_step_seconds"], reports.get(f"{slice_}, dtype")
    return [
        what,
        f"`{matmul}`",
        f"**{step:.3f}**",
        f"{step / base['predicted_step_seconds']:.2f}" if base else "",
        f"{seconds['compute']:.3f} + {seconds['kernels']:.3f}; {seconds['ici']:.3f}",
        f"{report['tokens_per_second_per_chip']:,.0f}",
        f"{memory['peak']:.1f} of {memory['device has']}",
    ]


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    if unknown := set(given.only) - set(CASES):
        sys.exit(f"error: --only={unknown.pop()}: the steps are {', '.join(CASES)}")
    kept = Path(given.json) if given.json else None
    reports: dict[str, Any] = {}
    if kept and kept.exists():
        reports = json.loads(kept.read_text())["figures"]
    for name in given.only or CASES:
        if name in reports and not given.fresh:
            continue
        print(f"compiling {name} …", flush=True)
        reports[name] = compiled.compile_one(arguments(*CASES[name]))
        reports = {n: reports[n] for n in CASES if n in reports}
        results.report(
            results.Result(
                benchmark="quantized.steps",
                tables=[results.Table(COLUMNS, [row(n, reports) for n in reports])],
                figures=reports,
                options={"model": "Llama 3.1 8B", "recipes": "configs/pods.py"},
                versions={n: v for n, v in reports[name].get("made", {}).items() if n != "date"},
            )
        )


if __name__ == "__main__":
    compiled.define_flags()
    results.define_flags()
    app.run(main)
