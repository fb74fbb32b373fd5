"""Every backend of attention against plain XLA, with gradients; the choice of a backend."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import context_parallel
from model.config import TransformerConfig
from model.kernels.base import Settings
from model.kernels.chunked import visible_blocks
from model.kernels.cudnn import cudnn
from model.kernels.dispatch import BackendError, attention, check_branches, choose
from model.kernels.plain import causal_attention
from model.kernels.splash import splash, splash_kernel
from model.sharding import MeshConfig, ShardingError, make_mesh

B, T, H, K, N = 2, 256, 4, 2, 16
CONFIG = TransformerConfig(
    vocab_size=64, embed_dim=32, num_layers=1, num_heads=H, num_kv_heads=K, head_dim=N,
    mlp_dim=32, attention_block=128, attention_compute_block=128,
)  # fmt: skip
CASES = {
    "causal": {},
    "window": dict(window=70),
    "softcap": dict(softcap=2.0),
    "all": dict(window=130, softcap=3.0, scale=0.4),
}


@pytest.fixture(scope="module")
def rows():
    """q, k, v and a cotangent; packed segments with padding at the end."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(B, T, heads, N)) for heads in (H, K, K, H)]
    segments = np.repeat([[1, 2, 3, 0], [1, 1, 2, 2]], T // 4, axis=1)
    segments[0, 50:70] = 1
    return [jnp.asarray(x, jnp.float32) for x in arrays] + [jnp.asarray(segments, jnp.int32)]


def results(function, rows):
    """The output and the gradients of q, k and v."""
    q, k, v, cotangent, segments = rows

    @jax.jit
    def run(q, k, v):
        out, pull = jax.vjp(lambda *qkv: function(*qkv, segments), q, k, v)
        return out, *pull(cotangent)

    return run(q, k, v)


def plain(rows, case):
    return results(lambda *args: causal_attention(*args, **case), rows)


def same(ours, theirs, atol=2e-5):
    for name, a, b in zip(("out", "dq", "dk", "dv"), ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_chunked_equals_plain(rows, case):
    config = dataclasses.replace(CONFIG, attention="chunked")
    ours = results(lambda *args: attention(*args, config, **case), rows)
    same(ours, plain(rows, case))


def test_chunked_takes_any_length(rows):
    short = [x[:, :201] for x in rows]
    config = dataclasses.replace(CONFIG, attention="chunked")
    ours = results(lambda *args: attention(*args, config, window=70), short)
    same(ours, plain(short, dict(window=70)))


@pytest.mark.parametrize("case", ["causal", "all"])
def test_splash_equals_plain(rows, case):
    """The TPU kernel, in Pallas' interpreter."""
    case = CASES[case]
    settings = Settings(block=128, compute_block=128, interpret=True, **case)
    kernel = splash_kernel(context_parallel.order(T, 1), T, H // K, settings)
    ours = results(
        lambda q, k, v, segments: splash(q, k, v, segments, segments, kernel, settings),
        rows,
    )
    same(ours, plain(rows, case))


def test_splash_reads_the_places_of_a_shard(rows):
    """Half of the queries, out of order, and all keys."""
    q, k, v, _, segments = rows
    order = context_parallel.order(T, 2)
    settings = Settings(window=70, block=128, compute_block=128, interpret=True)
    kernel = splash_kernel(order[1:], T, H // K, settings)
    mine = order[1]
    run = jax.jit(lambda *args: splash(*args, kernel, settings))
    out = run(q[:, mine], k, v, segments[:, mine], segments)
    whole = causal_attention(q, k, v, segments, window=70)
    np.testing.assert_allclose(out, whole[:, mine], atol=2e-5)


def test_cudnn_traces_to_its_custom_call(monkeypatch, rows):
    """Nothing here runs cuDNN: the call is lowered for CUDA, as if version 9.10 were installed."""
    from jax._src.cudnn import fused_attention_stablehlo as fused

    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(fused, "is_cuda_compute_capability_equal", lambda _: False)
    q, k, v, cotangent, segments = (x.astype(jnp.bfloat16) for x in rows)

    def run(q, k, v):
        order = jnp.arange(T)
        call = lambda *qkv: cudnn(  # noqa: E731
            *qkv, segments, segments, order, Settings(window=70)
        )
        out, pull = jax.vjp(call, q, k, v)
        return out, *pull(cotangent)

    text = jax.jit(run).trace(q, k, v).lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaScaleBiasSoftmax" in text and "Backward" in text


def test_memory_does_not_grow_with_the_square_of_the_length():
    """The temporaries of chunked grow with T, those of plain with T²."""
    config = dataclasses.replace(CONFIG, attention="chunked")

    def temporaries(function, length):
        q = jax.ShapeDtypeStruct((1, length, H, N), jnp.float32)
        k = jax.ShapeDtypeStruct((1, length, K, N), jnp.float32)
        segments = jax.ShapeDtypeStruct((1, length), jnp.int32)

        def loss(q, k, v, segments):
            return jnp.sum(function(q, k, v, segments))

        grad = jax.jit(jax.grad(loss, (0, 1, 2)))
        return grad.lower(q, k, k, segments).compile().memory_analysis().temp_size_in_bytes

    ours = [temporaries(lambda *a: attention(*a, config), t) for t in (512, 1024)]
    whole = temporaries(causal_attention, 1024)
    assert ours[1] < 2.2 * ours[0]
    assert ours[1] < whole / 4, (ours, whole)


CHOICES = [
    (("auto", "tpu", 8192, 128, jnp.bfloat16, 0.0), "splash"),
    (("auto", "tpu", 200, 128, jnp.bfloat16, 0.0), "xla"),
    (("auto", "tpu", 8200, 128, jnp.bfloat16, 0.0), "chunked"),
    (("auto", "cpu", 1024, 64, jnp.float32, 0.0), "xla"),
    (("auto", "cpu", 4096, 64, jnp.float32, 0.0), "chunked"),
    (("auto", "gpu", 1024, 64, jnp.bfloat16, 0.0), "cudnn"),
    (("auto", "gpu", 1024, 64, jnp.bfloat16, 50.0), "xla"),
    (("auto", "cuda", 8192, 64, jnp.bfloat16, 0.0), "chunked"),
    (("xla", "cpu", 8192, 64, jnp.float32, 0.0), "xla"),
]


@pytest.mark.parametrize(("asked", "runs"), CHOICES)
def test_auto_takes_what_runs_and_stays_in_memory(asked, runs):
    assert choose(*asked) == runs


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (("splash", "cpu", 1024, 64, jnp.float32, 0.0), "it is a TPU kernel, and this is cpu"),
        (("splash", "tpu", 1000, 64, jnp.float32, 0.0), "1000 tokens are not a multiple of 128"),
        (("cudnn", "tpu", 1024, 64, jnp.bfloat16, 0.0), "it runs on NVIDIA GPUs"),
        (("cudnn", "gpu", 1024, 64, jnp.float32, 0.0), "model.dtype is float32"),
        (("cudnn", "gpu", 1024, 64, jnp.bfloat16, 30.0), "cuDNN has no soft cap"),
        (("cudnn", "gpu", 1024, 256, jnp.bfloat16, 0.0), "heads of 256"),
    ],
)
def test_a_backend_that_cannot_run_is_an_error(asked, why):
    with pytest.raises(BackendError, match=why):
        choose(*asked)


def test_the_zigzag_order_loads_every_shard_alike():
    order = context_parallel.order(32, 4)
    assert sorted(order.reshape(-1)) == list(range(32))
    assert len({int(row.sum()) for row in order}) == 1  # keys seen by causal queries
    blocks = visible_blocks(order, 32, Settings(block=4))
    assert np.all(blocks[..., 2].sum(1) == blocks.shape[1])  # nothing to fill up
    with pytest.raises(ShardingError, match=r"rows of 20 tokens do not split into .* = 8 runs"):
        context_parallel.order(20, 4)


@pytest.mark.parametrize("backend", ["xla", "chunked"])
@pytest.mark.parametrize("case", ["causal", "all"])
def test_a_split_row_equals_a_whole_one(rows, backend, case):
    """Attention and its gradients over data 2 × sequence 2 × tensor 2; `join` undoes `split`."""
    case, config = CASES[case], dataclasses.replace(CONFIG, attention=backend)

    def split(x):
        return x[:, context_parallel.order(T, 2).reshape(-1)]

    def run(q, k, v, segments):
        out = attention(*map(split, (q, k, v)), context_parallel.split(segments), config, **case)
        return context_parallel.join(out.reshape(B, T, H * N)).reshape(out.shape)

    with jax.set_mesh(make_mesh(MeshConfig(data=2, sequence=2, tensor=2))):
        ours = results(run, rows)
    same(ours, plain(rows, case))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("splash", 64, 1, 0), "model.attention=splash does not support them"),
        (("auto", 4096, 1, 0), "rows of 4096 tokens are longer than 2048"),
        (("xla", 64, 2, 0), "mesh.sequence splits rows"),
        (("auto", 64, 1, 8), "sliding window"),
    ],
)
def test_segments_that_fork_are_refused_where_they_cannot_run(arguments, why):
    with pytest.raises(BackendError, match=why + r".*data\.share_prompt=False"):
        check_branches(*arguments)
    check_branches("auto", 64, 1, 0)
