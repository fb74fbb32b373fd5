"""Several processes as one run: they join, agree on a step to stop at, and notice a lost peer.

Exit codes are the contract with the program that started the run (tpu/launch/supervise.py): 0 done,
1 a deterministic error, `PREEMPTED` preempted and saved, `UNSAVED` no checkpoint can be written,
`INTERRUPTED` ended by Ctrl-C (saved or not, as the message says), other codes of 128 and more a
signal, a lost peer, or a fault that has a name here.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from printable import escaped

PREEMPTED = 42
UNSAVED = 74  # EX_IOERR of sysexits.h
INTERRUPTED = 130  # as a shell's
TAKEN_OVER = 129  # the workdir has another owner (train/guards/lock.py)
LOOPBACK = ("127.0.0.1", "localhost")  # hosts of which no other machine is one
LOST = 134  # as if JAX's coordination service had aborted a process whose peer is gone
HUNG = 142  # as if killed by an alarm: something took too long (train/guards/watchdog.py)

# Functions that `end` calls, as nothing else runs any more.
before_leaving: list[Callable[[], None]] = []
PATIENCE = 2.0  # seconds that they have together

# Seconds for which a process that failed alone waits for the others, which may work or wait for it.
AGREEMENT = 300
_DAY = 86_400

_terminated = threading.Event()
_calls, _agreements = itertools.count(1), itertools.count(1)


class Stopped(Exception):
    """The run was asked to stop, and its state is saved."""


class Unsaved(Exception):
    """Checkpoints could not be written, several times in a row."""


def watch_for_preemption() -> None:
    """Makes SIGTERM ask the run to stop instead of ending it; for a process without peers."""
    signal.signal(signal.SIGTERM, lambda *_: _terminated.set())


def ask_to_stop() -> None:
    """Asks the run to save and stop, as SIGTERM does."""
    if joined():  # JAX tells the peers
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        _terminated.set()


def asked_to_stop() -> bool:
    """Whether to save and stop now. All processes call it once a step; it is true in all of them at
    the same step, soon after one of them was asked to."""
    if not joined():
        return _terminated.is_set()
    from jax.experimental import multihost_utils

    # Not the step: each stage of a chain begins at 0, and the service wants increasing numbers.
    return multihost_utils.reached_preemption_sync_point(next(_calls))


def first_failure(name: str, reason: str) -> str:
    """The reason why the first process that failed at `name` did, "" if none did. All processes
    call it, each with its own reason or "".

    It uses no collective of the devices, since another process may be in one: where that waits for
    this process, which failed before it, both would wait. This process leaves with `LOST` then,
    the others notice it, and all may be restarted.
    """
    if not joined():
        return reason
    from jax._src import distributed  # JAX has no public face for its key-value store

    state, call = distributed.global_state, next(_agreements)
    client: Any = state.client
    number = state.process_id
    client.key_value_set(f"seedpod/failure/{call}/{number}", f"-{reason[:1000]}")
    patience = (AGREEMENT if reason else _DAY) * 1000
    try:
        reasons = [
            client.blocking_key_value_get(f"seedpod/failure/{call}/{other}", patience)[1:]
            for other in range(state.num_processes)
        ]
    except RuntimeError:
        if not reason:
            raise
        leave(
            LOST,
            f"{name} failed in process {number} alone ({reason}), and the others did not end it "
            f"within {AGREEMENT} s. This process leaves, so that they do not wait for it",
        )
    if not number and call > 1:  # every process has read those of the call before
        client.key_value_delete(f"seedpod/failure/{call - 1}/")
    return next(filter(None, reasons), "")


def joined() -> bool:
    """Whether this process is one of a group."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def port_is_free(port: int, host: str = "") -> bool:
    """Whether a TCP port can be bound."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just left is free
        try:
            s.bind((host, port))
        except OSError:
            return False
    return True


def join(coordinator: str, count: int, number: int, peer_timeout: int, heartbeat: int) -> None:
    """Joins the other processes. On TPU all but the last two arguments are empty: JAX finds them.

    Args:
      coordinator: host:port of process 0. count, number: of processes, and of this one from 0.
      peer_timeout: seconds to wait for all.
      heartbeat: seconds after which a silent process counts as lost, and the others exit.

    Raises:
      ValueError: the port is taken, or the numbers are inconsistent. A peer that does not come ends
        the process with `LOST`: JAX aborts there, which cannot be caught.
    """
    import jax

    host, _, port = coordinator.rpartition(":")
    if coordinator and not (host and re.fullmatch(r"\d{1,5}", port) and 0 < int(port) < 65536):
        raise ValueError(f"--coordinator={coordinator}: write HOST:PORT")
    if coordinator and number >= count:
        raise ValueError(f"--process_id={number} is not below --num_processes={count}")
    local = host in LOOPBACK
    if coordinator and number == 0 and not port_is_free(int(port), host if local else ""):
        raise ValueError(
            f"port {port} is in use, perhaps by an earlier run; end that, or choose another port"
        )
    all_joined = threading.Event()

    def watch():
        if not all_joined.wait(peer_timeout):
            process = f"process {number} of {count}" if coordinator else "this process"
            address = f" at {coordinator}" if coordinator else ""
            leave(
                LOST,
                f"{process} waited {peer_timeout} s{address}, and not all processes joined; one is "
                "not running, or cannot reach the first",
            )

    threading.Thread(target=watch, daemon=True).start()
    settings: dict[str, Any] = {}
    if coordinator:
        settings = dict(coordinator_address=coordinator, num_processes=count, process_id=number,
                        cluster_detection_method="deactivate")  # fmt: skip
    if local:  # JAX listens on every interface otherwise
        settings["coordinator_bind_address"] = coordinator
        _keep_gloo_local(host)
    jax.distributed.initialize(
        **settings,
        initialization_timeout=peer_timeout + 60,  # after `watch`, which has a message
        heartbeat_timeout_seconds=heartbeat,
    )
    all_joined.set()


def _keep_gloo_local(host: str) -> None:
    """Makes gloo, the collectives of CPU devices, listen at a loopback address only. JAX has no
    setting for it, and gloo takes the interface of this machine's name."""
    from jax._src import distributed, xla_bridge
    from jaxlib import _jax

    def make_client():
        client = distributed.global_state.client
        gloo = _jax.make_gloo_tcp_collectives(distributed_client=client, hostname=host)
        return xla_bridge.make_cpu_client(gloo)

    xla_bridge.register_backend_factory("cpu", make_client, priority=0, fail_quietly=False)


