"""Memory and compilations of PPO over many updates of the demo's models; both should stay constant.

    python -m benchmarks.ppo.steady [--updates=100] [--rows=128]

The policy, critic, reward model and judge of configs/chains/demo.py, all with random weights, on
random prompts, and every setting of its PPO. An update is a rollout and the optimizer steps on it.
Prints at each rollout the programs compiled since the previous one, the number of live arrays and
their bytes, the bytes that malloc has allocated, and the resident memory of the process, which also
holds freed memory between allocations.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import jax
import ml_collections
import numpy as np
from absl import app, flags

from benchmarks import machine, results
from benchmarks.random_models import write_random
from configs.chains import demo
from data.pipeline import Data
from data.text.base import Tokenizer
from data.text.builtin import SPECIAL, BuiltinTokenizer
from model.config import TransformerConfig
from model.sizes import SIZES
from train import loop
from train.checkpoints import saved_models
from train.rl.rollout import RolloutSource
from train.runtime.metrics import quiet_to_file

_COMPILED = "/jax/core/compile/backend_compile_duration"


def random_prompts(
    length: int, train: int, heldout: int, seed: int = 0
) -> Callable[[Tokenizer], Data]:
    """`open_data` of `train.loop.run`: left-padded prompts of 2 to `length` random ids."""

    def open_data(tokenizer):
        rng = np.random.default_rng(seed)

        def rows(n):
            size = rng.integers(2, length + 1, (n, 1))
            tokens = rng.integers(len(SPECIAL), tokenizer.vocab_size, (n, length))
            mask = np.arange(length) >= length - size
            tokens = np.where(mask, tokens, tokenizer.pad_id).astype(np.int32)
            return {"tokens": tokens, "mask": mask, "example": np.zeros(n, np.int32)}

        return Data(rows(train), rows(heldout), [], collections.Counter())

    return open_data


class _Mallinfo(ctypes.Structure):
    """The result of glibc's mallinfo2."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks",
                     "uordblks", "fordblks", "keepcost")
    ]  # fmt: skip


def allocated_bytes() -> int:
    """The bytes that malloc has allocated and not freed in this process."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo
    now = mallinfo2()
    return now.uordblks + now.hblkhd


@contextlib.contextmanager
def watched() -> Iterator[list[dict]]:
    """Yields a list that grows by {compiled, arrays, array_bytes, allocated_bytes, resident_bytes,
    seconds} with every rollout: programs compiled since the previous rollout, and live memory."""
    rollouts, compiled = [], collections.Counter()
    rollout = RolloutSource.rollout

    def count(event: str, duration_secs: float, **metadata: str | int) -> None:
        compiled[event] += 1

    def watch(self, *args):
        out = rollout(self, *args)
        gc.collect()
        alive = jax.live_arrays()
        rollouts.append(
            {
                "compiled": compiled.pop(_COMPILED, 0),
                "arrays": len(alive),
                "array_bytes": sum(x.nbytes for x in alive),
                "allocated_bytes": allocated_bytes(),
                "resident_bytes": machine.resident_bytes(),
                "seconds": time.perf_counter(),
            }
        )
        return out

    jax.monitoring.register_event_duration_secs_listener(count)
    RolloutSource.rollout = watch
    try:
        yield rollouts
    finally:
        RolloutSource.rollout = rollout
        jax.monitoring.unregister_event_duration_listener(count)


def demo_ppo(directory: str, updates: int, rows: int) -> ml_collections.ConfigDict:
    """The demo's PPO, `rows` answers a rollout, from random models that are written to
    `directory`."""
    recipe = demo.stages()["ppo"]
    letters = "".join(chr(0x4E00 + i) for i in range(4096 - len(SPECIAL)))
    tokenizer = BuiltinTokenizer("char", letters.encode())
    model = TransformerConfig(vocab_size=tokenizer.vocab_size, **SIZES["demo"])
    origins = {role: origin for role, origin in recipe.init_from.items() if origin}
    for seed, (role, origin) in enumerate(origins.items()):
        path = f"{directory}/{origin}"
        write_random(path, saved_models.ITEM_OF.get(role, role), model, tokenizer, seed)
        recipe.init_from[role] = path
    recipe.steps = updates * recipe.rl.epochs
    recipe.data.batch_size = recipe.rl.rollout_batch = recipe.rl.eval_prompts = rows
    recipe.evaluate.samples = 0
    return recipe


def main(argv: Sequence[str]) -> None:
    del argv
    with tempfile.TemporaryDirectory() as directory, watched() as rollouts:
        quiet_to_file(f"{directory}/log.txt")
        updates, rows = flags.FLAGS.updates, flags.FLAGS.rows
        recipe = demo_ppo(directory, updates, rows)
        prompts = random_prompts(recipe.rl.prompt_length, rows * updates, rows)
        loop.run(recipe, f"{directory}/run", open_data=prompts)
    rows_shown = [
        [
            str(number), str(now["compiled"]), str(now["arrays"]),
            *(f"{now[f'{name}_bytes'] / 1e6:.1f}" for name in ("array", "allocated", "resident")),
            f"{now['seconds'] - rollouts[0]['seconds']:.1f}",
        ]
        for number, now in enumerate(rollouts, start=1)
        if number <= 5 or number % 10 == 0 or now["compiled"]
    ]  # fmt: skip
    columns = ("update", "compiled", "arrays", "array MB", "allocated MB", "resident MB", "seconds")
    table = results.Table(columns, rows_shown)
    results.report(results.Result("ppo.steady", [table], {"rollouts": rollouts}, results.given()))


if __name__ == "__main__":
    flags.DEFINE_integer("updates", 100, "Rollouts, each with its optimizer steps.")
    flags.DEFINE_integer("rows", 128, "Answers a rollout; the demo has 128.")
    results.define_flags()
    app.run(main)
