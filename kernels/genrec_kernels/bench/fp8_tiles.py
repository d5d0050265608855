"""Times attention in eight bits with other tiles, on one Hopper GPU, beside bfloat16's.

python -m genrec_kernels.cutlass.build --match fp8_128 --tile 2 128 4 1 --out tiles/2-128-4
python -m genrec_kernels.bench.fp8_tiles tiles/2-128-4 ...
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from genrec_kernels.bench.attention import launch, measure
from genrec_kernels.bench.attention_fp8 import fp8_cases, rounded
from genrec_kernels.bench.attention_inputs import AttentionCase, make_inputs
from genrec_kernels.cutlass.hstu_attention_fp8 import forward
from genrec_kernels.cutlass.library import FOLDER, CompiledKernel, compiled_kernels
from genrec_kernels.cutlass.variants import AttentionVariant


def main() -> None:
    """Time every kernel of eight bits in the folders at the benchmark's shapes of its width."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="*", help="beside the package's own kernels")
    parser.add_argument("--match", default="8192", help="only cases whose name holds this")
    options = parser.parse_args()
    kernels = [
        kernel
        for folder in (FOLDER, *options.folders)
        for kernel in compiled_kernels(folder).values()
        if isinstance(kernel.variant, AttentionVariant) and kernel.variant.fp8
    ]
    for case in fp8_cases():
        if options.match in case.name:
            _time(case, [k for k in kernels if k.variant.width == case.width])


def _time(case: AttentionCase, kernels: list[CompiledKernel[AttentionVariant]]) -> None:
    inputs = replace(make_inputs(case, torch.bfloat16, case.rows), backend="cutlass")
    full = launch(replace(case, fp8=False), inputs)
    expected = full()
    operands = rounded(inputs)

    def rate(name: str, ms: float, error: float) -> None:
        sys.stdout.write(f"{case.name} {name}: {ms:.3f} ms, ")
        sys.stdout.write(f"{case.flops / ms / 1e9:.0f} TFLOP/s, {error:.4f} from bfloat16\n")

    rate("bfloat16", measure(full)[0], 0.0)
    for kernel in kernels:

        def run(kernel: CompiledKernel[AttentionVariant] = kernel) -> torch.Tensor:
            return forward(
                operands,
                offsets=inputs.layout.offsets,
                histories=inputs.layout.history_lengths,
                key_limits=inputs.key_limits,
                max_rows=inputs.max_rows,
                alpha=inputs.alpha,
                norm_length=inputs.max_rows,
                kernel=kernel,
            )

        variant = kernel.variant
        name = f"{variant.groups} x {variant.keys} keys, {variant.stages} stages"
        error = float((run().float() - expected.float()).norm() / expected.float().norm())
        rate(name, measure(run)[0], error)


if __name__ == "__main__":
    main()