def leave_with_parent() -> None:
    """Ends this process as soon as its standard input, a pipe of the program that started it, does:
    whatever has ended that program."""

    def wait():
        while os.read(0, 4096):  # a thread in `sys.stdin` would make Python's own end a crash
            pass
        end(INTERRUPTED)

    threading.Thread(target=wait, daemon=True).start()


def is_lost_peer(error: BaseException | None) -> bool:
    """Whether an error means that another process is gone, not that this one is at fault. An error
    whose message quotes text of others, such as answers, has a true `of_this_process`."""
    if getattr(error, "of_this_process", False):
        return False
    signs = ("Gloo", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "coordination service",
             "Connection reset", "Connection closed", "heartbeat")  # fmt: skip
    while error is not None:
        # JAX raises XLA's status UNKNOWN, as of Gloo, as a ValueError.
        if isinstance(error, RuntimeError | ValueError) and any(
            sign in str(error) for sign in signs
        ):
            return joined()
        error = error.__cause__ or error.__context__
    return False


def leave(code: int, message: str) -> NoReturn:
    """Ends this process at once: an ordinary exit would wait for processes that are gone."""
    print(escaped(f"error: {message}"), file=sys.stderr, flush=True)
    end(code)


def end(code: int) -> NoReturn:
    """Ends this process at once, without waiting for its threads or its peers."""

    def prepare():
        for function in list(before_leaving):
            function()

    thread = threading.Thread(target=prepare, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    sys.stdout.flush()
    os._exit(code)
