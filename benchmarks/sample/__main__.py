"""Tokens a second of our sampler beside `transformers.generate`, with the same weights on this CPU.

    sh benchmarks/other_env.sh runs/other_env
    python -m benchmarks.sample --other_python=runs/other_env/bin/python
    python -m benchmarks.sample --other_python=runs/other_env/bin/python --dtype=bfloat16 \\
        --dtype=float32 --model=PATH/model.gguf

Without `--model` a random one of size 10m (384 wide, 6 layers) with a vocabulary of 4,096; the
weights go to the other side as a Hugging Face directory. Both compute in `--dtype`, a race for
each, with a cache, read `--prompt` random ids a row and sample `--new` more at temperature 1 over
the whole vocabulary; nothing stops a row. Both use the same cores: torch as threads, ours as
devices of JAX, between which rows are divided, or with `--tensor` heads and mlp, so that each reads
its part of the weights alone (JAX_NUM_CPU_DEVICES with `mesh.tensor` or `rl.decode_tensor` does the
same for a run). They take turns, ours in this process and theirs in another that waits; the first
turn of each, which compiles and warms up, is not counted, nor is loading theirs and preparing ours
(once, as chat does: `model.generate.prepare`). Then both decode greedily, and the rows are
compared.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags

from benchmarks import random_models, results, turns
from benchmarks.sample import race
from train.interop import published

COLUMNS = ("", "ours, tokens/s", "transformers, tokens/s", "ratio", "greedy rows equal")


def row(name: str, result: dict[str, Any]) -> list[str]:
    """The cells of a race."""
    return [
        name, turns.spread(result["ours"]), turns.spread(result["theirs"]),
        f"**{result['ratio']:.2f}**", f"{result['greedy_equal']} of {result['rows']}",
    ]  # fmt: skip


def sides(threads: int, tensor: int, dtypes: Sequence[str], attention: str) -> dict[str, dict]:
    """The settings of both."""
    divided = "heads and mlp" if tensor > 1 else "rows"
    dtype = " and ".join(dtypes)
    return {
        "ours": {
            "precision": f"weights and products in {dtype}; the cache in float32 on CPU",
            "threads": f"{threads} JAX devices in one process, {divided} divided between them",
            "allocator": "as this process inherits it",
            "execution": "compiled by XLA for these shapes, layers unrolled; the cache has its "
            "final length",
        },
        "transformers": {
            "precision": f"weights, products and cache in {dtype}",
            "threads": f"one process, OMP_NUM_THREADS={threads}",
            "allocator": "the same",
            "execution": f"eager (no torch.compile), attention {attention}, its default growing "
            "cache",
        },
    }


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    if given.threads % given.tensor or given.batch % (given.threads // given.tensor):
        raise app.UsageError(
            f"--threads={given.threads} must be a multiple of --tensor={given.tensor}, and "
            f"--batch={given.batch} of the devices that are left"
        )
    jax.config.update("jax_num_cpu_devices", given.threads)
    config, params = published.load(given.model) if given.model else random_models.random_model()
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (given.batch, given.prompt))
    size = sum(x.size for x in jax.tree.leaves(params)) / 1e6
    rows, figures, versions = [], {}, dict[str, str]()
    for dtype in given.dtype:
        config = dataclasses.replace(config, dtype=dtype)
        with tempfile.TemporaryDirectory() as directory:
            random_models.write_hf(directory, config, params)
            theirs = race.Theirs(given.other_python, directory, given.threads, given.attention)
        ours = race.Ours(config, params, jax.devices(), given.tensor)
        figures[dtype] = race.race(ours, theirs, ids.astype(np.int32), given.new, given.rounds)
        theirs.close()
        versions = theirs.versions
        rows.append(row(f"{size:.1f}M parameters, {dtype}", figures[dtype]))
    results.report(
        results.Result(
            "sample", [results.Table(COLUMNS, rows)], figures, results.given(),
            sides(given.threads, given.tensor, given.dtype, given.attention), versions,
        )
    )  # fmt: skip


if __name__ == "__main__":
    flags.DEFINE_string("other_python", None, "A Python that has torch and transformers.")
    flags.DEFINE_string("model", "", "A Hugging Face directory or GGUF file; empty: a random one.")
    flags.DEFINE_multi_enum(
        "dtype", ["float32"], ["float32", "bfloat16"],
        "Dtype of weights and matmuls; a race for each.",
    )  # fmt: skip
    flags.DEFINE_integer("batch", 32, "Rows.", lower_bound=1)
    flags.DEFINE_integer("prompt", 64, "Ids in the prompt of a row.", lower_bound=1)
    flags.DEFINE_integer("new", 64, "Ids sampled in a row.", lower_bound=1)
    flags.DEFINE_integer("rounds", 5, "Rounds that count.", lower_bound=1)
    flags.DEFINE_integer("threads", os.cpu_count(), "Threads of torch; devices of JAX, one a core.")
    flags.DEFINE_integer("tensor", 1, "Our devices that divide heads and mlp.", lower_bound=1)
    flags.DEFINE_enum("attention", "sdpa", ["sdpa", "eager"], "Attention of transformers.")
    results.define_flags()
    flags.mark_flag_as_required("other_python")
    app.run(main)
