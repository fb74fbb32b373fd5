"""The profile of a program: a loop of three layers as libtpu 0.0.52 prints it, cut short."""

import pytest

from benchmarks.hlo_profile.profile import Place, cycles, grouped, profile, table

MODULE = """HloModule jit_train_step, is_scheduled=true

FileNames
1 "/usr/lib/python3.11/runpy.py"
2 "/home/someone/seedpod/train/step.py"
3 "/home/someone/seedpod/model/layers/mlp.py"
4 "/home/someone/seedpod/model/cpu.py"

FunctionNames
1 "_run_code"
2 "make_train_step.<locals>.train_step"
3 "mlp"
4 "matmul"

FileLocations
1 {file_name_id=1 function_name_id=1 line=88 end_line=88 column=4 end_column=27}
2 {file_name_id=2 function_name_id=2 line=116 end_line=118 column=8 end_column=9}
3 {file_name_id=3 function_name_id=3 line=33 end_line=33 column=4 end_column=40}
4 {file_name_id=4 function_name_id=4 line=53 end_line=53 column=11 end_column=24}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}
4 {file_location_id=4 parent_frame_id=4}

%fused_computation.1 (p.1: bf16[4,8,64], p.2: bf16[64,128]) -> bf16[4,8,128] {
  %p.1 = bf16[4,8,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p.2 = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = bf16[4,8,128]{2,1,0:T(8,128)(2,1)} convolution(%p.1, %p.2), window={size=1}, dim_labels=0bf_io0->0bf
}

%fused_computation.2 (p.3: bf16[3,64,128], p.4: s32[]) -> bf16[64,128] {
  %p.3 = bf16[3,64,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p.4 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %slice.1 = bf16[1,64,128]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p.3, %p.4, %zero, %zero), dynamic_slice_sizes={1,64,128}
  ROOT %bitcast.1 = bf16[64,128]{1,0:T(8,128)(2,1)} bitcast(%slice.1)
}

%body (c: (s32[], bf16[3,64,128])) -> (s32[], bf16[3,64,128]) {
  %c = (s32[]{:T(128)}, bf16[3,64,128]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  %w = bf16[3,64,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%c), index=1
  %dynamic-slice_bitcast_fusion.8 = bf16[64,128]{1,0:T(8,128)(2,1)} fusion(%w, %i), kind=kLoop, calls=%fused_computation.2, metadata={op_name="jit(train_step)/transpose(jvp(Transformer.hidden))/while/body/closed_call/checkpoint/rematted_computation/dot_general" stack_frame_id=3}, backend_config={"window_config":{"estimated_cycles":"100"}}
  %copy.2 = bf16[4,8,64]{2,1,0:T(8,128)(2,1)} copy(%w), metadata={op_name="jit(train_step)/jvp(Transformer.hidden)/while/body/closed_call/dot_general" stack_frame_id=4}, backend_config={"window_config":{"estimated_cycles":"10"}}
  %fusion.7 = bf16[4,8,128]{2,1,0:T(8,128)(2,1)} fusion(%copy.2, %dynamic-slice_bitcast_fusion.8), kind=kOutput, calls=%fused_computation.1, metadata={op_name="jit(train_step)/transpose(jvp(Transformer.hidden))/while/body/closed_call/checkpoint/dot_general" stack_frame_id=4}, backend_config={"window_config":{"estimated_cycles":"1000"}}
  ROOT %t = (s32[]{:T(128)}, bf16[3,64,128]{2,1,0:T(8,128)(2,1)}) tuple(%i, %w)
}

%condition (d: (s32[], bf16[3,64,128])) -> pred[] {
  %n = s32[]{:T(128)} constant(3)
  %d = (s32[]{:T(128)}, bf16[3,64,128]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%d), index=0
  ROOT %lt = pred[]{:T(512)} compare(%j, %n), direction=LT
}

ENTRY %main (x: bf16[3,64,128]) -> f32[] {
  %x = bf16[3,64,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %first = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, bf16[3,64,128]{2,1,0:T(8,128)(2,1)}) tuple(%first, %x)
  %while.1 = (s32[]{:T(128)}, bf16[3,64,128]{2,1,0:T(8,128)(2,1)}) while(%start), condition=%condition, body=%body
  ROOT %reduce.5 = f32[]{:T(128)} reduce(%x, %first), dimensions={0,1,2}, to_apply=%add, metadata={op_name="jit(train_step)/reduce_sum" stack_frame_id=2}, backend_config={"window_config":{"estimated_cycles":"7"}}
}
"""  # noqa: E501

LINE = "model/layers/mlp.py:33"


@pytest.fixture(scope="module")
def costs():
    return profile(MODULE, flops_per_cycle=1024.0)


def test_instructions_in_a_loop_count_as_often_as_it_runs(costs):
    rows = [(c.name, c.kind, c.step, c.place, c.in_loop, c.cycles) for c in costs]
    assert rows == [
        ("fusion", "matmul", "backward", Place(LINE, "mlp > matmul"), True, 3000),
        ("dynamic-slice_bitcast_fusion", "stack", "recomputed", Place(LINE, "mlp"), True, 300),
        ("copy", "relayout", "forward", Place(LINE, "mlp > matmul"), True, 30),
        ("reduce", "reduce", "update", Place("train/step.py:116", "train_step"), False, 7),
    ]


def test_the_peak_of_a_product_is_that_of_its_shapes(costs):
    assert costs[0].peak == 3 * 2 * (4 * 8) * 64 * 128 / 1024
    assert not any(c.peak for c in costs[1:])


def test_tables_add_up(costs):
    assert {k: cycles(g) for k, g in grouped(costs, lambda c: c.place.line).items()} == {
        LINE: 3330, "train/step.py:116": 7,
    }  # fmt: skip
    rows = table("kind", costs, lambda c: c.kind, hertz=1e6, rows=2).rows
    assert rows == [
        ["matmul", "3.00", "3.00", "51%", "", "", "3.00", ""],
        ["stack", "0.30", "0.30", "", "", "0.30", "", ""],
        ["2 others", "0.04", "0.03", "", "0.03", "", "", "0.01"],
        ["all", "3.34", "3.33", "46%", "0.03", "0.30", "3.00", "0.01"],
    ]
