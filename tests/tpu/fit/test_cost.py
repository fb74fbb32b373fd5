"""The cost of a program, from HLO written by hand and devices that do not exist."""

from types import SimpleNamespace

import numpy as np
import pytest

from model.config import TransformerConfig
from tpu import chips
from tpu.fit import compile, cost
from tpu.fit import report as fit_report
from tpu.fit.hlo import BETWEEN_SLICES, Collective, Program, Shape, read


def slices(count, x, y, shape, kind="TPU v5 lite"):
    """A mesh of `count` slices of x × y chips; its axes are data and fsdp."""
    devices = [
        SimpleNamespace(coords=(i, j, 0), slice_index=s, device_kind=kind)
        for s in range(count) for i in range(x) for j in range(y)
    ]  # fmt: skip
    grid = np.array(devices, object).reshape(shape)
    return SimpleNamespace(devices=grid, size=len(devices), axis_names=("data", "fsdp"))


@pytest.mark.parametrize(
    "text,expected",
    [
        ("replica_groups={{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
        ("replica_groups={}", [[0, 1, 2, 3]]),
        ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
    ],
)
def test_who_takes_part_in_a_collective(text, expected):
    assert cost.device_groups(text, 4).tolist() == expected
    line = f"  %c = f32[4] all-reduce(%x), channel_id=1, {text}, use_global_device_ids=true"
    module = f"HloModule m\n\nENTRY %main (x: f32[4]) -> f32[4] {{\n{line}\n}}\n"
    assert [c.groups for c in read(module).collectives] == [text]


def test_links_and_networks_by_hand():
    """Two slices of 2 × 4 chips of v5e: links of 50 GB/s, 3.125 GB/s a chip between slices."""
    mesh = slices(2, 2, 4, (2, 8))
    gigabyte = Shape("bf16", (500_000_000,))
    groups = "replica_groups={{0,1,2,3,4,5,6,7},{8,9,10,11,12,13,14,15}}"
    program = Program(
        [
            Collective("all-gather", gigabyte, 3, groups),  # 7/8 GB over 2 × 2 links
            Collective("all-reduce", gigabyte, 1, BETWEEN_SLICES),  # 2 × 1/2 GB
            Collective("collective-permute", gigabyte, 1, "source_target_pairs={{0,1},{1,0}}"),
        ],
        {"splash_mqa_fwd_residuals": 2, "other": 9},
        1_500_000,
        {
            "splash_mqa_fwd_residuals": {
                (Shape("bf16", (2, 4, 8, 1024, 128)), Shape("bf16", (2, 4, 1024, 128))): 2,
            },
            "other": {(): 9},
        },
    )  # fmt: skip
    spent = cost.estimate(program, mesh)
    by_kind = {t.kind: t for t in spent.traffic}
    assert by_kind["all-gather"].axes == "fsdp" and by_kind["all-gather"].network == "ici"
    assert by_kind["all-gather"].bytes == pytest.approx(3 * 0.875e9)
    assert by_kind["all-gather"].seconds == pytest.approx(3 * 0.875 / 200)
    assert by_kind["all-reduce"].axes == "data" and by_kind["all-reduce"].network == "dcn"
    assert by_kind["all-reduce"].seconds == spent.dcn == pytest.approx(1 / 3.125)
    assert by_kind["collective-permute"].seconds == pytest.approx(1 / 50)
    assert spent.compute == pytest.approx(1e-3)
    gathers = cost.estimate(program._replace(gathered=1e9), mesh)  # read and written, at 820 GB/s
    assert gathers.compute == pytest.approx(1e-3 + 2 / (0.5 * 820))
    # Two matmuls of half of all pairs, 2 FLOPs each, at half of 197 TFLOP/s.
    flops = 2 * (2 * 2 * 2 * 4 * 8 * 1024 * 1024 * 128) / 2
    assert spent.kernels == pytest.approx(flops / (0.5 * 197e12))
    assert spent.step == spent.dcn
    assert spent.serial == pytest.approx(spent.compute + spent.kernels + spent.ici + spent.dcn)


@pytest.mark.parametrize("rows", [(), (2,)], ids=["one row", "two"])
@pytest.mark.parametrize("part,matmuls", [("fwd", 2), ("dkv", 4), ("dq", 3)])
def test_what_attention_kernels_compute(rows, part, matmuls):
    """Arrays as libtpu has them: blocks and sums beside the queries and keys; T is a shard's."""
    arrays = [
        Shape("f32", (*rows, 4, 256, 128)), Shape("s8", (1, 2, 4)), Shape("s32", (8, 1024)),
        Shape("bf16", (*rows, 4, 3, 512, 128)), Shape("bf16", (*rows, 4, 1024, 128)),
        Shape("f32", (*rows, 4, 3, 8, 512)), Shape("s32", (512, 128)),
    ]  # fmt: skip
    found = cost.kernel_flops(f"splash_mqa_{part}_segmented_residuals", tuple(arrays), 0.5)
    pairs = 4 * 3 * 512 * 1024 / 2 * (2 if rows else 1)
    assert found == 2 * matmuls * 128 * pairs


@pytest.mark.parametrize("name", ["gmm", "tgmm"])
def test_what_grouped_matmuls_compute(name):
    """A quarter of 512 rows of 256 features, each by a matrix [256, 384]: 2 FLOPs an entry."""
    rows, products = Shape("bf16", (512, 256)), Shape("bf16", (512, 384))
    arrays = Shape("s32", (1,)), Shape("s32", (9,)), rows, Shape("bf16", (2, 256, 384)), products
    assert cost.kernel_flops(name, arrays, 0.5, 0.25) == 2 * 128 * 256 * 384
    with pytest.raises(ValueError, match=f"{name} has no rows or weights"):
        cost.kernel_flops(name, arrays[:3], 0.5)


@pytest.mark.parametrize("expert,share", [(1, 1.0), (2, 0.5), (8, 0.25)])
def test_rows_of_a_grouped_matmul_that_have_an_expert(expert, share):
    """Two of eight experts a token: a device with one of them holds a row for each token, and two
    where it has more (`moe.expert_mlps`)."""
    model = TransformerConfig(8, 8, 2, 1, 1, 8, 8, num_experts=8, experts_per_token=2)
    mesh = SimpleNamespace(shape={"expert": expert})
    assert fit_report._expert_share(model, mesh) == share


def test_an_attention_kernel_without_queries_is_an_error():
    with pytest.raises(ValueError, match="splash_mqa_fwd has no queries"):
        cost.kernel_flops("splash_mqa_fwd", (Shape("bf16", (4, 128)),), 0.5)


def test_a_transfer_between_slices_is_read():
    attributes = (
        'is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}'
    )
    line = f"  %s = (bf16[8,4]{{1,0}}, u32[], token[]) send(%x, %t), channel_id=3, {attributes}"
    program = read(f"HloModule m\n\nENTRY %main (x: f32[4]) -> f32[4] {{\n{line}\n}}\n")
    assert program.collectives == [
        Collective("all-reduce", Shape("bf16", (8, 4)), 1, BETWEEN_SLICES)
    ]


def test_a_chip_without_figures_is_refused():
    with pytest.raises(ValueError, match=r"'H100' are known; add it to tpu/chips\.py"):
        cost.estimate(Program([], {}, 0, {}), slices(1, 2, 2, (1, 4), "H100"))


def test_the_largest_buffers_of_a_program_that_does_not_fit():
    report = """Memory Space: default (color=0)
Total bytes: 481593725440 (448.52GiB)
  cumulative_size;       size;       offset; used_by_n_values; shapes_list
   32.00GiB(  6%);   32.00GiB;      4997120;                7; bf16[2048,1023,1,2048], 5×f32[2,8]
   40.00GiB( 13%);    8.00GiB; 34364735488;                5; 5×f32[2,2048,1024,2048]
"""
    largest = compile.largest_buffers(report)
    assert largest == [(32.0, "bf16[2048,1023,1,2048], 5×f32[2,8]"),
                       (8.0, "5×f32[2,2048,1024,2048]")]  # fmt: skip
    report = {"error": "out of memory", "largest_buffers_gib": largest}
    assert "32.00  bf16[2048,1023,1,2048]" in fit_report.show_too_large(report)


def test_what_people_read():
    spent = {"axes": "fsdp", "network": "ici", "kind": "all-gather", "count": 3}
    report = {
        "devices": 8, "device": "TPU v5", "mesh": {"fsdp": 8}, "tokens_per_step": 4096,
        "compile_seconds": 9, "peak_bytes_per_chip": 20 * 2**30, "kernels": {"splash_fwd": 2},
        "state_gib": {"parameters": 4.0, "optimizer state": 8.0, "frozen weights": 0.0},
        "memory_gib": {"state and batch": 12.5, "temporaries": 7.5, "host": 0.0, "device has": 95},
        "seconds": {"compute": 1.0, "kernels": 0.5, "ici": 2.0, "dcn": 0.0},
        "traffic": [spent | {"bytes": 4e9, "seconds": 2.0}, spent | {"bytes": 10, "seconds": 0}],
        "predicted_step_seconds": 2.0, "serial_step_seconds": 3.5, "predicted_mfu": 0.3,
        "mfu_bound": 0.4, "tokens_per_second_per_chip": 256.0, "whole_parameter_gathers": [],
    }  # fmt: skip
    text = fit_report.show(report)
    assert "8 × TPU v5 (fsdp 8), 4,096 tokens a step" in text
    assert "20.00 of 95 (21%)" in text and "0.50" in text and "frozen" not in text
    assert text.count("fsdp all-gather") == 1 and "4.00 GB" in text
    assert "2.000   one after another 3.500" in text and "MFU 30.0%" in text
    sampled = report | {
        "programs": {"step": {}, "sample": {"predicted_step_seconds": 7.5}}, "steps_per_rollout": 4,
    }  # fmt: skip
    text = fit_report.show(sampled)
    assert "sample, a rollout" in text and "once in 4 steps" in text


def test_loops_within_loops_are_not_pipelined():
    device = SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")
    plain = TransformerConfig(8, 8, 2, 1, 1, 8, 8)
    within = TransformerConfig(8, 8, 2, 1, 1, 8, 8, layer_pattern=("local", "global"), window=4)
    pipeliner = "xla_tpu_enable_collective_pipeliner"
    assert pipeliner not in chips.compiler_options(device, [plain])
    assert chips.compiler_options(device, [plain, within])[pipeliner] == "false"
    assert not chips.compiler_options(SimpleNamespace(platform="cpu"), [within])
