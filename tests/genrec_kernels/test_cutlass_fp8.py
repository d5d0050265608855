"""The CUTLASS attention kernels of eight bits without a GPU: emulated from their PTX, and their
machine code inspected. `fp8_cases.py` runs them on a Hopper GPU."""

from __future__ import annotations

import math
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("cutlass", reason="CuTe DSL (nvidia-cutlass-dsl) compiles the kernels")

from genrec_kernels.cutlass import hstu_attention_fp8 as launcher
from genrec_kernels.cutlass.build import BuiltKernel, compile_variant
from genrec_kernels.cutlass.emulation import emulate
from genrec_kernels.cutlass.library import CompiledKernel
from genrec_kernels.cutlass.parameters import HeadScales, Parameter, forward_parameters
from genrec_kernels.cutlass.variants import fp8_variant_of
from genrec_kernels.fp8_layout import Fp8Rows, first_value_of
from genrec_kernels.fp8_rows import head_scales, to_fp8
from genrec_kernels.hstu_attention import hstu_attention
from genrec_kernels.hstu_attention_fp8 import attention_of_fp8_rows
from genrec_kernels.jagged import JaggedRows
from genrec_kernels.ptx_emulator import Kernel
from genrec_kernels.ptx_emulator.program import PtxError

from .machine_code import MOST_MOVES, disassembled, moves_to_uniform_registers

NORM = 64
#: Of an output in bfloat16, and of weights that round the other way, as scores are of 16 bits.
TOLERANCE = 1e-2

LAYOUTS = {
    "one row": [(1, 0)],
    "one candidate": [(0, 1)],
    "empty sequences": [(0, 0), (0, 19), (0, 0), (5, 0), (0, 0)],
    "around tiles": [(63, 1), (64, 64), (65, 0), (128, 1), (127, 2)],
    "candidates of several tiles": [(20, 150)],
    "several tiles": [(300, 3), (37, 0)],
    "more sequences than a warp has lanes": [(i % 4, i % 3) for i in range(70)],
}


@cache
def built(width: int = 128) -> BuiltKernel:
    return compile_variant(fp8_variant_of(width))


