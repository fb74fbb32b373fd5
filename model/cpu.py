"""Workarounds for XLA on CPU. On every other platform each function is the plain operation.

Axes: D inputs, F outputs.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from model.sharding import batch_shards, platform

# Rows that `sum_used_rows` computes at once: their logits over a few thousand ids fit a cache.
PART = 512
# Rows on a device up to which a product is faster as the transpose of its transpose.
FEW = 32

# Parameters of glibc's mallopt (malloc.h): no block is mapped by itself, the heap grows by 256 MiB
# and never shrinks, and all threads share it.
_MALLOPT = {"M_MMAP_MAX": (-4, 0), "M_TOP_PAD": (-2, 1 << 28), "M_TRIM_THRESHOLD": (-1, -1),
            "M_ARENA_MAX": (-8, 1)}  # fmt: skip
_MADV_HUGEPAGE = 14
# The address space that is reserved for huge pages. Memory is taken when it is used.
HEAP_BYTES = 4 << 30
_BEHIND = 1 << 28  # of a block that no gap in the heap has room for; its memory is not used


class TransposedWeight(NamedTuple):
    """A weight [D, F] stored as [F, D], for `matmul` with few rows. It has no gradient."""

    rows: Array


def fence(x: Array) -> Array:
    """x [n, …], unchanged; on CPU, XLA does not fuse operations across it.

    On CPU it is a gather of all rows, because XLA there drops an optimization barrier before it
    fuses.
    """
    return x[jnp.arange(x.shape[0])] if platform() == "cpu" else x


def compute_once(x: Array) -> Array:
    """x [B, T, …], unchanged; without it XLA on CPU recomputes x in each of its consumers."""
    # XLA sees through a gather of one row, so with T = 1 the fence is one axis further in.
    return jax.vmap(fence if x.shape[1] > 1 else jax.vmap(fence))(x)


def forward_matmul(x: Array, w: Array) -> Array:
    """x [..., D] @ w [D, F] without the gradient of `matmul`.

    bfloat16 on CPU is summed in float32 and rounded: XLA has fast instructions for that form alone.
    """
    if x.dtype == jnp.bfloat16 and platform() == "cpu":
        return jnp.matmul(x, w, preferred_element_type=jnp.float32).astype(x.dtype)
    return jnp.matmul(x, w)


def matmul(x: Array, w: Array | TransposedWeight) -> Array:
    """x [..., D] @ w [D, F], an array or a `TransposedWeight` -> [..., F]."""
    if not isinstance(w, TransposedWeight):
        return _matmul(x, w)
    if platform() != "cpu":
        return forward_matmul(x, w.rows.T)
    x2d = x.reshape(-1, x.shape[-1])
    # With `.T` in place of these axes XLA on CPU does not use its instructions for bfloat16.
    contract_last = partial(
        jax.lax.dot_general,
        dimension_numbers=(((1,), (1,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
    if not computes_transpose(x, w):
        out = contract_last(x2d, w.rows)
    elif len(w.rows) % 2:
        out = fence(contract_last(w.rows, x2d)).T
    else:  # XLA would fold a plain `.T` into the product; a gather takes longer than this.
        out = contract_last(w.rows, x2d).reshape(2, len(w.rows) // 2, -1)
        out = out.transpose(2, 0, 1).reshape(len(x2d), -1)
    return out.astype(x.dtype).reshape(*x.shape[:-1], len(w.rows))


@jax.custom_vjp
def _matmul(x, w):
    """The product with an array.

    The gradient is written out because XLA's fast matmuls on CPU transpose the right operand but
    not the left: for a weight's gradient the left operand is transposed first. The mathematics is
    the ordinary product's.
    """
    return forward_matmul(x, w)


def _matmul_fwd(x, w):
    return _matmul(x, w), (x, w)


def _matmul_bwd(saved, g):
    x, w = saved
    if platform() != "cpu":
        rows = tuple(range(x.ndim - 1))  # not merged, for which XLA on TPU would copy arrays
        return forward_matmul(g, w.T), jax.lax.dot_general(x, g, ((rows, rows), ((), ())))
    x2d, g2d = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    dx = forward_matmul(g, w.T)
    if x2d.shape[1] > g2d.shape[1]:
        # The smaller operand is transposed.
        return dx, fence(forward_matmul(fence(g2d.T), x2d)).T
    return dx, forward_matmul(fence(x2d.T), g2d)


_matmul.defvjp(_matmul_fwd, _matmul_bwd)


def scores(q: Array, k: Array) -> Array:
    """q [B, K, M, N] · k [B, K, S, N] -> float32 [B, K, M, S]."""
    return _scores(q, k) if _writes_gradients(q) else _contract(q, k, 3, 3)


def weighted_sums(weights: Array, v: Array) -> Array:
    """weights [B, K, M, S] @ v [B, K, S, N] -> float32 [B, K, M, N]."""
    return _sums(weights, v) if _writes_gradients(v) else _contract(weights, v, 3, 2)


def _writes_gradients(x):
    return platform() == "cpu" and x.dtype == jnp.float32


def _contract(a, b, axis, other_axis):
    """The product of a and b [B, K, …] over an axis of each, summed in float32."""
    dimensions = (((axis,), (other_axis,)), ((0, 1), (0, 1)))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


# Gradients of the products of attention are written out because JAX contracts the first axis of
# [M, S], for which XLA on CPU has no fast product: here it is transposed before.
def _transposed_product(a, b):
    """The transpose of a [B, K, M, S], times b [B, K, M, N]."""
    return _contract(jax.vmap(jax.vmap(fence))(a.swapaxes(2, 3)), b, 3, 2)


@jax.custom_vjp
def _scores(q, k):
    return _contract(q, k, 3, 3)


def _scores_bwd(saved, g):
    q, k = saved
    return _contract(g, k, 3, 2), _transposed_product(g, q)


_scores.defvjp(lambda q, k: (_scores(q, k), (q, k)), _scores_bwd)


@jax.custom_vjp
def _sums(weights, v):
    return _contract(weights, v, 3, 2)


def _sums_bwd(saved, g):
    weights, v = saved
    return _contract(g, v, 3, 3), _transposed_product(weights, g)


_sums.defvjp(lambda weights, v: (_sums(weights, v), (weights, v)), _sums_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def sum_used_rows(
    function: Callable[..., tuple[Array, Array]], table: Array, rows: Array, ids: Array, mask: Array
) -> tuple[Array, Array]:
    """function(table, rows, ids, mask), sums over rows, without the rows whose mask is 0.

    The rows in use are computed `PART` at a time, and where a gradient is taken, with it: nothing
    that the function computes is kept for a backward pass.

    Args:
      function: -> (the sum whose gradient is taken, another sum); float32 scalars.
      table: any array. rows: [n, D]. ids, mask: [n].

    Returns:
      The two sums. The second has no gradient, and neither have `ids` and `mask`.
    """

    def add(sums, *part):
        return jax.tree.map(jnp.add, sums, function(table, *part)), ()

    return _scan_used(add, (jnp.float32(0), jnp.float32(0)), rows, ids, mask)[0]


def _sum_used_rows_fwd(function, table, rows, ids, mask):
    learned = table.perturbed  # a frozen one has no gradient
    table, rows, ids, mask = (x.value for x in (table, rows, ids, mask))

    def add(carry, rows, ids, mask):
        sums, gradient = carry
        total, back, other = jax.vjp(
            lambda table, rows: function(table, rows, ids, mask), table, rows, has_aux=True
        )
        for_table, for_rows = back(jnp.ones_like(total))
        gradient = gradient + for_table if learned else None
        return ((sums[0] + total, sums[1] + other), gradient), for_rows

    start = (jnp.float32(0), jnp.float32(0)), jnp.zeros_like(table) if learned else None
    (sums, for_table), for_rows = _scan_used(add, start, rows, ids, mask)
    return sums, (for_table, for_rows)


def _sum_used_rows_bwd(function, gradients, g):
    total = g[0]
    if isinstance(total, SymbolicZero):
        return None, None, None, None
    return *(None if x is None else x * total.astype(x.dtype) for x in gradients), None, None


sum_used_rows.defvjp(_sum_used_rows_fwd, _sum_used_rows_bwd, symbolic_zeros=True)


def _scan_used(f, carry, rows, ids, mask):
    """`jax.lax.scan` of f(carry, rows, ids, mask) over the rows whose mask is not 0, in parts of at
    most `PART`: (carry, results of f a row, in the order of the rows; 0 of a row out of use)."""
    used = mask != 0
    count = jnp.sum(used, dtype=jnp.int32)
    place = jnp.where(used, jnp.cumsum(used), count + jnp.cumsum(~used)) - 1  # those in use first
    parts = -(-len(mask) // PART)
    width = -(-len(mask) // parts)
    order = jnp.pad(jnp.argsort(place), (0, parts * width - len(mask)))

    def part(carry, xs):
        places, order = xs
        own = rows[order], ids[order], jnp.where(places < count, mask[order], 0)
        empty = jax.tree.map(jnp.zeros_like, jax.eval_shape(f, carry, *own)[1])
        return jax.lax.cond(places[0] < count, lambda: f(carry, *own), lambda: (carry, empty))

    xs = jnp.arange(parts * width), order
    carry, out = jax.lax.scan(part, carry, tuple(x.reshape(parts, width) for x in xs))
    return carry, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[place], out)


def stores_transposed(dtype: jnp.dtype) -> bool:
    """Whether decoding in this dtype is faster with a `TransposedWeight` for each weight. In
    float32 either layout is read equally fast."""
    return platform() == "cpu" and dtype == jnp.bfloat16


def transposed_weight(w: Array) -> Array:
    """The rows [F, D] of a weight [D, F], for a `TransposedWeight`."""
    return fence(w.T)


def computes_transpose(x: Array, w: Array | TransposedWeight | None) -> bool:
    """Whether `matmul(x, w)` computes the transpose of the product.

    XLA's fast matmuls on CPU copy the right operand into tiles at every call, and read the left
    operand in place. With few rows, as in decoding, the weight is better the left operand.
    """
    if not isinstance(w, TransposedWeight) or platform() != "cpu":
        return False
    mesh = jax.sharding.get_abstract_mesh()
    return x.size <= FEW * x.shape[-1] * (1 if mesh.empty else batch_shards(mesh))


def gated(
    activation: Callable[[Array], Array], gate: Array, up: Array,
    next_weight: Array | TransposedWeight | None,
) -> Array:  # fmt: skip
    """activation(gate) · up, both [..., F].

    bfloat16 on CPU is computed in float32 and rounded once: XLA takes longer to round there than
    to compute.

    Args:
      activation: a function of an array.
      next_weight: the weight [F, …] by which the result is multiplied, or None. Where `matmul`
        computes a transpose, the result is computed transposed too, in the layout of its arguments.
    """
    if gate.dtype == jnp.float32 or platform() != "cpu":
        return activation(gate) * up
    shape, dtype = gate.shape, gate.dtype
    transposed = computes_transpose(gate, next_weight)
    if transposed:
        gate, up = (x.reshape(-1, shape[-1]).T for x in (gate, up))
    out = activation(gate.astype(jnp.float32)) * up.astype(jnp.float32)
    out = out.astype(dtype)
    return out.T.reshape(shape) if transposed else out


def cache_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype of cached keys and values: the activations'; on CPU float32, where XLA updates a
    bfloat16 array by converting all of it to float32 and back, at every token."""
    return jnp.float32 if platform() == "cpu" else dtype


