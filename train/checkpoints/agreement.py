"""Decisions about a checkpoint that all processes of a run take alike."""

from __future__ import annotations

import logging

import jax
import numpy as np
from jax.experimental import multihost_utils


def decided(flag: bool) -> bool:
    """What process 0 says. All processes call it."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(flag)))


def objection(reason: str) -> str:
    """`reason` if it is not empty, else a text about the first process whose reason is not; "" if
    all are empty. All processes call it, and each has its own reason in its log."""
    if reason:
        logging.warning("checkpoint: %s", reason)
    if jax.process_count() == 1:
        return reason
    objects = multihost_utils.process_allgather(np.asarray(bool(reason)))
    if reason or not objects.any():
        return reason
    return f"process {int(np.argmax(objects))} could not read or write its part (its log says why)"
