"""Compiles the CUTLASS kernels ahead of time; needs CuTe DSL, and no GPU.

``python -m genrec_kernels.cutlass.build`` compiles every variant for sm_90a into the package.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from genrec_kernels.cutlass.library import FOLDER, CompiledKernel
from genrec_kernels.cutlass.variants import AttentionVariant, all_variants

ARCHITECTURE = "sm_90a"
#: What one block of a Hopper GPU may have.
MOST_SHARED_BYTES = 227 * 1024


class BuildFailed(Exception):
    """A kernel did not compile to what it should."""


@dataclass(frozen=True)
class BuiltKernel:
    """What a compilation gives."""

    description: CompiledKernel
    cubin: bytes
    ptx: str


def compile_variant(variant: AttentionVariant) -> BuiltKernel:
    """One variant.

    Raises:
        BuildFailed: it needs more shared memory than a block may have.
    """
    if variant.operand_bytes > MOST_SHARED_BYTES:
        raise BuildFailed(
            f"{variant.name} needs {variant.operand_bytes} bytes of shared memory and more; a "
            f"block may have {MOST_SHARED_BYTES}: take fewer keys or stages"
        )
    # The DSL reads the target from here when it is imported; without one it asks for a GPU.
    os.environ.setdefault("CUTE_DSL_ARCH", ARCHITECTURE)
    import cutlass
    from cutlass import Float32, Int16, Int32, Int64, cute
    from cutlass.cute.runtime import make_fake_compact_tensor, make_fake_stream, make_fake_tensor

    from genrec_kernels.cutlass.hstu_forward_sm90 import HSTUForwardSm90

    def open_size(name: str, multiple: int = 1) -> Any:
        if multiple == 1:
            return cute.sym_int64(symbol=name)
        return cute.sym_int64(symbol=name, divisibility=multiple)

    element = {"bf16": cutlass.BFloat16, "fp16": cutlass.Float16}[variant.element]
    rows, heads, width = open_size("R"), open_size("H"), variant.width

    def rows_of(name: str) -> Any:
        strides = (open_size(f"{name}_row", 8), open_size(f"{name}_head", 8), 1)
        return make_fake_tensor(element, (rows, heads, width), strides, assumed_align=16)

    def vector(dtype: Any, size: Any) -> Any:
        return make_fake_compact_tensor(dtype, (size,), assumed_align=dtype.width // 8)

    kernel = HSTUForwardSm90(variant)
    tables: list[Any] = [None] * 4
    if variant.bias:
        blocks = open_size("blocks")
        tables = [
            vector(Int32, rows),
            make_fake_compact_tensor(
                Int16, (open_size("B"), blocks, blocks), stride_order=(2, 1, 0), assumed_align=2
            ),
            make_fake_compact_tensor(
                Float32, (open_size("positions"), 2), stride_order=(1, 0), assumed_align=8
            ),
            make_fake_compact_tensor(
                Int32, (open_size("cells"), 4), stride_order=(1, 0), assumed_align=16
            ),
        ]
    out_strides = (open_size("out_row", 8), width, 1)
    with TemporaryDirectory() as dumps:
        compiled = cute.compile(
            kernel,
            *(rows_of(name) for name in "qkv"),
            make_fake_tensor(element, (rows, heads, width), out_strides, assumed_align=16),
            vector(Int64, open_size("B1")),
            vector(Int64, open_size("B")),
            vector(Int64, rows),
            vector(Int32, 1),
            *tables,
            *[Int32(1)] * 3,
            *[Float32(1.0)] * 2,
            make_fake_stream(),
            options=f"--gpu-arch {ARCHITECTURE} --keep-ptx --keep-cubin --dump-dir {dumps}",
        )
    shared_bytes: int = kernel.storage.size_in_bytes()  # type: ignore[attr-defined]
    (function,) = compiled.kernel_info
    return BuiltKernel(
        CompiledKernel(
            variant=variant,
            function=function,
            threads=kernel.threads,
            shared_bytes=shared_bytes,
            software=f"nvidia-cutlass-dsl {version('nvidia-cutlass-dsl')}",
        ),
        compiled.artifacts.CUBIN,
        compiled.artifacts.PTX,
    )


def main() -> None:
    """Compile what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, help="default: into the package")
    parser.add_argument("--match", default="", help="only variants whose name contains this")
    parser.add_argument(
        "--tile",
        type=int,
        nargs=4,
        metavar=("GROUPS", "KEYS", "STAGES", "RESIDENT"),
        help="in place of the variant's own",
    )
    arguments = parser.parse_args()
    for variant in all_variants():
        if arguments.match in variant.name:
            if arguments.tile:
                groups, keys, stages, resident = arguments.tile
                variant = replace(
                    variant, groups=groups, keys=keys, stages=stages, resident=resident
                )
            built = compile_variant(variant)
            replace(built.description, folder=arguments.out).write(built.cubin)
            sys.stdout.write(f"{variant.name}: {len(built.cubin)} bytes\n")


if __name__ == "__main__":
    main()
