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
from genrec_kernels.cutlass.linear_choice import all_linear_variants
from genrec_kernels.cutlass.linear_variants import LinearVariant
from genrec_kernels.cutlass.variants import AttentionVariant, BiasTilesVariant, all_variants

ARCHITECTURE = "sm_90a"
#: What one block of a Hopper GPU may have.
MOST_SHARED_BYTES = 227 * 1024


AnyVariant = AttentionVariant | BiasTilesVariant | LinearVariant


class BuildFailed(Exception):
    """A kernel did not compile to what it should."""


@dataclass(frozen=True)
class BuiltKernel:
    """What a compilation gives."""

    description: CompiledKernel[Any]
    cubin: bytes
    ptx: str


def compile_variant(variant: AnyVariant) -> BuiltKernel:
    """One variant.

    Raises:
        BuildFailed: it needs more shared memory than a block may have.
    """
    _check_shared(variant, variant.operand_bytes)
    # The DSL reads the target from here when it is imported; without one it asks for a GPU.
    os.environ.setdefault("CUTE_DSL_ARCH", ARCHITECTURE)
    from cutlass import cute

    kernel, arguments = _traced(variant)
    with TemporaryDirectory() as dumps:
        compiled = cute.compile(
            kernel,
            *arguments,
            options=f"--gpu-arch {ARCHITECTURE} --keep-ptx --keep-cubin --dump-dir {dumps}",
        )
    shared_bytes: int = kernel.storage.size_in_bytes() if kernel.storage else 0
    _check_shared(variant, shared_bytes)
    (function,) = compiled.kernel_info
    return BuiltKernel(
        CompiledKernel(
            variant=variant,
            function=function,
            threads=kernel.threads,
            shared_bytes=shared_bytes,
            software=f"nvidia-cutlass-dsl {version('nvidia-cutlass-dsl')}",
            cluster=variant.tile.cluster_rows if isinstance(variant, LinearVariant) else 1,
        ),
        compiled.artifacts.CUBIN,
        compiled.artifacts.PTX,
    )


def _check_shared(variant: AnyVariant, least: int) -> None:
    if least > MOST_SHARED_BYTES:
        raise BuildFailed(
            f"{variant.name} needs {least} bytes of shared memory or more; a block may have "
            f"{MOST_SHARED_BYTES}: take smaller tiles or fewer stages"
        )


def _traced(variant: AnyVariant) -> tuple[Any, list[Any]]:
    """What the DSL compiles, and what for."""
    from genrec_kernels.cutlass import build_arguments
    from genrec_kernels.cutlass.bias_tiles_sm90 import BiasTilesSm90
    from genrec_kernels.cutlass.hstu_forward_sm90 import HSTUForwardSm90
    from genrec_kernels.cutlass.linear_sm90 import LinearSm90
    from genrec_kernels.cutlass.paged_hstu_sm90 import PagedHSTUSm90

    if isinstance(variant, LinearVariant):
        return LinearSm90(variant), build_arguments.linear_arguments(variant)
    if isinstance(variant, BiasTilesVariant):
        return BiasTilesSm90(), build_arguments.bias_tiles_arguments()
    if variant.paged:
        return PagedHSTUSm90(variant), build_arguments.paged_arguments(variant)
    return HSTUForwardSm90(variant), build_arguments.forward_arguments(variant)


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
        help="of attention, in place of the variant's own",
    )
    arguments = parser.parse_args()
    variants: list[AnyVariant] = [*all_variants(), BiasTilesVariant(), *all_linear_variants()]
    for variant in variants:
        if arguments.match in variant.name:
            if arguments.tile and isinstance(variant, AttentionVariant):
                groups, keys, stages, resident = arguments.tile
                variant = replace(
                    variant, groups=groups, keys=keys, stages=stages, resident=resident
                )
            built = compile_variant(variant)
            replace(built.description, folder=arguments.out).write(built.cubin)
            sys.stdout.write(f"{variant.name}: {len(built.cubin)} bytes\n")


if __name__ == "__main__":
    main()
