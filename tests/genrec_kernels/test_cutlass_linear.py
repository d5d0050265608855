"""The CUTLASS kernels of the linear layers without a GPU: emulated from their PTX, and their
machine code inspected. `fused_cases.py` and `fp8_linear_cases.py` run them on a Hopper GPU."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("cutlass", reason="CuTe DSL (nvidia-cutlass-dsl) compiles the kernels")

from genrec_kernels.cutlass import fused_linear as launcher
from genrec_kernels.cutlass.block_sizes import LINEAR_REGISTERS, WARP_GROUP
from genrec_kernels.cutlass.build import BuildFailed, BuiltKernel, compile_variant
from genrec_kernels.cutlass.emulation import emulate
from genrec_kernels.cutlass.library import CompiledKernel
from genrec_kernels.cutlass.linear_choice import (
    all_linear_variants,
    choose_tile,
    cluster_tiles,
    tile_times,
)
from genrec_kernels.cutlass.linear_parameters import RowScales, linear_parameters
from genrec_kernels.cutlass.linear_variants import GROUPS, LinearTile, LinearVariant
from genrec_kernels.cutlass.parameters import Parameter
from genrec_kernels.cutlass.variants import Element
from genrec_kernels.narrow_rows import NarrowRows, narrow_rows
from genrec_kernels.ptx_emulator import Kernel
from genrec_kernels.ptx_emulator.kernel import Deadlock
from genrec_kernels.ptx_emulator.memory import MemoryFault
from genrec_kernels.ptx_emulator.program import PtxError

from .machine_code import disassembled

DTYPES: dict[Element, torch.dtype] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.bfloat16,
}
TOLERANCE: dict[Element, float] = {"bf16": 3e-3, "fp16": 5e-4, "fp8": 3e-3}
ALTERNATE = LinearTile(rows=64, columns=64, stages=3)
TOGETHER = replace(ALTERNATE, together=True)
SMALL_TILES = {
    "alternate": ALTERNATE,
    "together": TOGETHER,
    "cluster": replace(ALTERNATE, cluster_rows=2),
    "cluster together": replace(TOGETHER, cluster_rows=2),
}


@cache
def built(
    tile: LinearTile = ALTERNATE, element: Element = "bf16", *, adds: bool = False
) -> BuiltKernel:
    return compile_variant(LinearVariant(element=element, adds=adds, tile=tile))


class Product:
    """Inputs, of which rows may be spoiled, and what is right in float64."""

    def __init__(
        self, variant: LinearVariant, rows: int, columns: int, width: int, *, seed: int = 0
    ):
        random = torch.Generator().manual_seed(seed)
        dtype = DTYPES[variant.element]
        x = torch.randn(rows, width, generator=random)
        weight = torch.randn(columns, width, generator=random) / width**0.5
        self.bias = torch.randn(columns, generator=random).to(dtype)
        residual = torch.randn(rows, columns, generator=random).to(dtype)
        self.residual = residual if variant.adds else None
        self.x: Tensor | NarrowRows
        self.weight: Tensor | NarrowRows
        if variant.fp8:
            self.x, self.weight = narrow_rows(x), narrow_rows(weight)
            product = F.linear(self.x.wide().double(), self.weight.wide().double())
        else:
            self.x, self.weight = x.to(dtype), weight.to(dtype)
            product = F.linear(self.x.double(), self.weight.double())
        product += self.bias.double()
        self.expected = product + residual.double() if variant.adds else F.silu(product)

    def parameters(self, variant: LinearVariant, out: Tensor, group: int) -> list[Parameter]:
        x, weight, scales = self.x, self.weight, None
        if isinstance(x, NarrowRows) and isinstance(weight, NarrowRows):
            scales = RowScales(x.scales, weight.scales)
            x, weight = x.numbers, weight.numbers
        return linear_parameters(
            variant,
            x=x,
            weight=weight,
            bias=self.bias,
            residual=self.residual,
            scales=scales,
            out=out,
            group=group,
        )


def run(
    kernel: BuiltKernel, product: Product, *, blocks: int = 2, group: int = 2, seed: int = 0
) -> Tensor:
    """What the kernel gives, in an output that was NaN, on so many blocks or one cluster."""
    variant = kernel.description.variant
    out = torch.full_like(product.expected, math.nan, dtype=DTYPES[variant.element])
    parameters = product.parameters(variant, out, group)
    cluster = kernel.description.cluster
    blocks = max(blocks, cluster)
    emulate(Kernel(kernel.ptx), parameters, blocks=blocks, seed=seed, cluster=cluster)
    return out.double()


def assert_right(out: Tensor, expected: Tensor, element: Element) -> None:
    error = float((out - expected).norm() / expected.norm())
    assert error < TOLERANCE[element], error


def check(
    kernel: BuiltKernel, rows: int, columns: int, width: int, *, seed: int = 0, blocks: int = 2
) -> None:
    variant = kernel.description.variant
    product = Product(variant, rows, columns, width, seed=seed)
    out = run(kernel, product, blocks=blocks, seed=seed)
    assert_right(out, product.expected, variant.element)


@pytest.mark.parametrize("adds", [False, True], ids=["silu", "add"])
@pytest.mark.parametrize("element", DTYPES)
def test_elements(element: Element, adds: bool) -> None:
    check(built(ALTERNATE, element, adds=adds), 150, 80, 208)


@pytest.mark.parametrize(
    ("rows", "columns", "width"),
    [
        (1, 8, 8),
        (1, 64, 64),
        (40, 72, 200),
        (65, 64, 72),
        # More tiles than places of the two warp groups of both blocks, and more steps than stages.
        (260, 136, 264),
    ],
)
@pytest.mark.parametrize("tile", ["alternate", "together", "cluster"])
def test_shapes(tile: str, rows: int, columns: int, width: int) -> None:
    check(built(SMALL_TILES[tile]), rows, columns, width)


@pytest.mark.parametrize(
    "tile",
    {**tile_times(fp8=False, adds=True), **tile_times(fp8=True, adds=False)},
    ids=lambda tile: tile.name,
)
def test_tiles(tile: LinearTile) -> None:
    check(built(tile, adds=True), tile.block_rows + 1, tile.columns, 72)


@pytest.mark.parametrize("group", [1, 2, 5, 100])
def test_any_order_of_tiles(group: int) -> None:
    kernel = built(SMALL_TILES["cluster"])
    product = Product(kernel.description.variant, 400, 136, 64)
    assert_right(run(kernel, product, blocks=4, group=group), product.expected, "bf16")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("tile", SMALL_TILES.values(), ids=SMALL_TILES)
def test_any_order_of_warps_and_copies(tile: LinearTile, seed: int) -> None:
    check(built(tile), 200, 72, 136 + 64 * seed, seed=seed, blocks=4 - 2 * (seed % 2))


def test_more_blocks_than_tiles() -> None:
    check(built(), 65, 64, 128, blocks=5)
    check(built(SMALL_TILES["cluster"]), 65, 64, 128, blocks=4)


@pytest.mark.parametrize("spoil", [math.nan, math.inf])
@pytest.mark.parametrize("tile", SMALL_TILES.values(), ids=SMALL_TILES)
def test_a_row_cannot_spoil_another(tile: LinearTile, spoil: float) -> None:
    kernel = built(tile, adds=True)
    product = Product(kernel.description.variant, 100, 72, 128)
    spoiled, judged = [0, 17, 63, 64, 99], torch.ones(100, 72, dtype=torch.bool)
    for of_rows in (product.x, product.residual):
        assert isinstance(of_rows, Tensor)
        of_rows[spoiled] = spoil
    product.bias[5] = spoil
    judged[spoiled], judged[:, 5] = False, False
    out = run(kernel, product)
    assert not out[~judged].isfinite().any()
    assert_right(out[judged], product.expected[judged], "bf16")


@pytest.mark.parametrize(
    ("tile", "width", "wait"),
    [
        (ALTERNATE, 328, r"wgmma\.wait_group\.sync\.aligned\s+0;"),
        (TOGETHER, 328, r"wgmma\.wait_group\.sync\.aligned\s+1;"),
        # Of a warp group's turn, and of its own threads.
        (ALTERNATE, 328, r"bar\.(sync|arrive)\s+%r\d+, 256;"),
        (TOGETHER, 64, r"bar\.sync\s+%r\d+, 128;"),
        # Blocks of a cluster would signal barriers that are not there yet.
        (SMALL_TILES["cluster"], 328, r"barrier\.cluster\.wait;"),
    ],
)
def test_a_missing_wait_is_seen(tile: LinearTile, width: int, wait: str) -> None:
    """Of the emulator: that these tests could fail."""
    kernel = built(tile)
    ptx, changes = re.subn(wait, "", kernel.ptx)
    assert changes
    broken = BuiltKernel(kernel.description, kernel.cubin, ptx)
    with pytest.raises((PtxError, AssertionError, MemoryFault, Deadlock)):
        check_all(broken, width)


def check_all(kernel: BuiltKernel, width: int) -> None:
    for seed in range(10):
        check(kernel, 500, 136, width, seed=seed)


@pytest.mark.parametrize("element", ["fp16", "fp8"])
@pytest.mark.parametrize("adds", [False, True], ids=["silu", "add"])
def test_what_the_launcher_passes(
    monkeypatch: pytest.MonkeyPatch, element: Element, adds: bool
) -> None:
    """The launcher on the CPU, with the emulator in place of the driver."""
    kernel = built(SMALL_TILES["cluster together"], element, adds=adds)

    def launch_here(
        chosen: CompiledKernel[LinearVariant],
        parameters: list[Parameter],
        *,
        blocks: int,
        device: torch.device,
    ) -> None:
        assert chosen == kernel.description
        emulate(Kernel(kernel.ptx), parameters, blocks=blocks, cluster=chosen.cluster)

    monkeypatch.setattr(launcher, "launch", launch_here)
    monkeypatch.setattr(launcher, "most_blocks", lambda *_: 4)
    product = Product(kernel.description.variant, 300, 144, 160)
    inputs = (product.x, product.weight, product.bias)
    if product.residual is None:
        out = launcher.linear_silu(*inputs, kernel=kernel.description)
    else:
        out = launcher.linear_add(*inputs, product.residual, kernel=kernel.description)
    assert out.dtype == DTYPES[element]
    assert_right(out.double(), product.expected, element)


@pytest.mark.parametrize(
    ("width", "columns", "shift", "dtype", "reason"),
    [
        (64, 64, 0, torch.bfloat16, None),
        (64, 64, 0, torch.float32, r"take bfloat16 and float16.*not torch\.float32"),
        (60, 64, 0, torch.bfloat16, "multiples of 16 bytes"),
        (64, 60, 0, torch.bfloat16, "multiples of 16 bytes"),
        (64, 64, 4, torch.bfloat16, "multiples of 16 bytes"),
    ],
)
def test_what_no_kernel_takes(
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    columns: int,
    shift: int,
    dtype: torch.dtype,
    reason: str | None,
) -> None:
    monkeypatch.setattr(launcher, "_kernels_of", lambda *_: {"a tile": "a kernel"})
    x = torch.empty(3 * width + shift, dtype=dtype)[shift:].view(3, width)
    weight, bias = torch.empty(columns, width, dtype=dtype), torch.empty(columns, dtype=dtype)
    offered, lacking = launcher.offer(x, weight, bias, None)
    if reason is None:
        assert offered == ("cutlass", "triton", "reference")
        assert not lacking
    else:
        assert offered == ("triton", "reference")
        assert re.search(reason, lacking["cutlass"])


def test_triton_is_first_in_eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_kernels_of", lambda *_: {"a tile": "a kernel"})
    x, bias = narrow_rows(torch.ones(64, 64)), torch.ones(64, dtype=torch.bfloat16)
    assert launcher.offer(x, x, bias, None) == (("triton", "cutlass", "reference"), {})


def test_kernels_that_were_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_kernels_of", lambda *_: {})
    x = torch.empty(64, 64, dtype=torch.float16)
    assert "not compiled" in str(launcher.unsupported(x, x, x[0], None))


@pytest.mark.parametrize("fp8", [False, True])
def test_tiles_are_chosen_by_how_many_there_are(fp8: bool) -> None:
    times = tile_times(fp8=fp8, adds=False)
    few, many = (choose_tile(rows, 1024, 132, times) for rows in (384, 65_536))
    assert few.block_rows * few.columns < many.block_rows * many.columns
    assert choose_tile(65_536, 4096, 132, {few: times[few]}) == few
    assert cluster_tiles(LinearTile(rows=64, columns=96, stages=2, cluster_rows=2), 129, 97) == 4


def test_every_variant_has_a_name_of_its_own() -> None:
    names = [variant.name for variant in all_linear_variants()]
    kinds = [(fp8, adds) for fp8 in (False, False, True) for adds in (False, True)]
    assert len(names) == len(set(names))
    assert len(names) == sum(len(tile_times(fp8=fp8, adds=adds)) for fp8, adds in kinds)


def test_registers_of_a_block_suffice() -> None:
    """A block gets a launch's registers a thread, eights of them; more is waited for in vain."""
    threads = WARP_GROUP * (GROUPS + 1)
    given = 65536 // threads // 8 * 8 * threads
    loading, computing = LINEAR_REGISTERS
    assert WARP_GROUP * (loading + GROUPS * computing) <= given


