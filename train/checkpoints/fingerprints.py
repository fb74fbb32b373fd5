"""Checksums of arrays, independent of the mesh and sensitive to every bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def _words(x: jax.Array) -> jax.Array:
    """The bits of every value as a uint32, those of a value of 8 bytes as two on a last axis.

    A bfloat16 has the bits of the float32 with its value, so that weights have the same fingerprint
    in both.
    """
    if x.dtype.itemsize == 8:
        return jax.lax.bitcast_convert_type(x, jnp.uint32)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x.astype(jnp.uint32)
    width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(x, width).astype(jnp.uint32)
    return bits << 16 if x.dtype == jnp.bfloat16 else bits


def _checksum(x: jax.Array) -> jax.Array:
    """The wraparound sum of the words, each hashed by a bijection and weighed with an odd factor:
    a change of one word always changes it. Positions are of the row-major order, without a reshape,
    which would gather a sharded array."""
    bits = _words(x)
    position, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        index = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        position += index * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    factors = position * jnp.uint32(2654435761) | 1
    return jnp.sum((bits ^ (bits >> 15)) * factors, dtype=jnp.uint32)


@jax.jit
def _checksums(tree):
    return jax.tree.map(_checksum, tree)


@jax.jit
def _survey(arrays):
    """(checksum, whether all values are finite) of each array."""

    def finite(x):
        is_float = jnp.issubdtype(x.dtype, jnp.inexact)
        return jnp.all(jnp.isfinite(x)) if is_float else jnp.bool(True)

    return jnp.stack([_checksum(x) for x in arrays]), jnp.stack([finite(x) for x in arrays])


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


def survey(trees: Mapping[str, Any]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Describes every array of some trees, in one computation on their devices.

    Returns:
      ({tree: {path: `dtype[shape] checksum`}}, [tree/path of an array with a NaN or an infinity]).
    """
    named = [
        (name, jax.tree_util.keystr(path, simple=True, separator="/"), x)
        for name, tree in trees.items()
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    ]
    sums, finite = jax.device_get(_survey([_on_device(x) for *_, x in named]))
    texts: dict[str, dict[str, str]] = {name: {} for name in trees}
    for (name, path, x), value in zip(named, sums, strict=True):
        texts[name][path] = f"{x.dtype}{list(x.shape)} {value:08x}"
    bad = [
        f"{name}/{path}" for (name, path, _), good in zip(named, finite, strict=True) if not good
    ]
    return texts, bad


def _on_device(x):
    """A host array of 8 bytes a value as words, since JAX would take half of them."""
    host = isinstance(x, np.ndarray) and x.dtype.itemsize == 8
    return np.ascontiguousarray(x).reshape(*x.shape, 1).view(np.uint32) if host else x
