"""A plugin with an evaluation that raises in the second process alone, after each has written where
it listens into the folder $LISTENING."""

import contextlib
import json
import os
from pathlib import Path

import jax

from train.evals.registry import evaluation

LOOPBACK = ("0100007F", "0" * 24 + "01000000", "0000000000000000FFFF00000100007F")


def listening():
    """(the number of sockets at which this process listens, the addresses among theirs that other
    machines reach)."""
    own = set()
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            own.add(os.readlink(fd))
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]
    ]
    sockets = [x[1] for x in lines if x[3] == "0A" and f"socket:[{x[9]}]" in own]
    return len(sockets), [x for x in sockets if x.partition(":")[0] not in LOOPBACK]


@evaluation("picky", ("text",))
def picky(ctx, data, stage):
    def evaluate(trainable, frozen):
        number = jax.process_index()
        with open(Path(os.environ["LISTENING"]) / f"listening-{number}.txt", "a") as file:
            print(json.dumps(listening()), file=file)
        if number == 1:
            raise KeyError("only here")
        return {"n": 1.0}, []

    return evaluate
