"""Memory of train steps on a TPU, by the compiler: writes docs/memory.md.

python -m benchmarks.memory              # compiles the steps that docs/memory.json lacks
python -m benchmarks.memory --only=llama-full --fresh
"""

from __future__ import annotations

from absl import app

from benchmarks import compiled
from model.config import REMAT_POLICIES

LLAMA = [
    "--config=configs/pretrain.py:size=llama3.1-8b", "--topology=v5p:4x4x4",
    "--vocab_size=128256",
    "--config.data.length=8192", "--config.data.batch_size=128",
    "--config.mesh.data=1", "--config.mesh.fsdp=64", "--config.model.dtype=bfloat16",
]  # fmt: skip
V6E = [
    "--topology=v6e:16x16", "--config.data.length=8192", "--config.model.dtype=bfloat16",
    "--config.model.remat=full", "--config.mesh.data=1",
]  # fmt: skip
GEMMA = [
    "--config=configs/pretrain.py:size=gemma3-12b", *V6E, "--vocab_size=262144",
    "--config.data.batch_size=64", "--config.mesh.fsdp=64", "--config.mesh.tensor=4",
]  # fmt: skip
MIXTRAL = [
    "--config=configs/pretrain.py:size=mixtral-8x7b", *V6E, "--vocab_size=32000",
    "--config.data.batch_size=256", "--config.mesh.fsdp=32", "--config.mesh.expert=8",
]  # fmt: skip
# {name: arguments of tpu.fit}
RUNS = {
    f"llama-{policy}": [*LLAMA, f"--config.model.remat={policy}"] for policy in REMAT_POLICIES
} | {"Gemma 3 12B": GEMMA, "Mixtral 8x7B": MIXTRAL}


def row(name: str, report: dict) -> str:
    if "error" in report:
        return f"| {name} | {report['error'].split('. ')[0]} | | | | | |"
    memory, moved = report["memory_gib"], report["collectives"]
    cells = [f"{memory[k]:.1f}" for k in ("peak", "state and batch", "temporaries", "host")]
    cells.append(f"{sum(c['gib'] for c in moved.values()):.0f}")
    splash = {n: t for n, t in report["kernels"].items() if n.startswith("splash")}
    cells.append(str(sum(splash.values())) if splash else "none")
    return f"| {name} | " + " | ".join(cells) + " |"


HEAD = """| | peak | state and batch | temporaries | on the host | collectives | splash calls |
|---|---|---|---|---|---|---|"""


def document(reports: dict[str, dict]) -> str:
    """docs/memory.md."""
    llama = {n.removeprefix("llama-"): r for n, r in reports.items() if n.startswith("llama-")}
    lines = [
        "# Memory of a device, by the compiler",
        "",
        "Written by `python -m benchmarks.memory` from docs/memory.json; no TPU was used. libtpu "
        "compiles the whole train step (AdamW with float32 moments, bfloat16 compute, float32 "
        "weights) for the slice and says what one device holds, in GiB. Collectives are the "
        "arrays of all collectives of a step, as one device holds them.",
        "",
        "## Llama 3.1 8B by remat policy",
        "",
        "TPU v5p 4x4x4, fsdp 64, 128 rows of 8,192 tokens a step (2 a device); a device has 95.",
        "",
        HEAD,
        *(row(f"`{policy}`", report) for policy, report in llama.items()),
    ]
    others = {n: r for n, r in reports.items() if not n.startswith("llama-")}
    if others:
        lines += [
            "",
            "## Other models",
            "",
            "TPU v6e 16x16, rows of 8,192 tokens, `full`; a device has 32. Gemma 3 12B: fsdp 64 × "
            "tensor 4, 64 rows a step. Mixtral 8x7B: fsdp 32 × expert 8, 256 rows.",
            "",
            HEAD,
            *(row(n, r) for n, r in others.items()),
        ]
    gathered = [n for n, r in reports.items() if r.get("whole_parameter_gathers")]
    lines += [
        "",
        "No step that fits gathers the weights of more than one layer at a time.",
    ]
    if gathered:
        lines[-1] = "These steps gather the weights of all layers at once: " + ", ".join(gathered)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    compiled.define_flags()
    app.run(lambda _: compiled.write("memory", RUNS, row, document))
