"""Training and decoding a 1B Llama in bfloat16 on a GPU, beside PyTorch.

    sh benchmarks/other_env.sh runs/torch_env torch==2.13.0
    python -m benchmarks.train_gpu --other_python=runs/torch_env/bin/python
    python -m benchmarks.train_gpu --tiny

Both sides train the same shape (size 1b, vocabulary 128,256) on random rows of `--length` tokens:
weights, AdamW and its moments in float32, products in bfloat16, gradients clipped at 1. PyTorch is
compiled (torch.compile) and has flash attention (scaled_dot_product_attention). They take turns,
ours in this process and theirs in another that waits; the first turn compiles. Prints tokens a
second and MFU: causal FLOPs, attention counted once, over the peak of tpu/chips.py.

Then ours decodes `--decode_rows` rows; the time of a step is that of twice as many new tokens less
that of `--new`. The limit is the time to read every weight, and the cache as long as it is on
average, at the GPU's bandwidth.

Without a GPU it ends with an error; `--tiny` runs all of it on what there is with a tiny shape,
except for what other flags say.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

from benchmarks import results, turns, workers
from benchmarks.sample import race as sampling
from benchmarks.train_gpu import ours
from tpu import chips

WORKER = Path(__file__).with_name("torch_side.py")
TINY = {
    "size": "tiny",
    "vocab_size": 512,
    "rows": 2,
    "length": 32,
    "steps": 1,
    "prompt": 4,
    "new": 16,
}
FIELDS = ("vocab_size", "embed_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim",
          "mlp_dim", "rope_base", "norm_eps")  # fmt: skip


def train(
    mine: ours.Ours, theirs: workers.Worker | None, steps: int, rounds: int
) -> dict[str, Any]:
    """Tokens a second of each side, in every round."""

    def rate(run: Any, number: int) -> float:
        del number
        return steps * mine.tokens / run(steps=steps)["seconds"]

    sides = {"ours": mine.run} | ({"PyTorch": theirs.ask} if theirs else {})
    return turns.race({name: partial(rate, run) for name, run in sides.items()}, rounds)


def decode(mine: ours.Ours, rows: int, prompt: int, new: int, rounds: int) -> list[float]:
    """Seconds of a decode step, in every round."""
    sampler = sampling.Ours(mine.model, mine.state.trainable["policy"], jax.devices()[:1])
    prompts = np.random.default_rng(0).integers(mine.model.vocab_size, size=(rows, prompt))

    def seconds(count: int, number: int) -> float:
        del number
        return sampler.run(prompts.astype(np.int32), count, 1.0)[0]

    took = turns.race({"short": partial(seconds, new), "long": partial(seconds, 2 * new)}, rounds)
    return [(b - a) / new for a, b in zip(took["short"], took["long"], strict=True)]


def tables(
    mine: ours.Ours, kind: str, rates: dict[str, list[float]], steps: list[float], least: float
) -> list[results.Table]:
    """The tables of training and of decoding.

    Args:
      kind: JAX's `device_kind`. least: bytes that a decode step reads.
    """
    peak, rows = chips.PEAK_FLOPS.get(kind), []
    for name, values in rates.items():
        share = statistics.median(values) * mine.flops / peak if peak else None
        beside = f"**{turns.ratio(rates, 'ours', name):.2f}**" if name != "ours" else ""
        rows.append([name, turns.spread(values), f"{share:.1%}" if share else "–", beside])
    training = results.Table(("training", "tokens/s", "MFU", "ours / it"), rows)
    bandwidth, took = ours.BANDWIDTH.get(kind), statistics.median(steps)
    cells = [f"{1e3 * took:.3f}", f"{least / 1e9:.2f}", f"{least / took / 1e9:,.0f}"]
    cells.append(f"**{took * bandwidth / least:.2f}**" if bandwidth else "–")
    columns = ("decoding", "ms a step", "GB that it reads at least", "GB/s", "times the limit")
    return [training, results.Table(columns, [["ours", *cells]])]


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # both sides share the GPU
    device = jax.devices()[0]
    if device.platform != "gpu" and not given.tiny:
        sys.exit(
            f"error: no GPU is at hand: JAX has {device.device_kind} ({device.platform}). On a "
            "machine with one, EXTRAS=gpu make setup installs its library; --tiny runs a tiny "
            "shape on what there is"
        )
    values: dict[str, Any] = {name: given[name].value for name in TINY}
    if given.tiny:
        values |= {name: value for name, value in TINY.items() if not given[name].present}
    recipe = ours.recipe(values["size"], values["rows"], values["length"], given.remat)
    mine = ours.Ours(recipe, values["vocab_size"])
    theirs, versions = None, {}
    if given.other_python:
        shape = {name: getattr(mine.model, name) for name in FIELDS}
        shape |= {"vocab_size": mine.model.padded_vocab_size, "rows": values["rows"],
                  "length": values["length"], "compiled": given.compile}  # fmt: skip
        theirs = workers.Worker([given.other_python, WORKER, json.dumps(shape)])
        first = theirs.read()
        versions["torch"] = first["torch"]
        if first["parameters"] != mine.parameters:
            raise RuntimeError(f"PyTorch has {first['parameters']} weights, ours {mine.parameters}")
    rates = train(mine, theirs, values["steps"], given.rounds)
    if theirs:
        theirs.close()
    steps = decode(mine, given.decode_rows, values["prompt"], values["new"], given.rounds)
    params, length = mine.state.trainable["policy"], values["prompt"] + 1.5 * values["new"]
    least = ours.decoding_bytes(mine.model, params, given.decode_rows, length)
    figures = {"tokens_per_second": rates, "flops_per_token": mine.flops, "decode_seconds": steps,
               "decode_bytes": least, "parameters": mine.parameters}  # fmt: skip
    execution = "torch.compile, flash attention" if given.compile else "eager"
    sides = {"ours": {"execution": f"XLA, attention {mine.model.attention}, remat {given.remat}"},
             "PyTorch": {"execution": f"{execution}, no recomputation"}}  # fmt: skip
    results.report(
        results.Result(
            "train_gpu", tables(mine, device.device_kind, rates, steps, least), figures,
            results.given() | values, sides if theirs else {}, versions,
        )
    )  # fmt: skip


if __name__ == "__main__":
    flags.DEFINE_string("other_python", "", "A Python that has torch; empty: ours alone.")
    flags.DEFINE_bool("tiny", False, "A tiny shape, on whatever device there is.")
    flags.DEFINE_bool("compile", True, "Whether PyTorch's step goes through torch.compile.")
    flags.DEFINE_string("size", "1b", "A row of model/sizes.py, a Llama with a tied vocabulary.")
    flags.DEFINE_integer("vocab_size", 128256, "Ids.", lower_bound=16)
    flags.DEFINE_integer("rows", 4, "Rows of a train step.", lower_bound=1)
    flags.DEFINE_integer("length", 4096, "Tokens of a row.", lower_bound=2)
    flags.DEFINE_string("remat", "minimal", "What our backward pass computes again.")
    flags.DEFINE_integer("steps", 5, "Train steps of a turn.", lower_bound=1)
    flags.DEFINE_integer("decode_rows", 8, "Rows that decode.", lower_bound=1)
    flags.DEFINE_integer("prompt", 512, "Ids in the prompt of a row that decodes.", lower_bound=1)
    flags.DEFINE_integer("new", 128, "Ids decoded, and twice as many.", lower_bound=1)
    flags.DEFINE_integer("rounds", 5, "Rounds that count.", lower_bound=1)
    results.define_flags()
    app.run(main)
