"""Several processes on this machine, joined over loopback like the hosts of a slice.

Each has its own CPU devices; collectives use gloo. As on a pod, all run the same command, with the
same exit codes (train/runtime/processes.py).
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable

from train.runtime.processes import PREEMPTED, UNSAVED, before_leaving, port_is_free

HOST = "127.0.0.1"


def free_port() -> int:
    """A TCP port that no program uses."""
    with socket.socket() as s:
        s.bind((HOST, 0))
        return s.getsockname()[1]


def environment(devices: int) -> dict[str, str]:
    """The environment variables of a worker with `devices` CPU devices."""
    env = dict(os.environ, JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES=str(devices))
    env["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] = "gloo"
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", env.get("XLA_FLAGS", ""))
    return env | {"XLA_FLAGS": flags.strip()}


def exit_code(codes: Iterable[int]) -> int:
    """The group's exit code: of a deterministic error, else of a lost process or one that could not
    save, else 42 or 0."""
    codes = [128 - code if code < 0 else code for code in codes]
    errors = [code for code in codes if 0 < code < 128 and code not in (PREEMPTED, UNSAVED)]
    lost = [code for code in codes if code >= 128 or code == UNSAVED]
    return next(iter(errors + lost), PREEMPTED if PREEMPTED in codes else 0)


class Printer:
    """Prints the lines of worker 0, and those of others with their number, each text once."""

    def __init__(self):
        self._printed, self._lock = set[str](), threading.Lock()

    def relay(self, number: int, stream: Iterable[str]) -> None:
        """Prints the lines of a worker's stream until it ends."""
        for line in stream:
            if line.startswith("[Gloo]"):
                continue
            with self._lock:
                if number == 0 or line not in self._printed:
                    print(line if number == 0 else f"[{number}] {line}", end="", flush=True)
                self._printed.add(line)


def run(
    command: list[str],
    processes: int,
    devices: int,
    port: int = 0,
    peer_timeout: int = 60,
    heartbeat: int = 10,
) -> int:
    """Runs a command, `[module, flags…]`, in joined processes; returns `exit_code`.

    SIGTERM and SIGINT are forwarded to the workers, SIGTERM also to the previous handler. When a
    worker has failed, the others have the heartbeat and 10 seconds to notice; then they are killed,
    even a frozen one.

    Raises:
      ValueError: the port is taken.
    """
    if port and not port_is_free(port, HOST):
        raise ValueError(f"port {port} is in use; end the program there, or leave --port out")
    port, printer = port or free_port(), Printer()
    joining = [f"--coordinator={HOST}:{port}", f"--num_processes={processes}", "--distributed",
               f"--peer_timeout={peer_timeout}", f"--heartbeat={heartbeat}"]  # fmt: skip
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", *command, *joining, f"--process_id={number}"],
            env=environment(devices),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a Ctrl-C reaches them once, through this process
        )
        for number in range(processes)
    ]

    def forward(number, frame):
        handler = handlers[number]
        if number == signal.SIGTERM and callable(handler):
            handler(number, frame)
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(number)

    readers = [
        threading.Thread(target=printer.relay, args=(n, w.stdout), daemon=True)
        for n, w in enumerate(workers)
    ]

    def kill():
        for worker in workers:
            if worker.poll() is None:
                worker.kill()

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in handlers:
        signal.signal(number, forward)
    before_leaving.append(kill)
    try:
        for reader in readers:
            reader.start()
        return exit_code(_wait(workers, heartbeat + 10))
    finally:
        before_leaving.remove(kill)
        kill()
        for reader in readers:
            reader.join(5)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _wait(workers, patience: float) -> list[int]:
    """Exit codes of the workers that ended by themselves, within `patience` of a failure."""
    deadline = None
    while True:
        codes = [worker.poll() for worker in workers]
        if None not in codes:
            return codes
        if deadline is None and any(code not in (None, 0, PREEMPTED) for code in codes):
            deadline = time.monotonic() + patience
        if deadline and time.monotonic() > deadline:
            return [code for code in codes if code is not None]
        time.sleep(0.1)