def caches_keys_transposed(queries_per_key: int) -> bool:
    """Whether cached keys are [..., N, S] in place of [..., S, N].

    On CPU, where several query heads read a key head: a core then sums the products of many slots
    side by side, where the sum of one slot would run along its registers. A single query head
    gains nothing from it, and writing a key to N places costs more.
    """
    return queries_per_key > 1 and platform() == "cpu"


def run_once_options() -> dict[str, str]:
    """Compiler options of a program that runs once or seldom: on CPU XLA compiles with the least
    optimization that computes the same bits, in half the time. XLA_FLAGS has precedence."""
    level = "xla_backend_optimization_level"
    if platform() != "cpu" or level in os.environ.get("XLA_FLAGS", ""):
        return {}
    return {level: "1"}


def in_place_options() -> dict[str, bool]:
    """Compiler options of a program whose results replace its donated arguments: on CPU XLA, by
    default, first copies all that it reads more than once, as parameters and moments."""
    return {"xla_cpu_copy_insertion_use_region_analysis": True} if platform() == "cpu" else {}


def keep_memory() -> None:
    """Makes glibc's malloc keep what XLA frees, in huge pages where the kernel has them.

    By default it returns large blocks to the kernel and gets them again page by page, which takes a
    third of the time of a train step. The settings are those of MALLOC_MMAP_MAX_ and its like, and
    of glibc.malloc.hugetlb=1; where the environment has one of these, nothing is changed.

    Call it before JAX starts its threads, which it does when it is asked for a device: a thread
    that already has a heap of its own keeps it, and maps each block that is too large for that.
    """
    configured = any(name.startswith("MALLOC_") for name in os.environ)
    configured |= "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or configured:
        return
    accelerator = importlib.util.find_spec("jax_plugins") or importlib.util.find_spec("libtpu")
    if accelerator and os.environ.get("JAX_PLATFORMS") != "cpu" and jax.default_backend() != "cpu":
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return
    for parameter, value in _MALLOPT.values():
        libc.mallopt(parameter, value)
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.free.argtypes = [ctypes.c_void_p]
    if heap := libc.malloc(HEAP_BYTES):
        page = os.sysconf("SC_PAGE_SIZE")
        start = -(-heap // page) * page
        libc.madvise(start, HEAP_BYTES - page, _MADV_HUGEPAGE)
        # A block behind it stays, or `malloc_trim` would give the end of the heap back, and what
        # came in its place would have small pages. Protobuf calls that while data sets are read.
        libc.malloc(_BEHIND)
        libc.free(heap)
