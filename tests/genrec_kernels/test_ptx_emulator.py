"""The emulator that the CUTLASS kernels are tested on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec_kernels.ptx_emulator.kernel import Deadlock, Kernel
from genrec_kernels.ptx_emulator.memory import MemoryFault, SharedMemory, TensorMap, swizzled
from genrec_kernels.ptx_emulator.program import PtxError
from genrec_kernels.ptx_emulator.wgmma import (
    accumulators_to_rows,
    from_halves,
    narrow,
    narrow_to_byte,
    rows_to_accumulators,
    to_halves,
    widen,
    widen_byte,
)


def kernel(body: str, threads: int = 64) -> Kernel:
    return Kernel(
        f""".version 8.0
        .target sm_90a
        .visible .entry k(.param .align 8 .b8 k_0[8], .param .u32 k_1)
        .reqntid {threads}, 1, 1
        {{
        .reg .pred %p<9>; .reg .b32 %r<9>; .reg .b64 %rd<9>;
        ld.param.b64 %rd1, [k_0];
        mov.u32 %r1, %tid.x;
        mul.wide.s32 %rd2, %r1, 4;
        add.s64 %rd2, %rd1, %rd2;
        {body}
        ret;
        }}"""
    )


def run(body: str, threads: int = 64, **options: int) -> np.ndarray:
    out = np.zeros(threads, np.int32)
    kernel(body, threads).launch([(out,), 7], blocks=1, **options)
    return out


def test_lanes_that_part_meet_again() -> None:
    found = run(
        """
        mov.b32 %r2, 0;
    LOOP:
        add.s32 %r2, %r2, 3;
        setp.lt.s32 %p1, %r2, %r1;
        @%p1 bra LOOP;
        mov.b32 %r3, 1;
        redux.sync.add.s32 %r4, %r3, -1;  // only whole warps may
        add.s32 %r2, %r2, %r4;
        st.global.b32 [%rd2], %r2;
        """
    )
    expected = [max(3, -(-n // 3) * 3) + 32 for n in range(64)]
    assert found.tolist() == expected


def test_guards_and_parameters() -> None:
    found = run(
        """
        ld.param.b32 %r2, [k_1];
        setp.eq.s32 %p1, %r1, 5;
        @%p1 st.global.b32 [%rd2], %r2;
        @!%p1 st.global.b32 [%rd2], -1;
        """
    )
    assert found.tolist() == [7 if n == 5 else -1 for n in range(64)]


def test_warps_wait_for_each_other() -> None:
    """The second warp writes what the first reads."""
    body = """
        mul.lo.s32 %r2, %r1, 4;
        st.shared.b32 [%r2+1024], %r1;
        bar.sync 0;
        xor.b32 %r3, %r2, 128;
        ld.shared.b32 %r4, [%r3+1024];
        st.global.b32 [%rd2], %r4;
        """
    for seed in range(5):
        assert run(body, seed=seed).tolist() == [n ^ 32 for n in range(64)]


def test_a_barrier_that_nobody_reaches_is_a_deadlock() -> None:
    with pytest.raises(Deadlock, match=r"wait for ever: \[\(0, 0\)\]"):
        run("setp.gt.s32 %p1, %r1, 31; @%p1 bra OUT; bar.sync 1, 64; OUT:")


def test_some_warps_only_arrive() -> None:
    """The second warp lets the first go on, and does not wait for it."""
    body = """
        setp.gt.s32 %p1, %r1, 31;
        @%p1 bra SECOND;
        bar.sync 1, 64;
        ld.shared.b32 %r4, [1024];
        st.global.b32 [%rd2], %r4;
        bra OUT;
    SECOND:
        st.shared.b32 [1024], 5;
        bar.arrive 1, 64;
        bar.sync 2, 32;
    OUT:
        """
    for seed in range(5):
        assert run(body, seed=seed).tolist() == [5] * 32 + [0] * 32
    with pytest.raises(PtxError, match="more than 32 threads at barrier 1"):
        run(body.replace("bar.arrive 1, 64;", "bar.arrive 1, 96; bar.arrive 1, 32;"))


AWAIT = """
    AGAIN:
        mbarrier.try_wait.parity.shared.b64 %p2, [64], 0;
        @!%p2 bra AGAIN;
        """
BLOCKS_SIGNAL_EACH_OTHER = f"""
        mov.u32 %r2, %cluster_ctarank;
        xor.b32 %r3, %r2, 1;
        setp.ne.s32 %p1, %r1, 0;
        @!%p1 mbarrier.init.shared.b64 [64], 1;
        barrier.cluster.arrive;
        barrier.cluster.wait;
        mov.b32 %r4, 64;
        mapa.shared::cluster.u32 %r5, %r4, %r3;
        @!%p1 mbarrier.arrive.shared::cluster.b64 _, [%r5];
        {AWAIT}
        mov.u32 %r6, %ctaid.x;
        mul.wide.s32 %rd4, %r6, 256;
        add.s64 %rd2, %rd2, %rd4;
        st.global.b32 [%rd2], 1;
        """


def run_clusters(body: str, seed: int) -> np.ndarray:
    out = np.zeros(256, np.int32)
    kernel(body).launch([(out,), 7], blocks=4, cluster=2, seed=seed)
    return out


def test_blocks_of_a_cluster_signal_each_other() -> None:
    for seed in range(5):
        assert run_clusters(BLOCKS_SIGNAL_EACH_OTHER, seed).sum() == 256
    with pytest.raises(ValueError, match="3 blocks are no whole clusters of 2"):
        kernel("").launch([(np.zeros(64, np.int32),), 7], blocks=3, cluster=2)


@pytest.mark.parametrize(
    ("left_out", "message"),
    [(AWAIT, "has ended"), ("barrier.cluster.wait;", "no barrier at 64")],
)
def test_blocks_of_a_cluster_that_do_not_wait(left_out: str, message: str) -> None:
    body = BLOCKS_SIGNAL_EACH_OTHER.replace(left_out, "")
    with pytest.raises(MemoryFault, match=message):
        for_all_seeds(body)


def for_all_seeds(body: str) -> None:
    for seed in range(50):
        run_clusters(body, seed)


def test_a_barrier_in_memory_counts_phases() -> None:
    body = """
        setp.ne.s32 %p1, %r1, 0;
        @%p1 bra MADE;
        mbarrier.init.shared.b64 [64], 64;
    MADE:
        bar.sync 0;
        mbarrier.arrive.shared.b64 %rd3, [64];
    AGAIN:
        mbarrier.try_wait.parity.shared.b64 %p2, [64], 0;
        @!%p2 bra AGAIN;
        st.global.b32 [%rd2], 1;
        """
    assert run(body).sum() == 64
    with pytest.raises(Deadlock):
        run(body.replace("[64], 64;", "[64], 65;"))


COPY = "@!%p1 cp.async.bulk.shared::cta.global.mbarrier [%r3], [%rd2], 16, [64];"
EXPECT = "@!%p1 mbarrier.arrive.expect_tx.shared.b64 %rd3, [64], 64;"
COPIES_OF_FOUR_LANES = f"""
        setp.ne.s32 %p1, %r1, 0;
        @!%p1 mbarrier.init.shared.b64 [64], 1;
        bar.sync 0;
        {EXPECT}
        mul.lo.s32 %r2, %r1, 16;
        add.s32 %r3, %r2, 1024;
        mul.wide.s32 %rd4, %r1, 12;
        add.s64 %rd2, %rd2, %rd4;  // 16 bytes a lane
        setp.gt.s32 %p1, %r1, 3;
        {COPY}
    AGAIN:
        mbarrier.try_wait.parity.shared.b64 %p2, [64], 0;
        @!%p2 bra AGAIN;
        """


def test_lanes_copy_each_its_own() -> None:
    """Four lanes negate 16 numbers by way of shared memory, each another four."""
    back = """
        setp.gt.s32 %p1, %r1, 15;
        mul.lo.s32 %r2, %r1, 4;
        mul.wide.s32 %rd4, %r1, 12;
        sub.s64 %rd2, %rd2, %rd4;
        @!%p1 ld.shared.b32 %r4, [%r2+1024];
        @!%p1 neg.s32 %r4, %r4;
        @!%p1 st.global.b32 [%rd2], %r4;
        """
    for seed in range(5):
        out = np.arange(64, dtype=np.int32)
        kernel(COPIES_OF_FOUR_LANES + back).launch([(out,), 7], blocks=1, seed=seed)
        assert out.tolist() == [*range(0, -16, -1), *range(16, 64)]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ((COPY, COPY + COPY), MemoryFault),
        ((COPY, ""), Deadlock),
        ((EXPECT, EXPECT.replace("64;", "48;")), MemoryFault),
        ((EXPECT, EXPECT.replace("64;", "80;")), Deadlock),
        ((EXPECT, EXPECT.replace(".expect_tx", "").replace(", 64;", ";")), MemoryFault),
        ((EXPECT, ""), Deadlock),
    ],
)
def test_bytes_that_are_not_expected_are_seen(
    change: tuple[str, str], error: type[Exception]
) -> None:
    body = COPIES_OF_FOUR_LANES.replace(*change)
    assert body != COPIES_OF_FOUR_LANES
    for seed in range(5):
        with pytest.raises(error):
            run(body, seed=seed)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("frobnicate.b32 %r2, %r1;", PtxError, "frobnicate"),
        ("add.s32 %r2, %r7, %r1;", PtxError, "never written"),
        ("st.global.b32 [%rd2+256], %r1;", MemoryFault, "outside of 256 bytes"),
        ("mov.b64 %rd3, 64; st.global.b32 [%rd3], %r1;", MemoryFault, "in no tensor"),
        ("mbarrier.arrive.shared.b64 %rd3, [8];", MemoryFault, "no barrier at 8"),
        (
            "setp.gt.s32 %p1, %r1, 3; @%p1 redux.sync.max.s32 %r2, %r1, -1;",
            PtxError,
            "by a part of a warp",
        ),
    ],
)
def test_mistakes_are_named(body: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(body)


def test_boxes_are_cut_at_the_tensor_and_swizzled() -> None:
    array = np.arange(1, 1 + 3 * 64, dtype=np.uint16).reshape(1, 3, 64)
    shared = SharedMemory()
    TensorMap(array, (1, 4, 64), 128).copy_into(shared, 1024, (0, 1, 0))
    words = shared.data[1024 : 1024 + 512].view(np.uint16).reshape(4, 8, 8)
    for row, source in enumerate((1, 2)):
        for chunk in range(8):
            expected = array[0, source, 8 * chunk : 8 * chunk + 8]
            assert (words[row, chunk ^ row] == expected).all()
    assert not words[2:].any()


def test_a_swizzle_moves_and_loses_nothing() -> None:
    places = np.arange(0, 4096, 16)
    for span in (0, 32, 64, 128):
        assert sorted(swizzled(places, span)) == places.tolist()
    assert (swizzled(places, 0) == places).all()


def test_fragments_hold_every_element_once() -> None:
    rows = np.arange(16 * 24, dtype=np.float32).reshape(16, 24)
    registers = rows_to_accumulators(rows)
    assert sorted(registers.ravel()) == sorted(rows.ravel())
    assert (accumulators_to_rows(registers) == rows).all()


def test_sums_in_half_precision_are_two_in_a_register() -> None:
    numbers = np.arange(8 * 32, dtype=np.float32).reshape(8, 32)
    registers = to_halves(numbers)
    assert registers.shape == (4, 32)
    assert (from_halves(registers) == numbers).all()
    assert registers[1, 5] == np.array([69, 101], np.float16).view(np.uint32)[0]


@pytest.mark.parametrize("element", ["bf16", "f16"])
def test_sixteen_bits_round_to_even(element: str) -> None:
    import torch

    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    values[:4] = [np.nan, np.inf, -np.inf, 1 + 2**-9]
    dtype = torch.bfloat16 if element == "bf16" else torch.float16
    expected = torch.from_numpy(values).to(dtype).float().numpy()
    np.testing.assert_array_equal(widen(narrow(values, element), element), expected)


def test_bytes_hold_what_pytorch_has() -> None:
    every = np.arange(256, dtype=np.uint8)
    theirs = torch.from_numpy(every).view(torch.float8_e4m3fn)
    np.testing.assert_array_equal(widen_byte(every), theirs.float().numpy())
    back = narrow_to_byte(widen_byte(every))
    assert np.array_equal(back & 127, every & 127)
    real = ~np.isnan(widen_byte(every))
    assert np.array_equal(back[real], every[real])


def test_numbers_are_rounded_to_bytes_as_pytorch_does() -> None:
    random = np.random.default_rng(0)
    x = (random.standard_normal(20_000) * np.exp2(random.uniform(-14, 8, 20_000))).astype("f4")
    halfway = (np.arange(1, 64) / 2**10).astype("f4")  # ties of the least numbers
    x = np.concatenate([x, halfway, -halfway, np.float32([0, -0.0, 448, 464, 17, 19])])
    inside = np.clip(x, -448, 448)
    theirs = torch.from_numpy(inside).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    np.testing.assert_array_equal(narrow_to_byte(x), theirs)
    beyond = narrow_to_byte(np.float32([1e9, -np.inf, np.nan]))
    assert beyond.tolist() == [0x7E, 0xFE, 0x7F]


def test_bytes_are_chosen_by_a_selector() -> None:
    found = run(
        """
        prmt.b32 %r2, 0x33221100U, 0xFF665544U, 0xF270U;
        st.global.b32 [%rd2], %r2;
        """
    )
    # Bytes 0, 7 and 2, and the sign of byte 7.
    assert set(found.view(np.uint32)) == {0xFF22FF00}


def halves(*numbers: float) -> list[str]:
    """Each number in both halves of a register."""
    return [f"0x{int(np.float16(x).view(np.uint16)) * 0x10001:08X}U" for x in numbers]


def of_halves(found: np.ndarray) -> list[float]:
    """The two numbers that every lane has."""
    assert len(set(found.tolist())) == 1
    return found[:1].view(np.float16).tolist()


@pytest.mark.parametrize(
    ("instruction", "numbers", "expected"),
    [
        ("mul.rn.f16x2", (3.0, -0.5), -1.5),
        ("mul.rn.f16x2", (60000.0, 2.0), np.inf),
        # Rounded once: 1 - 2^-20, not 0 or 2^-10.
        ("fma.rn.f16x2", (1 + 2**-10, 1 - 2**-10, -1.0), -(2**-20)),
        ("fma.rn.sat.f16x2", (2.0, 3.0, 0.5), 1.0),
        ("fma.rn.sat.f16x2", (-2.0, 3.0, 0.5), 0.0),
        ("fma.rn.sat.f16x2", (np.nan, 3.0, 0.5), 0.0),
        ("tanh.approx.f16x2", (0.5,), 0.462158203125),
    ],
)
def test_two_numbers_in_half_precision(
    instruction: str, numbers: tuple[float, ...], expected: float
) -> None:
    found = run(f"{instruction} %r2, {', '.join(halves(*numbers))}; st.global.b32 [%rd2], %r2;")
    assert of_halves(found) == [expected] * 2


def test_a_sum_cut_to_one() -> None:
    found = run(
        "fma.rn.sat.f32 %r2, 0f40000000, 0f40000000, 0f3F000000; st.global.b32 [%rd2], %r2;"
    )
    assert set(found.view(np.float32)) == {1.0}


def test_halves_from_floats_and_to_bytes() -> None:
    body = """
        cvt.rn.satfinite.f16x2.f32 %r2, 0f49742400, 0fC0400000;  // 1e6 and -3
        cvt.rn.satfinite.e4m3x2.f16x2 %r3, %r2;
        """
    found = run(body + "st.global.b32 [%rd2], %r2;")
    assert of_halves(found) == [-3.0, 65504.0]
    words = run(body + "st.global.b32 [%rd2], %r3;") & 0xFFFF
    lower, upper = widen_byte(np.array([words[0] & 255, words[0] >> 8]))
    assert (lower, upper) == (-3.0, 448.0)