def test_too_much_shared_memory_is_refused() -> None:
    large = LinearTile(rows=64, columns=256, stages=5, together=True)
    with pytest.raises(BuildFailed, match="take smaller tiles or fewer stages"):
        built(large)
    # Its stages alone would fit.
    with pytest.raises(BuildFailed, match="take smaller tiles or fewer stages"):
        built(LinearTile(rows=128, columns=128, stages=7), "fp8")


# Machine code


@pytest.mark.parametrize(
    ("tile", "element", "products"),
    [
        *((tile, "bf16", "HGMMA") for tile in tile_times(fp8=False, adds=True)),
        *((tile, "fp8", "QGMMA") for tile in tile_times(fp8=True, adds=True)),
    ],
)
def test_machine_code(tile: LinearTile, element: Element, products: str, tmp_path: Path) -> None:
    kernel = built(tile, element, adds=True)
    sass = disassembled(kernel, tmp_path)
    found = len(re.findall(rf"\b{products}\b", sass))
    steps = kernel.description.variant.depth * kernel.description.variant.element_bytes // 32
    assert found == 2 * steps * tile.rows // 64, "the tensor cores are not used as they should be"
    assert len(re.findall(r"\bUTMALDG\b", sass)) == 2
    assert len(re.findall(r"\bUTMALDG\.\S*MULTICAST", sass)) == (tile.cluster_rows > 1)
    assert not re.search(r"\b(?:LDL|STL)\b", sass), "registers spill"
    # ptxas may wait after every product, where it takes registers to be too few.
    assert len(re.findall(r"WARPGROUP\.DEPBAR", sass)) == 2
    # A lane writes 16 bytes at once, and reads the residual so.
    assert len(re.findall(r"STG\.E\.128", sass)) == tile.rows * tile.columns // 1024
    assert len(re.findall(r"LDG\.E\.128", sass)) == tile.rows * tile.columns // 1024
    assert not re.search(r"STG\.E\b(?!\.128)", sass)
