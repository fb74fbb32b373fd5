"""Checksums of arrays, independent of the mesh."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp


@jax.jit
def _checksums(tree):
    def checksum(x):
        bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32).reshape(-1)
        factors = jnp.arange(bits.size, dtype=jnp.uint32) * jnp.uint32(2654435761) | 1
        return jnp.sum((bits ^ (bits >> 15)) * factors, dtype=jnp.uint32)

    return jax.tree.map(checksum, tree)


def fingerprint(tree: Any) -> str:
    """A checksum of parameters, eight hex digits: independent of the mesh, sensitive to any bit."""
    return fold(checksums(tree))


def checksums(tree: Any) -> list[jax.Array]:
    """One checksum per parameter, in the order of the tree."""
    return jax.tree.leaves(_checksums(tree))


def fold(sums: Iterable[Any]) -> str:
    """The `fingerprint` of parameters with these `checksums`."""
    total = 0
    for value in sums:
        total = (total * 1_000_003 + int(value)) % 2**32
    return f"{total:08x}"
