"""Memory and speed of the recipes of configs/pods.py, by the TPU compiler: writes docs/recipes.md.

python -m benchmarks.recipes             # compiles the steps that docs/recipes.json lacks
python -m benchmarks.recipes --only='ppo, v5e-256' --fresh
"""

from __future__ import annotations

import statistics
from typing import Any

from absl import app

from benchmarks import compiled
from configs import pods
from train.objectives import registry

GIB = 2**30
VOCABULARIES = {"gemma3-12b": 262_144, "mixtral-8x7b": 32_000}


def arguments(recipe: str, slice_: str, slices: int) -> list[str]:
    """The flags of `tpu.fit` for a recipe."""
    return [
        f"--config=configs/pods.py:recipe={recipe},slice={slice_},slices={slices}",
        f"--topology={slice_}", f"--slices={slices}",
        f"--vocab_size={VOCABULARIES.get(recipe, 128_256)}",
        *(["--config.init_from.reward=a reward stage"] if recipe == "ppo" else []),
    ]  # fmt: skip


def title(recipe: str, slice_: str, slices: int) -> str:
    return f"{recipe}, " + (f"{slices} × " if slices > 1 else "") + slice_


CASES = {
    title(*case): case
    for case in ((r, s, n) for n in (1, 2) for s in pods.SLICES for r in pods.RECIPES)
}
# Recipes compared on ever more chips, each with as many rows a chip as on the whole slice; on the
# smallest they are no recipes of their own.
SCALED = ("llama3.1-8b", "gemma3-12b", "mixtral-8x7b")
SIXTEEN, WHOLE = "v6e-16", "v6e-256"
RUNS = {name: arguments(*case) for name, case in CASES.items()}


def on_sixteen(recipe: str) -> list[str]:
    """The flags of `tpu.fit` for the recipe of the whole slice on sixteen chips."""
    settings: Any = pods.RECIPES[recipe][WHOLE]
    rows = settings["rows"] * 16 // 256
    flags = [flag for flag in arguments(recipe, WHOLE, 1) if not flag.startswith("--topology")]
    return [*flags, f"--topology={SIXTEEN}", f"--config.data.batch_size={rows}"]


RUNS |= {title(recipe, SIXTEEN, 1): on_sixteen(recipe) for recipe in SCALED}


def row(name: str, report: dict) -> str:
    """A line of the table of recipes; of sixteen chips, the tokens a second alone."""
    if name not in CASES:
        return f"{name}: {report.get('tokens_per_second_per_chip', 'does not fit')}"
    recipe, slice_, slices = CASES[name]
    config = pods.get_config(f"recipe={recipe},slice={slice_},slices={slices}")
    length = config.data.length
    if registry.STAGES[config.stage].rollouts:
        length = f"({config.rl.prompt_length:,} + {config.rl.response_length:,})"
    elif registry.STAGES[config.stage].schema == "preference":
        length = f"{config.data.sub_rows} × {length:,}"
    else:
        length = f"{length:,}"
    mesh = {k: v for k, v in config.mesh.items() if k != "fsdp" and v > 1}
    mesh["fsdp"] = ""  # the remaining devices
    if "mesh" in report:
        mesh = report["mesh"]
    cells = [
        recipe,
        title("", slice_, slices).removeprefix(", "),
        " × ".join(f"{axis} {size}".strip() for axis, size in mesh.items()),
        f"{config.data.batch_size:,} × {length}",
        f"`{config.model.remat}`",
    ]
    if not report["fits"]:
        return "| " + " | ".join([*cells, report["error"].split(". ")[0], "", "", "", ""]) + " |"
    seconds = report["seconds"]
    step = report["predicted_step_seconds"]
    programs = report.get("programs", {})
    mark = "¹" if _without_experts(name, report) else ""
    if programs:
        rollout = sum(p["predicted_step_seconds"] for n, p in programs.items() if n != "step")
        shown = f"**{step:.2f}** ({rollout:.1f} a rollout)"
    else:
        shown = f"**{step:.2f}**{mark} ({report['serial_step_seconds']:.2f})"
    cells += [
        shown,
        f"{seconds['ici']:.2f}; {seconds['dcn']:.2f}" if slices > 1 else f"{seconds['ici']:.2f}",
        f"{report['tokens_per_second_per_chip']:,.0f}",
        f"{report['predicted_mfu']:.1%}",
        f"{report['peak_bytes_per_chip'] / GIB:.1f} of {report['hbm_bytes_per_chip'] / GIB:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _without_experts(name: str, report: dict) -> bool:
    """Whether a report is of a mixture, from before grouped matmuls were counted."""
    return name.startswith("mixtral") and "made" not in report


def scaling(reports: dict[str, dict]) -> list[str]:
    """The table of weak scaling: tokens a second of a chip, as shares of those of sixteen chips."""
    lines = []
    for recipe in SCALED:
        names = [title(recipe, *where) for where in ((SIXTEEN, 1), (WHOLE, 1), (WHOLE, 2))]
        if not all(name in reports and reports[name]["fits"] for name in names):
            continue
        speeds = [reports[name]["tokens_per_second_per_chip"] for name in names]
        shares = [f"{speed:,.0f} ({speed / speeds[0]:.1%})" for speed in speeds]
        lines.append("| " + " | ".join([recipe, *shares]) + " |")
    return lines


def document(reports: dict[str, dict]) -> str:
    """docs/recipes.md."""
    seconds = [
        s
        for r in reports.values()
        for s in [p["compile_seconds"] for p in r.get("programs", {"": r}).values() if r["fits"]]
    ]
    lines = [
        "# Recipes for whole slices",
        "",
        "Written by `python -m benchmarks.recipes` from docs/recipes.json; no TPU was used: every "
        "line is configs/pods.py compiled by libtpu for that slice, and predicted as docs/fit.md "
        "describes. It trains with `--config=configs/pods.py:recipe=…,slice=…[,slices=2]`.",
        "",
        "bfloat16 compute, float32 weights, AdamW with float32 moments. `sft`, `reward` and `ppo` "
        "are of Llama 3.1 8B; PPO holds the policy, a critic, the reference and a reward model of "
        "that size, and its seconds are of a step with its share of the rollout, which is sampled, "
        "scored and evaluated by all four. In parentheses after seconds: the sum, were nothing "
        "overlapped. Links are within a slice; after the semicolon the network between slices.",
        "",
        "| recipe | slice | mesh | rows × length | remat | s/step | links, s | tokens/s a chip | "
        "MFU | peak GiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(row(name, report) for name, report in reports.items() if name in CASES),
    ]
    if any(_without_experts(name, report) for name, report in reports.items()):
        lines += ["", "¹ Compiled before the products of experts were counted, and without them."]
    if table := scaling(reports):
        lines += [
            "",
            "## Weak scaling",
            "",
            "Tokens a second of a chip with as many rows a chip on 16, 256 and 2 × 256 chips of "
            "v6e, and their share of what a chip of sixteen does; by `python -m "
            "benchmarks.recipes`.",
            "",
            f"| recipe | {SIXTEEN} | {WHOLE} | 2 × {WHOLE} |",
            "|---|---|---|---|",
            *table,
        ]
    if seconds:
        lines += [
            "",
            f"A program took {statistics.median(seconds):.0f} s to compile, the median, and at "
            f"most {max(seconds):.0f}, on two cores, some beside much other work.",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    compiled.define_flags()
    app.run(lambda _: compiled.write("recipes", RUNS, row, document))
