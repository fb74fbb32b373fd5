"""Reading HLO: a module written by hand, with a loop, an overlapped collective and a kernel."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from model.sharding import MeshConfig, make_mesh
from tpu.fit import hlo

MODULE = """
HloModule jit_train_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %b = f32[] parameter(1)
}

%overlapped.1 (p: bf16[1,8,64]) -> bf16[1,32,64] {
  %p = bf16[1,8,64]{2,1,0} parameter(0)
  ROOT %all-gather.1 = bf16[1,32,64]{2,1,0} all-gather(%p), channel_id=7, dimensions={1}
}

%overlapped.2 (q: bf16[1,8,64]) -> bf16[1,32,64] {
  %q = bf16[1,8,64]{2,1,0} parameter(0)
  ROOT %all-gather.2 = bf16[1,32,64]{2,1,0} all-gather(%q), channel_id=7, dimensions={1}
}

%body (c: (s32[], bf16[1,8,64])) -> (s32[], bf16[1,8,64]) {
  %c = (s32[], bf16[1,8,64]) parameter(0)
  %w = bf16[1,8,64]{2,1,0} get-tuple-element(%c), index=1
  %f.1 = bf16[1,32,64] fusion(%w), kind=kCustom, calls=%overlapped.1, backend_config={"x":{"estimated_cycles":"100"}}
  %f.2 = bf16[1,32,64] fusion(%w), kind=kCustom, calls=%overlapped.2, backend_config={"x":{"estimated_cycles":"10"}}
  %splash_fwd.3 = bf16[4,64]{1,0} custom-call(%w), custom_call_target="tpu_custom_call"
  ROOT %t = (s32[], bf16[1,8,64]) tuple(%w, %w)
}

%condition (d: (s32[], bf16[1,8,64])) -> pred[] {
  %n = s32[] constant(5)
  %d = (s32[], bf16[1,8,64]) parameter(0)
  %i = s32[] get-tuple-element(%d), index=0
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[16,4]) -> f32[16,4] {
  %x = f32[16,4]{1,0} parameter(0)
  %start = (s32[], bf16[1,8,64]) tuple(%x, %x)
  %while.1 = (s32[], bf16[1,8,64]) while(%start), condition=%condition, body=%body
  %offloaded = f32[16,4]{1,0} custom-call(%x), backend_config={"estimated_cycles":"9223372036854775807"}
  %rs = f32[4,4]{1,0} reduce-scatter(%x), channel_id=8, to_apply=%add
  ROOT %all-reduce.1 = f32[16,4]{1,0} all-reduce(%x), to_apply=%add, backend_config={"estimated_cycles":"3"}
}
"""  # noqa: E501


def test_what_a_loop_holds_counts_as_often_as_it_runs():
    program = hlo.read(MODULE)
    kinds = {c.kind: (c.times, c.shape.bytes) for c in program.collectives}
    assert kinds == {
        "all-gather": (5, 1 * 32 * 64 * 2),  # once a turn, though it overlaps with two fusions
        "reduce-scatter": (1, 16 * 4 * 4),  # what it reads is larger than what it writes
        "all-reduce": (1, 16 * 4 * 4),
    }
    assert program.kernels == {"splash_fwd": 5}
    assert program.cycles == 5 * 110 + 3


def test_sums_of_one_channel_are_several():
    """Those of a `shard_map` share a channel; none of them is within a fusion."""
    line = "  %rs = f32[4,4]{1,0} reduce-scatter(%x), channel_id=8, to_apply=%add\n"
    program = hlo.read(MODULE.replace(line, line + line.replace("%rs", "%other")))
    kinds = [c.kind for c in program.collectives]
    assert kinds.count("reduce-scatter") == 2 and kinds.count("all-gather") == 1


def test_gathers_without_an_estimate_count_by_their_bytes():
    looked_up = """%looked_up (r: f32[16,4]) -> bf16[8,4] {
  %r = f32[16,4]{1,0} parameter(0)
  ROOT %g = bf16[8,4]{1,0} gather(%r, %r), slice_sizes={1,4}
}

%body ("""
    call = "  %splash_fwd.3 ="
    fusion = "  %g.1 = bf16[8,4] fusion(%w), kind=kCustom, calls=%looked_up\n"
    module = MODULE.replace("%body (", looked_up).replace(call, fusion + call)
    assert hlo.read(module).gathered == 5 * 8 * 4 * 2 and hlo.read(MODULE).gathered == 0
    known = fusion.replace("\n", ', backend_config={"estimated_cycles":"7"}\n')
    program = hlo.read(module.replace(fusion, known))
    assert program.gathered == 0 and program.cycles == 5 * 117 + 3


def test_a_loop_whose_first_turn_stands_before_it_runs_once_less():
    """A program of two slices, which sum gradients while the next layer is computed."""
    start = "  %start = (s32[], bf16[1,8,64]) tuple("
    assert start + "%x, " in MODULE
    one = "  %one = s32[] constant(1)\n  %kept = s32[] copy(%one), backend_config={}\n"
    module = MODULE.replace(start + "%x, ", one + start + "%kept, ")
    program = hlo.read(module)
    assert program.kernels == {"splash_fwd": 4}
    assert program.cycles == 4 * 110 + 3


def test_text_without_an_entry_is_an_error():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.read("HloModule empty")


def test_a_gather_of_all_layers_is_found():
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    sharding = NamedSharding(mesh, P(None, "fsdp", "tensor"))
    params = {"gate": jax.ShapeDtypeStruct((3, 16, 32), jnp.float32, sharding=sharding)}

    def gather(*dims):
        collective = hlo.Collective("all-gather", hlo.Shape("bf16", dims), 1)
        program = hlo.Program([collective], {}, 0, {})
        return hlo.gathers_of_whole_parameters(program, params, 3)

    assert gather(3, 16, 32)
    assert gather(3, 16, 16)  # over fsdp alone; split by tensor still
    assert not gather(1, 16, 32)  # one layer's
    assert gather(512, 3)  # as one matrix a layer
    assert not gather(3, 4, 16)
    assert not gather(3, 2, 8, 32)  # as large, and something else


def test_a_compiled_scan_is_read_alike():
    """XLA's own text, on CPU: three layers, each gathering its weight."""
    mesh = make_mesh(MeshConfig(data=1, fsdp=8))
    w = jax.ShapeDtypeStruct(
        (3, 64, 32), jnp.float32, sharding=NamedSharding(mesh, P(None, "fsdp"))
    )
    x = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=NamedSharding(mesh, P("fsdp")))

    def run(w, x):
        def layer(x, w):
            w = jax.lax.with_sharding_constraint(w, P())
            return jnp.tanh(x @ w) @ w.T, None

        return jax.lax.scan(layer, x, w)[0]

    with jax.set_mesh(mesh):
        text = jax.jit(run).lower(w, x).compile().as_text()
    program = hlo.read(text)
    gathers = [c for c in program.collectives if c.kind == "all-gather"]
    assert sum(c.times for c in gathers) == 3
    assert not hlo.gathers_of_whole_parameters(program, w, 3)
