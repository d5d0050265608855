"""Every HSTU attention kernel compiles for a Hopper GPU, on a machine that has none."""

from __future__ import annotations

import pytest

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from genrec_kernels.dispatch import interpreting  # noqa: E402
from genrec_kernels.tiles import ShapeClass, Tile, tile_for  # noqa: E402
from genrec_kernels.triton.bias_plan import (  # noqa: E402
    plan_buckets,
    plan_seconds,
    plan_tables,
)
from genrec_kernels.triton.hstu_attention_backward import (  # noqa: E402
    hstu_attention_backward_kv,
    hstu_attention_backward_q,
)
from genrec_kernels.triton.hstu_attention_bias_gradient import (  # noqa: E402
    hstu_attention_bias_gradient,
)
from genrec_kernels.triton.hstu_attention_forward import hstu_attention_forward  # noqa: E402

pytestmark = pytest.mark.skipif(interpreting(), reason="Triton is interpreting in this process")

HOPPER = ("NVIDIA H200", (9, 0))
INTS16 = {"buckets_ptr"}
INTS32 = {"seconds_ptr", "extents_ptr", "cells_ptr"}
INTS64 = {"offsets_ptr", "histories_ptr", "limits_ptr", "times_ptr", "boundaries_ptr"}
FLOATS32 = {"pairs_ptr", "position_ptr", "time_ptr", "grad_position_ptr", "grad_time_ptr"}
TABLES = {"seconds_ptr", "buckets_ptr", "pairs_ptr", "cells_ptr"}
SCALARS = {"half_alpha", "inverse_norm", "grad_scale"}


def compile_for_hopper(kernel, dtype: str, tile: Tile, *, bias: bool = True, width: int = 128):
    constants: dict[str, object] = {
        **dict.fromkeys(["DK", "DV", "DK_TILE", "DV_TILE"], width),
        "H": 4,
        "M": tile.rows,
        "N": tile.keys,
        "K": 128,
        "HAS_BIAS": bias,
        "HAS_WINDOW": True,
        "CLAMP": True,
        "TMA": tile.tma,
        "FAST": dtype != "fp32",
        "INTERPRETED": False,
    }
    if kernel in (plan_seconds, plan_tables):
        constants["N"] = 1024
    if not tile.tma:
        constants |= dict.fromkeys(["k_tiles", "v_tiles"])
    if not bias:
        constants |= dict.fromkeys(TABLES)
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in ("k_tiles", "v_tiles"):
            signature[name] = f"tensordesc<{dtype}[{tile.keys},{width}]>"
        elif name.endswith("_ptr"):
            kinds = ((INTS16, "i16"), (INTS32, "i32"), (INTS64, "i64"), (FLOATS32, "fp32"))
            signature[name] = "*" + next((kind for names, kind in kinds if name in names), dtype)
        else:
            signature[name] = "fp32" if name in SCALARS else "i32"
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={n: v for n, v in constants.items() if n in signature},
    )
    return triton.compile(
        source,
        target=GPUTarget("cuda", 90, 32),
        options=tile.options,
    )


def hopper_tile(kernel: str, bits: int, *, bias: bool) -> Tile:
    return tile_for(ShapeClass(kernel=kernel, bits=bits, width=128, bias=bias), *HOPPER)


@pytest.mark.parametrize(("dtype", "bits"), [("bf16", 16), ("fp32", 32)])
@pytest.mark.parametrize(
    ("name", "kernel", "bias"),
    [
        ("forward", hstu_attention_forward, False),
        ("forward", hstu_attention_forward, True),
        ("backward_q", hstu_attention_backward_q, True),
        ("backward_kv", hstu_attention_backward_kv, True),
        ("bias_gradient", hstu_attention_bias_gradient, True),
    ],
)
def test_kernel(name: str, kernel, bias: bool, dtype: str, bits: int) -> None:
    if bits == 32 and name != "forward":
        pytest.skip("the same code as the forward's in float32; compiled on the GPU")
    compiled = compile_for_hopper(kernel, dtype, hopper_tile(name, bits, bias=bias), bias=bias)
    assert compiled.asm["cubin"]
    # The matrix units' own instruction, and for the bias one gather an instruction.
    assert ("wgmma.mma_async" in compiled.asm["ptx"]) == (bits == 16)
    assert ("cvt.rz.f32.s32" in compiled.asm["ptx"]) == bias


@pytest.mark.parametrize("kernel", [plan_seconds, plan_buckets, plan_tables])
def test_plan(kernel) -> None:
    tile = hopper_tile("forward", 16, bias=True)
    assert compile_for_hopper(kernel, "bf16", tile).asm["cubin"]


def test_tiles_for_every_gpu_and_shape() -> None:
    for gpu in ((9, 0), (8, 0), (8, 6), (8, 9), (10, 0), (12, 0)):
        for kernel in ("forward", "backward_q", "backward_kv", "bias_gradient"):
            for bits in (16, 32):
                for width in (16, 32, 64, 128, 256):
                    shape = ShapeClass(kernel=kernel, bits=bits, width=width, bias=True)
                    tile = tile_for(shape, "no such GPU", gpu)
                    elements = (tile.rows + tile.keys) * width
                    assert elements * bits // 8 <= (227 if gpu == (9, 0) else 99) * 1024
