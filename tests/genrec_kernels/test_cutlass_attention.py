"""The CUTLASS attention kernels on a machine without a GPU: emulated from their PTX, and their
machine code inspected. `cutlass_cases.py` runs them on a Hopper GPU."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("cutlass", reason="CuTe DSL (nvidia-cutlass-dsl) compiles the kernels")

from genrec_kernels.cutlass import hstu_attention as launcher
from genrec_kernels.cutlass.bias_tiles import (
    NO_WINDOW,
    PARTS,
    TILE_BYTES,
    edge_tiles,
    new_tiles,
    tiles_of,
)
from genrec_kernels.cutlass.build import (
    MOST_SHARED_BYTES,
    BuildFailed,
    BuiltKernel,
    compile_variant,
)
from genrec_kernels.cutlass.emulation import emulate
from genrec_kernels.cutlass.library import CompiledKernel
from genrec_kernels.cutlass.parameters import (
    BiasParameters,
    BiasTiles,
    Parameter,
    bias_tiles_parameters,
    forward_parameters,
)
from genrec_kernels.cutlass.variants import BiasTilesVariant, Element, all_variants, variant_of
from genrec_kernels.hstu_attention import hstu_attention
from genrec_kernels.jagged import JaggedRows
from genrec_kernels.ptx_emulator import Kernel
from genrec_kernels.ptx_emulator.program import PtxError
from genrec_kernels.reference.bias_tables import bias_tables
from genrec_kernels.reference.time_plan import plan_times as reference_plan_times
from genrec_kernels.relative_bias import RelativeBias, time_bucket_boundaries
from genrec_kernels.time_plan import TimePlan

from .machine_code import disassembled

NORM = 64
NUM_BUCKETS = 60
DTYPES: dict[Element, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCE: dict[Element, float] = {"bf16": 3e-3, "fp16": 5e-4}

LAYOUTS = {
    "one row": [(1, 0)],
    "one candidate": [(0, 1)],
    "empty sequences": [(0, 0), (0, 19), (0, 0), (5, 0), (0, 0)],
    "around tiles": [(63, 1), (64, 64), (65, 0), (128, 1), (127, 2)],
    "candidates of several tiles": [(20, 150)],
    "several tiles": [(200, 3), (37, 0)],
    "more sequences than a warp has lanes": [(i % 4, i % 3) for i in range(70)],
}


@cache
def built(
    element: Element = "bf16",
    width: int = 64,
    *,
    bias: bool = False,
    window: bool = False,
    short: bool = True,
) -> BuiltKernel:
    max_rows = 100 if short else None
    return compile_variant(variant_of(element, width, bias=bias, window=window, max_rows=max_rows))


@cache
def built_maker() -> BuiltKernel:
    return compile_variant(BiasTilesVariant())


def made_tiles(
    bias: BiasParameters, rows: JaggedRows, key_limits: Tensor, *, window: int | None, seed: int
) -> BiasTiles:
    """What the kernel that makes tiles gives."""
    longest = int(rows.lengths.max())
    tiles = tiles_of(longest)
    vectors = new_tiles(rows.lengths.shape[0], longest, torch.device("cpu"))
    vectors.fill_(-1)  # NaN: what is not written must not be seen
    edge = edge_tiles(longest)
    parameters = bias_tiles_parameters(
        vectors=vectors,
        offsets=rows.offsets,
        histories=rows.history_lengths,
        key_limits=key_limits,
        bias=bias,
        edge=edge,
        window=NO_WINDOW if window is None else window,
    )
    blocks = PARTS * edge * rows.lengths.shape[0]
    emulate(Kernel(built_maker().ptx), parameters, blocks=blocks, seed=seed)
    return BiasTiles(vectors, tiles)


def run(
    kernel: BuiltKernel,
    layout: list[tuple[int, int]],
    *,
    heads: int = 2,
    window: int | None = None,
    limits: str = "causal",
    blocks: int = 2,
    group: int = 2,
    seed: int = 0,
    foreign: float | None = None,
    times: str = "sessions",
    positions: int = 1000,
) -> tuple[Tensor, Tensor]:
    """What the kernel gives and what is right, in float64.

    Args:
        foreign: put into the keys and values of the second sequence, which is left out of both.
    """
    variant = kernel.description.variant
    random = torch.Generator().manual_seed(seed)
    rows = JaggedRows(torch.tensor([h for h, _ in layout]), torch.tensor([c for _, c in layout]))
    total = int(rows.offsets[-1])
    # One wide tensor, as a layer's projection gives: rows of q, k and v are strided.
    wide = torch.randn(total, 3, heads, variant.width, generator=random)
    q, k, v = wide.to(DTYPES[variant.element]).unbind(1)
    limit: list[int] = []
    for history, candidates in layout:
        past = {"causal": range(history), "pages": [i - i % 16 for i in range(history)]}[limits]
        limit += [*past, *[history] * candidates]
    key_limits = torch.tensor(limit)
    bias = None
    timestamps = torch.zeros(total, dtype=torch.int64)
    if variant.bias:
        timestamps = 1_700_000_000 + TIMES[times](rows, random)
        bias = RelativeBias(
            torch.randn(positions, generator=random),
            torch.randn(NUM_BUCKETS, generator=random),
            time_bucket_boundaries(NUM_BUCKETS),
        )
    expected = hstu_attention(
        *(q.double(), k.double(), v.double()),
        rows=rows,
        key_limits=key_limits,
        timestamps=timestamps,
        alpha=variant.width**-0.5,
        norm_length=NORM,
        bias=bias,
        window=window,
        backend="reference",
    )
    tiles = None
    if bias is not None:
        plan = reference_plan_times(
            timestamps, rows.offsets, bias.boundaries, int(rows.lengths.max())
        )
        tables = BiasParameters(*plan, *bias_tables(bias, variant.width**0.5))
        tiles = made_tiles(tables, rows, key_limits, window=window, seed=seed)
    judged = torch.ones(total, dtype=torch.bool)
    if foreign is not None:
        judged[rows.offsets[1] : rows.offsets[2]] = False
        k[~judged], v[~judged] = foreign, foreign
    out = torch.full((total, heads, variant.width), math.nan, dtype=q.dtype)
    claimed = torch.zeros(1, dtype=torch.int32)
    parameters = forward_parameters(
        variant,
        q=q,
        k=k,
        v=v,
        out=out,
        offsets=rows.offsets,
        histories=rows.history_lengths,
        key_limits=key_limits,
        claimed=claimed,
        bias=tiles,
        group=group,
        window=window or 0,
        half_alpha=variant.width**-0.5 / 2,
        inverse_norm=1 / NORM,
    )
    emulate(Kernel(kernel.ptx), parameters, blocks=blocks, seed=seed)
    assert claimed.item() == 0, "the next launch would begin at another tile"
    return out[judged].double(), expected[judged]


#: Seconds of each row, in order within a sequence where not said otherwise.
TIMES: dict[str, Callable[[JaggedRows, torch.Generator], Tensor]] = {
    "sessions": lambda rows, random: _gaps(rows, random, 20, 10_000),
    "dense": lambda rows, random: _gaps(rows, random, 1, 3),
    "all the same": lambda rows, random: torch.zeros(int(rows.offsets[-1]), dtype=torch.int64),
    "years apart": lambda rows, random: _gaps(rows, random, 20_000_000, 30_000_000),
    "out of order": lambda rows, random: torch.randint(
        0, 1_000_000, (int(rows.offsets[-1]),), generator=random
    ),
}


def _gaps(rows: JaggedRows, random: torch.Generator, short: int, long: int) -> Tensor:
    total = int(rows.offsets[-1])
    kind, share = torch.rand(2, total, generator=random)
    return (torch.where(kind < 0.7, short, long) * share).long().cumsum(0).clamp(max=2**30 - 1)


def assert_right(pair: tuple[Tensor, Tensor], element: Element) -> None:
    out, expected = pair
    error = float((out - expected).norm() / expected.norm())
    assert error < TOLERANCE[element], error


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(layout: list[tuple[int, int]]) -> None:
    assert_right(run(built(), layout), "bf16")


@pytest.mark.parametrize("width", [64, 128, 256])
def test_widths(width: int) -> None:
    assert_right(run(built(width=width, short=False), LAYOUTS["several tiles"]), "bf16")


def test_half_precision() -> None:
    assert_right(run(built("fp16"), LAYOUTS["around tiles"]), "fp16")


@pytest.mark.parametrize("window", [1, 50, 1000])
def test_windows(window: int) -> None:
    kernel = built(window=True)
    assert_right(run(kernel, [(230, 9), (30, 0)], window=window), "bf16")


@pytest.mark.parametrize("times", TIMES)
def test_bias(times: str) -> None:
    assert_right(run(built(bias=True), [(150, 10), (0, 3), (33, 40)], times=times), "bf16")


@pytest.mark.parametrize("width", [64, 128, 256])
def test_bias_of_widths(width: int) -> None:
    kernel = built(width=width, bias=True, short=False)
    assert_right(run(kernel, [(200, 3)], heads=1), "bf16")


def test_bias_of_distances_beyond_the_table() -> None:
    kernel = built(bias=True, window=True)
    assert_right(run(kernel, [(150, 10)], positions=40, window=90), "bf16")


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_bias_of_layouts(layout: list[tuple[int, int]]) -> None:
    assert_right(run(built("fp16", bias=True), layout), "fp16")


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_the_launcher_makes_the_bias_in_turns(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher on the CPU, with the emulator in place of the driver."""
    kernels = [built(bias=True), built_maker()]
    ptx = {kernel.description.function: Kernel(kernel.ptx) for kernel in kernels}
    launched: list[str] = []

    def launch_here(
        chosen: CompiledKernel, parameters: list[Parameter], *, blocks: int, device: torch.device
    ) -> None:
        assert device.type == "cpu"
        launched.append(chosen.variant.name)
        emulate(ptx[chosen.function], parameters, blocks=blocks)

    random = torch.Generator().manual_seed(0)
    rows = JaggedRows(torch.tensor([90, 0, 31]), torch.tensor([3, 4, 0]))
    q, k, v = torch.randn(128, 3, 2, 64, generator=random).bfloat16().unbind(1)
    limits = torch.tensor([*range(90), *[90] * 3, *[0] * 4, *range(31)])
    timestamps = _gaps(rows, random, 20, 10_000)
    bias = RelativeBias(
        *(torch.randn(n, generator=random) for n in (100, NUM_BUCKETS)),
        time_bucket_boundaries(NUM_BUCKETS),
    )
    plan = reference_plan_times(timestamps, rows.offsets, bias.boundaries, 93)
    monkeypatch.setattr(launcher, "launch", launch_here)
    monkeypatch.setattr(launcher, "claim_counter", lambda _: torch.zeros(1, dtype=torch.int32))
    monkeypatch.setattr(launcher, "multiprocessors", lambda _: 2)
    monkeypatch.setattr(launcher, "MOST_TILE_BYTES", at_once * tiles_of(93) * TILE_BYTES)
    monkeypatch.setattr(
        launcher,
        "_bias_parameters",
        lambda bias, times, alpha: BiasParameters(*times, *bias_tables(bias, 1 / alpha)),
    )
    monkeypatch.setattr(
        launcher,
        "compiled_kernels",
        lambda: {kernel.description.variant.name: kernel.description for kernel in kernels},
    )
    options = {"key_limits": limits, "alpha": 0.125, "norm_length": NORM, "bias": bias}
    found = launcher.forward(
        q=q,
        k=k,
        v=v,
        offsets=rows.offsets,
        histories=rows.history_lengths,
        **options,
        max_rows=93,
        window=None,
        times=TimePlan(*plan),
    )
    expected = hstu_attention(
        *(q.double(), k.double(), v.double()),
        rows=rows,
        timestamps=timestamps,
        backend="reference",
        **options,
    )
    assert_right((found.double(), expected), "bf16")
    turns = -(-3 // at_once)
    assert launched == ["bias_tiles", built(bias=True).description.variant.name] * turns


def test_limits_that_are_not_causal() -> None:
    kernel = built()
    assert_right(run(kernel, [(150, 10), (20, 60)], limits="pages"), "bf16")


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_warps_and_copies(seed: int) -> None:
    kernel = built()
    assert_right(run(kernel, [(140, 5), (70, 0)], blocks=1 + seed, seed=seed), "bf16")


@pytest.mark.parametrize(
    "layout",
    [
        [(37, 2), (20, 30), (30, 3)],
        # Keys past the sequence, and next to them a tile that needs no mask.
        [(100, 0), (20, 30), (150, 3)],
        [(190, 7), (9, 0), (70, 1)],
    ],
)
@pytest.mark.parametrize("foreign", [math.nan, math.inf])
@pytest.mark.parametrize("short", [True, False])
def test_a_sequence_cannot_spoil_another(
    foreign: float, layout: list[tuple[int, int]], short: bool
) -> None:
    kernel = built() if short else built(width=128, short=False)
    pair = run(kernel, layout, foreign=foreign)
    assert torch.isfinite(pair[0]).all()
    assert_right(pair, "bf16")


@pytest.mark.parametrize(
    "wait",
    [r"wgmma\.wait_group\.sync\.aligned\s+0;", r"wgmma\.wait_group\.sync\.aligned\s+1;"],
)
def test_a_missing_wait_is_seen(wait: str) -> None:
    """Of the emulator: that these tests could fail."""
    kernel = built()
    ptx, changes = re.subn(wait, "", kernel.ptx)
    assert changes
    with pytest.raises((PtxError, AssertionError)):
        assert_right(run(BuiltKernel(kernel.description, kernel.cubin, ptx), [(200, 3)]), "bf16")


# Machine code


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("width", "short"), [(64, True), (64, False), (128, False), (256, False)])
def test_machine_code(width: int, short: bool, bias: bool, tmp_path: Path) -> None:
    sass = disassembled(built(width=width, short=short, bias=bias), tmp_path)
    products, loads = len(re.findall(r"\bHGMMA\b", sass)), len(re.findall(r"\bUTMALDG\b", sass))
    assert products, "no WGMMA: the tensor cores are not used as they should be"
    assert loads, "no TMA loads"
    assert "tanh" in sass.lower()
    spills = len(re.findall(r"\b(?:LDL|STL)\b", sass))
    assert not spills, "registers spill"
    wide = len(re.findall(r"\bLDG\.E\.128\b", sass))
    assert bool(wide) == bias, "a bias comes 16 bytes at a time, and nothing else from memory does"
    # ptxas may wait after every product, where it takes registers to be too few.
    assert len(re.findall(r"WARPGROUP\.DEPBAR", sass)) < products / 2


def test_every_variant_has_a_name_of_its_own() -> None:
    names = [variant.name for variant in all_variants()]
    assert len(names) == len(set(names)) > 8


def test_too_much_shared_memory_is_refused() -> None:
    variant = replace(variant_of("bf16", 256, bias=False, window=False), groups=3, stages=3)
    with pytest.raises(BuildFailed, match=rf"block may have {MOST_SHARED_BYTES}: take smaller"):
        compile_variant(variant)
