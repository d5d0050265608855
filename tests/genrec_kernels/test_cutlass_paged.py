"""The paged CUTLASS kernels on a machine without a GPU, as in `test_cutlass_attention.py`;
`paged_compiled_cases.py` runs them on a Hopper GPU."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

pytest.importorskip("cutlass", reason="CuTe DSL (nvidia-cutlass-dsl) compiles the kernels")

from genrec_kernels import reference
from genrec_kernels.cutlass.block_sizes import REGISTERS, WARP_GROUP
from genrec_kernels.cutlass.build import BuiltKernel, compile_variant
from genrec_kernels.cutlass.emulation import emulate
from genrec_kernels.cutlass.parameters import Fp8Parameters, paged_parameters
from genrec_kernels.cutlass.variants import (
    PAGE_KEYS,
    SMALL_PAGE_KEYS,
    Element,
    all_variants,
    paged_variant_of,
)
from genrec_kernels.fp8_layout import largest_factor
from genrec_kernels.fp8_pages import FP8, narrow_factors
from genrec_kernels.ptx_emulator import Kernel
from genrec_kernels.ptx_emulator.kernel import Deadlock
from genrec_kernels.ptx_emulator.memory import MemoryFault
from genrec_kernels.ptx_emulator.program import PtxError
from genrec_kernels.reference.paged_bias import paged_bias
from genrec_kernels.relative_bias import RelativeBias, time_bucket_boundaries

from .machine_code import MOST_MOVES, disassembled, moves_to_uniform_registers
from .paged_inputs import paged_histories

NORM = 64
#: Of an output in bfloat16, and of weights that round the other way, as scores are of 16 bits.
EIGHT_BITS = 1.5e-2
Bias = Literal["none", "own", "same"]
#: (cached rows, new rows) of each request.
LAYOUTS = {
    "one row of nothing": [(0, 1)],
    "nothing": [(7, 0), (0, 0), (70, 1)],
    "no history": [(0, 19), (0, 0), (0, 130)],
    "around pages": [(63, 2), (64, 2), (65, 2), (128, 64), (127, 65)],
    "several tiles": [(300, 150), (70, 3)],
    "more requests than a warp has lanes": [(i % 9 * 10, i % 3) for i in range(40)],
}


@cache
def built(
    width: int = 64,
    bias: Bias = "none",
    element: Element = "bf16",
    page: int = 64,
) -> BuiltKernel:
    return compile_variant(
        paged_variant_of(
            element, width, bias=bias != "none", same_bias=bias == "same", page_size=page
        )
    )


def run(
    kernel: BuiltKernel,
    layout: list[tuple[int, int]],
    *,
    heads: int = 2,
    page: int = 64,
    splits: int = 1,
    blocks: int = 2,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """What the kernel gives and what is right, in float64.

    Histories are as `paged_histories` lays them out.
    """
    variant = kernel.description.variant
    dtype = torch.float16 if variant.element == "fp16" else torch.bfloat16
    random = torch.Generator().manual_seed(seed)
    width, total = variant.width, sum(new for _, new in layout)
    numbers, times, table = paged_histories(
        [cached for cached, _ in layout],
        page=page,
        heads=heads,
        width=width,
        span=10**6,
        random=random,
    )
    pages, kv_scales, q_scales = numbers.to(dtype), None, None
    limits, row_times = [], []
    for request, (cached, new) in enumerate(layout):
        if variant.same_bias:
            limits.append(torch.full((new,), cached))
            row_times.append(torch.full((new,), 10**6 + request))
        else:
            limits.append(torch.randint(0, cached + 1, (new,), generator=random))
            row_times.append(torch.randint(0, 10**6, (new,), generator=random))
    q, k, v = torch.randn(total, 3, heads, width, generator=random).to(dtype).unbind(1)
    where_and_when = {
        "timestamp_pages": times,
        "page_table": table,
        "row_offsets": torch.tensor([0, *(new for _, new in layout)]).cumsum(0).int(),
        "key_limits": torch.cat(limits),
        "timestamps": torch.cat(row_times),
    }
    bias = made = fp8 = None
    alpha = scale = width**-0.5
    if variant.fp8:
        # Of numbers up to some 4; of the keys a few are cut.
        of_keys = torch.linspace(2.5, 5, heads) / largest_factor(width)
        kv_scales = torch.stack([of_keys, torch.linspace(0.01, 0.02, heads)])
        qk_scale = float(of_keys.max()) * 4 / largest_factor(width)
        q_scales = qk_scale / kv_scales[0]
        pages = torch.full(numbers.shape, math.nan).to(FP8)
        rows = numbers.transpose(1, 2).reshape(-1, heads, 2 * width)
        reference.page_write(
            *rows.chunk(2, dim=-1), torch.arange(len(rows)), kv_pages=pages, kv_scales=kv_scales
        )
        fp8 = Fp8Parameters(narrow_factors(q, q_scales), kv_scales[1], 1 / qk_scale)
        scale *= qk_scale
    if variant.bias:
        bias = RelativeBias(
            torch.randn(200, generator=random),
            torch.randn(64, generator=random),
            time_bucket_boundaries(64),
        )
        made = paged_bias(
            bias,
            **where_and_when,
            max_keys=max(cached for cached, _ in layout),
            same_bias=variant.same_bias,
            scale=1 / scale,
            dtype=torch.float16 if variant.fp8 else torch.float32,
        )
    expected = reference.paged_hstu_attention(
        *(q.double(), k.double(), v.double()),
        kv_pages=pages if variant.fp8 else pages.double(),
        kv_scales=kv_scales,
        q_scales=q_scales,
        **where_and_when,
        alpha=alpha,
        norm_length=NORM,
        bias=bias and RelativeBias(bias.position.double(), bias.time.double(), bias.boundaries),
    )
    out = torch.full((total, heads, width), math.nan, dtype=dtype)
    parts = torch.full((splits * total * heads, width), math.nan)
    claimed = torch.zeros(1, dtype=torch.int32)
    parameters = paged_parameters(
        variant,
        q=q,
        k=k,
        v=v,
        kv_pages=pages,
        out=out,
        partial=parts,
        offsets=where_and_when["row_offsets"],
        key_limits=where_and_when["key_limits"],
        page_table=table,
        claimed=claimed,
        bias=made,
        group=2,
        splits=splits,
        half_alpha=scale / 2,
        inverse_norm=1 / NORM,
        fp8=fp8,
    )
    emulate(Kernel(kernel.ptx), parameters, blocks=blocks, seed=seed)
    assert claimed.item() == 0, "the next launch would begin at another tile"
    if splits > 1:
        return parts.double().view(splits, *out.shape).sum(0), expected
    return out.double(), expected


def assert_right(pair: tuple[Tensor, Tensor], tolerance: float = 3e-3) -> None:
    out, expected = pair
    error = float((out - expected).norm() / expected.norm())
    assert error < tolerance, error


@pytest.mark.parametrize("bias", ["none", "own", "same"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(layout: list[tuple[int, int]], bias: Bias) -> None:
    assert_right(run(built(bias=bias), layout))


@pytest.mark.parametrize("bias", ["own", "same"])
@pytest.mark.parametrize("width", [128, 256])
def test_widths(width: int, bias: Bias) -> None:
    assert_right(run(built(width, bias), [(150, 30), (64, 1)], heads=1))


def test_half_precision() -> None:
    assert_right(run(built(element="fp16"), LAYOUTS["around pages"]), 5e-4)


@pytest.mark.parametrize("page", [128, 192])
def test_pages_of_several_tiles(page: int) -> None:
    assert_right(run(built(), [(500, 9), (193, 3), (0, 1)], page=page))


@pytest.mark.parametrize("bias", ["none", "own", "same"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_of_eight_bits(layout: list[tuple[int, int]], bias: Bias) -> None:
    assert_right(run(built(128, bias, "fp8"), layout), EIGHT_BITS)


@pytest.mark.parametrize("width", [64, 256])
def test_widths_of_eight_bits(width: int) -> None:
    kernel = built(width, element="fp8")
    assert_right(run(kernel, [(150, 30), (64, 1)], page=128), EIGHT_BITS)
    assert_right(run(kernel, [(300, 5), (10, 2), (0, 1)], splits=3, blocks=3), EIGHT_BITS)


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_eight_bits(seed: int) -> None:
    kernel = built(128, "same", "fp8")
    assert_right(run(kernel, [(140, 70), (70, 1)], blocks=1 + seed, seed=seed), EIGHT_BITS)


SMALL_LAYOUTS = {
    "one row of nothing": LAYOUTS["one row of nothing"],
    "around boxes": [(0, 130), (1, 2), (0, 0), (15, 1), (16, 2), (17, 65), (63, 2), (65, 1)],
    "several tiles": [(300, 150), (70, 3)],
    # More tiles than the lanes of a warp find boxes for at a time.
    "many tiles": [(1100, 3), (449, 2), (448, 1), (512, 1)],
}


@pytest.mark.parametrize(
    ("page", "bias"),
    [(16, "none"), (16, "own"), (16, "same"), (32, "same"), (48, "none"), (80, "own")],
)
@pytest.mark.parametrize("layout", SMALL_LAYOUTS.values(), ids=SMALL_LAYOUTS)
def test_small_pages(layout: list[tuple[int, int]], page: int, bias: Bias) -> None:
    assert_right(run(built(bias=bias, page=SMALL_PAGE_KEYS), layout, page=page, heads=1))


@pytest.mark.parametrize("bias", ["none", "own", "same"])
@pytest.mark.parametrize("width", [128, 256])
def test_small_pages_of_wide_heads(width: int, bias: Bias) -> None:
    kernel = built(width, bias, page=SMALL_PAGE_KEYS)
    assert_right(run(kernel, [(180, 30), (81, 1)], page=48, heads=1))


def test_small_pages_in_half_precision() -> None:
    kernel = built(element="fp16", page=SMALL_PAGE_KEYS)
    assert_right(run(kernel, LAYOUTS["around pages"], page=16), 5e-4)


@pytest.mark.parametrize("splits", [2, 7])
@pytest.mark.parametrize("bias", ["none", "own", "same"])
def test_small_pages_in_parts(splits: int, bias: Bias) -> None:
    kernel = built(bias=bias, page=SMALL_PAGE_KEYS)
    assert_right(run(kernel, [(1000, 5), (10, 2), (0, 1)], page=16, splits=splits, blocks=3))


@pytest.mark.parametrize("seed", range(2))
def test_small_pages_in_any_order(seed: int) -> None:
    kernel = built(bias="same", page=SMALL_PAGE_KEYS)
    assert_right(run(kernel, [(520, 70), (70, 1)], page=32, blocks=1 + seed, seed=seed))


@pytest.mark.parametrize("expected", [True, False], ids=["copied twice", "not expected"])
@pytest.mark.parametrize("which", range(3))
def test_a_box_too_many_is_seen(which: int, expected: bool) -> None:
    """Of the emulator: of the copies, and of the bytes that a slot waits for, one is changed."""
    kernel = built(page=SMALL_PAGE_KEYS)
    pattern = (
        r"cp\.async\.bulk\.tensor\.4d[^;]*;" if expected else r"mbarrier\.arrive\.expect_tx[^;]*;"
    )
    place = list(re.finditer(pattern, kernel.ptx))[which]
    line = place.group()
    change = line + line if expected else line.replace(".expect_tx", "").rpartition(",")[0] + ";"
    ptx = kernel.ptx[: place.start()] + change + kernel.ptx[place.end() :]
    with pytest.raises((PtxError, MemoryFault, Deadlock, AssertionError)):
        assert_right(run(replace(kernel, ptx=ptx), [(200, 40)], page=16, heads=1))


@pytest.mark.parametrize("page", [16, 48, 64])
@pytest.mark.parametrize("cached", [1, 16, 33, 81, 470])
def test_no_page_number_is_read_past_a_history(cached: int, page: int) -> None:
    """The table ends with the history, and what is read past a tensor is a fault."""
    assert_right(run(built(bias="same", page=page), [(cached, 2)], page=page, heads=1))


@pytest.mark.parametrize("splits", [2, 3, 7])
@pytest.mark.parametrize("bias", ["none", "own", "same"])
def test_parts_of_keys(splits: int, bias: Bias) -> None:
    assert_right(run(built(bias=bias), [(300, 5), (10, 2), (0, 1)], splits=splits, blocks=3))


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_warps_and_copies(seed: int) -> None:
    assert_right(run(built(bias="same"), [(140, 70), (70, 1)], blocks=1 + seed, seed=seed))


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
        assert_right(run(replace(kernel, ptx=ptx), [(200, 40)]))


@pytest.mark.parametrize("bias", ["none", "own", "same"])
@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("page", [64, SMALL_PAGE_KEYS])
@pytest.mark.parametrize("element", ["bf16", "fp16"])
def test_machine_code(element: Element, page: int, width: int, bias: Bias, tmp_path: Path) -> None:
    sass = disassembled(built(width, bias, element, page), tmp_path)
    products = len(re.findall(r"\bHGMMA\b", sass))
    assert products, "no WGMMA: the tensor cores are not used as they should be"
    assert re.search(r"\bUTMALDG\b", sass), "no TMA loads"
    assert bool(re.search(r"\bUBLKCP\b", sass)) == (bias == "same"), (
        "the bias comes by its own copy"
    )
    assert not re.search(r"\b(?:LDL|STL)\b", sass), "registers spill"
    # ptxas may wait after every product, where it takes registers to be too few.
    assert len(re.findall(r"WARPGROUP\.DEPBAR", sass)) < products / 2
    # The copies of smaller pages need many themselves; in fp16 ptxas does it in any form tried.
    if page == PAGE_KEYS and element == "bf16":
        assert moves_to_uniform_registers(sass) <= MOST_MOVES


@pytest.mark.parametrize("bias", ["none", "own", "same"])
@pytest.mark.parametrize("width", [64, 128, 256])
def test_machine_code_of_eight_bits(width: int, bias: Bias, tmp_path: Path) -> None:
    kernel = built(width, bias, "fp8")
    sass = disassembled(kernel, tmp_path)
    assert re.search(r"\bQGMMA\.\S+F16\.E4M3\.E4M3", sass), "no scores in half precision"
    assert re.search(r"\bQGMMA\.\S+F32\.E4M3\.E4M3", sass), "no sums in float32"
    assert re.search(r"\bUTMALDG\b", sass), "no TMA loads"
    assert not re.search(r"\b(?:LDL|STL)\b", sass), "registers spill"
    # SiLU has to come beside products: before the wait for them, and behind what begins them.
    waits = list(re.finditer(r"WARPGROUP\.DEPBAR\.LE gsb0, (0x\d)", sass))
    variant = kernel.description.variant
    if variant.ahead:
        pieces = [sass[a.end() : b.start()] for a, b in pairwise(waits)]
        both = [x for x in pieces if ".F16.E4M3" in x and ".F32.E4M3" in x and "MUFU.TANH" in x]
        beside = [x[x.index("QGMMA") :] for x in both]
    else:
        pairs = pairwise(waits)
        beside = [sass[a.end() : b.start()] for a, b in pairs if a.group(1) == "0x1"]
    of_step = variant.keys // 2
    assert [len(re.findall(r"MUFU\.TANH", x)) >= 0.75 * of_step for x in beside] == [True] * 2


def test_registers_of_a_block_suffice() -> None:
    """A block gets a launch's registers a thread, eights of them; more is waited for in vain."""
    for variant in all_variants():
        threads = WARP_GROUP * (variant.groups + 1)
        given = 65536 // (variant.resident * threads) // 8 * 8 * threads
        loading, computing = REGISTERS[variant.groups, variant.resident]
        assert WARP_GROUP * (loading + variant.groups * computing) <= given, variant.name