def run(
    kernel: BuiltKernel,
    layout: list[tuple[int, int]],
    *,
    heads: int = 2,
    blocks: int = 2,
    seed: int = 0,
    spoiled: bool = False,
    alpha: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """What the kernel gives, and what its twin does.

    Args:
        spoiled: the second sequence is NaN, and is left out of both.
        alpha: times the usual one.
    """
    variant = kernel.description.variant
    random = torch.Generator().manual_seed(seed)
    rows = JaggedRows(torch.tensor([h for h, _ in layout]), torch.tensor([c for _, c in layout]))
    total = int(rows.offsets[-1])
    spread = torch.tensor([0.5, 2.0, 1.0])[:heads, None]
    wide = torch.randn(total, 3, heads, variant.width, generator=random) * spread
    q, k, v = wide.unbind(1)
    alpha *= variant.width**-0.5
    scales = head_scales(q, k, v, alpha=alpha)
    operands = to_fp8(q, k, v, rows=rows, scales=scales, backend="reference")
    limits = torch.tensor([x for h, c in layout for x in [*range(h), *[h] * c]])
    options = {"key_limits": limits, "alpha": alpha, "norm_length": NORM}
    expected = attention_of_fp8_rows(operands, rows=rows, backend="reference", **options)

    judged = torch.ones(total, dtype=torch.bool)
    if spoiled:
        judged[rows.offsets[1] : rows.offsets[2]] = False
    operands = _with_nan(operands, rows, judged)
    out = torch.full((total, heads, variant.width), math.nan, dtype=torch.bfloat16)
    claimed = torch.zeros(1, dtype=torch.int32)
    q_scale, k_scale, v_scale = operands.scales
    parameters = forward_parameters(
        variant,
        q=operands.q,
        k=operands.k,
        v=operands.v,
        out=out,
        offsets=rows.offsets,
        histories=rows.history_lengths,
        key_limits=limits,
        claimed=claimed,
        bias=None,
        group=2,
        window=0,
        half_alpha=alpha / 2,
        inverse_norm=1 / NORM,
        scales=HeadScales(q_scale * k_scale, v_scale),
    )
    emulate(Kernel(kernel.ptx), parameters, blocks=blocks, seed=seed)
    assert claimed.item() == 0, "the next launch would begin at another tile"
    return out[judged].double(), expected[judged].double()


def _with_nan(operands: Fp8Rows, rows: JaggedRows, judged: Tensor) -> Fp8Rows:
    """NaN in rows that are not judged, and in every place of values that nobody writes."""
    nan = 0x7F
    q, k = (x.view(torch.uint8).clone() for x in (operands.q, operands.k))
    q[~judged], k[~judged] = nan, nan
    v = torch.full_like(operands.v.view(torch.uint8), nan)
    for i, length in enumerate(rows.lengths.tolist()):
        start = int(rows.offsets[i])
        if length and judged[start]:
            first = first_value_of(start, i)
            places = slice(first, first + -(-length // 128) * 128)
            v[:, :, places] = operands.v.view(torch.uint8)[:, :, places]
    return operands._replace(
        **{name: x.view(torch.float8_e4m3fn) for name, x in (("q", q), ("k", k), ("v", v))}
    )


def assert_right(pair: tuple[Tensor, Tensor]) -> None:
    out, expected = pair
    error = float((out - expected).norm() / expected.norm())
    assert error < TOLERANCE, error


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(layout: list[tuple[int, int]]) -> None:
    assert_right(run(built(), layout))


@pytest.mark.parametrize("width", [64, 128, 256])
def test_widths(width: int) -> None:
    assert_right(run(built(width), [(300, 3), (37, 0)], heads=3))


@pytest.mark.parametrize("alpha", [1e-3, 30.0, 100.0])
def test_scores_small_and_great(alpha: float) -> None:
    """Great ones reach beyond half precision once times alpha; negative ones weigh nothing then."""
    out, expected = run(built(64), [(300, 3)], alpha=alpha)
    assert torch.isfinite(out).all()
    assert_right((out, expected))


@pytest.mark.parametrize("width", [64, 128, 256])
def test_a_sequence_cannot_spoil_another(width: int) -> None:
    pair = run(built(width), [(100, 0), (20, 30), (150, 3)], spoiled=True)
    assert torch.isfinite(pair[0]).all()
    assert_right(pair)


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_warps_and_copies(seed: int) -> None:
    assert_right(run(built(), [(270, 5), (70, 0)], blocks=1 + seed, seed=seed))


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
        assert_right(run(BuiltKernel(kernel.description, kernel.cubin, ptx), [(400, 3)]))


def test_the_twin_is_near_attention_of_more_bits() -> None:
    random = torch.Generator().manual_seed(0)
    rows = JaggedRows(torch.tensor([200, 0, 31]), torch.tensor([3, 4, 0]))
    q, k, v = torch.randn(238, 3, 2, 64, generator=random).unbind(1)
    limits = torch.tensor([*range(200), *[200] * 3, *[0] * 4, *range(31)])
    options = {"rows": rows, "key_limits": limits, "alpha": 0.125, "norm_length": NORM}
    found = attention_of_fp8_rows(to_fp8(q, k, v, rows=rows), **options)
    expected = hstu_attention(q, k, v, timestamps=limits, backend="reference", **options)
    error = float((found - expected).norm() / expected.norm())
    assert 1e-3 < error < 0.06


def test_what_the_launcher_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher on the CPU, with the emulator in place of the driver."""
    kernel = built(64)
    counter = torch.zeros(1, dtype=torch.int32)

    def launch_here(
        chosen: CompiledKernel, parameters: list[Parameter], *, blocks: int, device: torch.device
    ) -> None:
        assert chosen == kernel.description
        emulate(Kernel(kernel.ptx), parameters, blocks=blocks)

    monkeypatch.setattr(launcher, "launch", launch_here)
    monkeypatch.setattr(launcher, "claim_counter", lambda _: counter)
    monkeypatch.setattr(launcher, "multiprocessors", lambda _: 3)
    random = torch.Generator().manual_seed(0)
    rows = JaggedRows(torch.tensor([150, 0, 31]), torch.tensor([3, 4, 0]))
    operands = to_fp8(*torch.randn(188, 3, 2, 64, generator=random).unbind(1), rows=rows)
    limits = torch.tensor([*range(150), *[150] * 3, *[0] * 4, *range(31)])
    options = {"key_limits": limits, "alpha": 0.125, "norm_length": NORM}
    found = launcher.forward(
        operands,
        offsets=rows.offsets,
        histories=rows.history_lengths,
        max_rows=200,
        kernel=kernel.description,
        **options,
    )
    expected = attention_of_fp8_rows(operands, rows=rows, backend="reference", **options)
    assert_right((found.double(), expected.double()))


# Machine code


@pytest.mark.parametrize("width", [64, 128, 256])
def test_machine_code(width: int, tmp_path: Path) -> None:
    kernel = built(width)
    sass = disassembled(kernel, tmp_path)
    products = re.findall(r"\bQGMMA\.\S+E4M3\.E4M3", sass)
    assert products, "no WGMMA of eight bits"
    assert len(re.findall(r"\bUTMALDG\b", sass)) == len(
        re.findall(r"cp\.async\.bulk\.tensor", kernel.ptx)
    )
    assert not re.search(r"\b(?:LDL|STL)\b", sass), "registers spill"
    assert moves_to_uniform_registers(sass) <= MOST_MOVES
    waits = list(re.finditer(r"WARPGROUP\.DEPBAR\.LE gsb0, (0x\d)", sass))
    # ptxas may wait after every product, where it takes registers to be too few.
    assert len(waits) < len(products) / 2
    # SiLU has to come between the wait for the scores and that for the product beside it: what
    # ptxas moves behind the second does not overlap (see `steps.next_step`).
    beside = [
        sass[wait.end() : after.start()]
        for wait, after in pairwise(waits)
        if wait.group(1) == "0x1"
    ]
    assert len(beside) == 2
    for step in beside:
        special = len(re.findall(r"MUFU\.TANH", step))
        assert special == kernel.description.variant.keys // 2, "SiLU is not beside the product"
