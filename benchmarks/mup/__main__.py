"""The best learning rate by width, in the standard parametrization and in μP.

    python -m benchmarks.mup

Llama forms of two layers, 64 to 512 wide, read the bytes of examples/shakespeare for a few dozen
steps of AdamW with each of a series of rates; the loss is that of held-out text after the last. The
best rate is the least of the parabola through the three best neighbours, on logarithmic rates. At
the base width, 64, both parametrizations are one. Minutes on two cores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import results
from model import cpu, vocabulary
from model.config import PARAMETRIZATIONS, TransformerConfig
from model.transformer import Transformer
from train.assembly.mup import scale_rates
from train.optimizer import OptimizerConfig, make_optimizer, rate_tables

TEXT = Path(__file__).parents[2] / "examples" / "shakespeare"
BASE = 64
ROWS, LENGTH, HELD_OUT = 16, 64, 64
RATES = [2.0**power for power in range(-11, -3)]


def config(width: int, parametrization: str) -> TransformerConfig:
    base: dict[str, Any] = {"base_width": BASE} if parametrization == "mup" else {}
    return TransformerConfig(
        vocab_size=256, embed_dim=width, num_layers=2, num_heads=width // 64,
        num_kv_heads=width // 64, head_dim=64, mlp_dim=2 * width, tie_embeddings=False,
        scan_unroll=0, max_length=LENGTH, parametrization=parametrization, **base,
    )  # fmt: skip


def batches(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of the text: ([steps, ROWS, LENGTH], [HELD_OUT, LENGTH] of its end) int32."""
    text = b"".join(path.read_bytes() for path in sorted(TEXT.glob("*.txt")))
    rows = np.frombuffer(text[: len(text) // LENGTH * LENGTH], np.uint8).reshape(-1, LENGTH)
    order = np.random.default_rng(0).permutation(len(rows) - HELD_OUT)
    picked = np.resize(order, steps * ROWS).reshape(steps, ROWS)
    return rows[picked].astype(np.int32), rows[-HELD_OUT:].astype(np.int32)


def losses(width: int, parametrization: str, rates: Sequence[float], steps: int) -> list[float]:
    """The held-out loss, in nats a byte, after training with each rate."""
    c, settings = config(width, parametrization), OptimizerConfig(warmup_steps=steps // 5)
    model, configs = Transformer(c), {"policy": settings}
    tx = scale_rates(make_optimizer(configs, steps), configs, {"policy": c.width_ratio})
    data, heldout = batches(steps)

    def loss(params, tokens):
        logits = jnp.asarray(model.apply({"params": params["policy"]}, tokens))
        return -jnp.mean(vocabulary.log_probs(logits[:, :-1], tokens[:, 1:], 1.0))

    def train(params, tables, data, heldout):
        def step(carry, tokens):
            params, state = carry
            gradient = jax.grad(loss)(params, tokens)
            updates, state = tx.update(gradient, state, params, rates=tables)
            return (jax.tree.map(jnp.add, params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), data)
        return loss(params, heldout)

    params = {"policy": nn.unbox(jax.jit(model.init)(jax.random.key(0), heldout[:1]))["params"]}
    run, found = jax.jit(train), []
    for rate in rates:
        tables = rate_tables({"policy": dataclasses.replace(settings, peak_lr=rate)}, steps)
        found.append(float(run(params, tables, data, heldout)))
    return found


def best(rates: Sequence[float], found: Sequence[float]) -> float:
    """The rate with the least loss, between those that were tried."""
    values = np.nan_to_num(np.array(found), nan=np.inf)
    i = int(np.clip(np.argmin(values), 1, len(values) - 2))
    x, y = np.log(rates[i - 1 : i + 2]), values[i - 1 : i + 2]
    if not np.all(np.isfinite(y)) or np.argmin(values) != i:
        return float(rates[int(np.argmin(values))])
    a, b, _ = np.polyfit(x, y, 2)
    return float(np.exp(-b / (2 * a)))


def main(argv: Sequence[str]) -> None:
    del argv
    f = flags.FLAGS
    cpu.keep_memory()
    widths, rows, found = [int(width) for width in f.widths], [], {}
    for parametrization in PARAMETRIZATIONS:
        found[parametrization] = [losses(w, parametrization, RATES, f.steps) for w in widths]
        rates = [best(RATES, values) for values in found[parametrization]]
        factor = max(rates[0], rates[-1]) / min(rates[0], rates[-1])
        rows.append([parametrization, *(f"{rate:.5f}" for rate in rates), f"**{factor:.2f}**"])
    columns = ("best rate", *(f"width {width}" for width in widths), "moves by a factor of")
    figures = {"rates": RATES, "losses": found}
    results.report(results.Result("mup", [results.Table(columns, rows)], figures, results.given()))


if __name__ == "__main__":
    flags.DEFINE_list("widths", ["64", "512"], "The widths, multiples of 64.")
    flags.DEFINE_integer("steps", 60, "Optimizer steps of a run.", 10)
    results.define_flags()
    app.run(main)
