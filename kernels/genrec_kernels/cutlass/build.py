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
    from cutlass import cute

    from genrec_kernels.cutlass.build_arguments import forward_arguments, paged_arguments
    from genrec_kernels.cutlass.hstu_forward_sm90 import HSTUForwardSm90
    from genrec_kernels.cutlass.paged_hstu_sm90 import PagedHSTUSm90

    kernel: Any = PagedHSTUSm90(variant) if variant.paged else HSTUForwardSm90(variant)
    arguments = paged_arguments(variant) if variant.paged else forward_arguments(variant)
    with TemporaryDirectory() as dumps:
        compiled = cute.compile(
            kernel,
            *arguments,
            options=f"--gpu-arch {ARCHITECTURE} --keep-ptx --keep-cubin --dump-dir {dumps}",
        )
    shared_bytes: int = kernel.storage.size_in_bytes()
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
