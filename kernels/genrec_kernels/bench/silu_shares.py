"""Times the CUTLASS attention with parts of SiLU taken from the special function unit, on one GPU.

    python -m genrec_kernels.bench.silu_shares --compile FOLDER   # needs CuTe DSL, and no GPU
    python -m genrec_kernels.bench.silu_shares FOLDER             # needs a Hopper GPU, and no DSL

Every kernel is checked against plain PyTorch first. All run in turns, twice, each from a CUDA graph
with a cold L2 cache; the lower of the two medians is what the table has.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from genrec_kernels.bench.attention import CHECKED_ROWS, measure
from genrec_kernels.bench.attention_inputs import AttentionCase, AttentionInputs, make_inputs
from genrec_kernels.cutlass import hstu_attention as sixteen_bits
from genrec_kernels.cutlass import hstu_attention_fp8 as eight_bits
from genrec_kernels.cutlass.library import CompiledKernel, compiled_kernels
from genrec_kernels.cutlass.variants import (
    SHORT_ROWS,
    AttentionVariant,
    Element,
    fp8_variant_of,
    variant_of,
)
from genrec_kernels.fp8_layout import LARGEST, Fp8Rows, Fp8Scales
from genrec_kernels.fp8_rows import head_scales, to_fp8
from genrec_kernels.hstu_attention import hstu_attention
from genrec_kernels.hstu_attention_fp8 import attention_of_fp8_rows

#: (lengths, longest) of the batches.
BATCHES = (("uniform", 2048), ("uniform", 8192), ("varied", 8192))
HEADS = {64: 8, 128: 4}
#: The greatest number in half precision.
LARGEST_HALF = 65504.0
_ROUNDS = 2

_log = logging.getLogger(__name__)


def shares() -> list[AttentionVariant]:
    """The kernels to compare, those without a polynomial first of their kind."""
    found = []
    for width, silu in (
        (128, [(0, 0), (1, 5), (2, 5), (3, 5), (4, 5), (2, 3), (4, 3)]),
        (64, [(0, 0), (2, 5), (3, 5), (4, 5), (2, 3), (4, 3), (6, 3)]),
    ):
        base = fp8_variant_of(width)
        found += [_with(base, chosen) for chosen in silu]
        wide = replace(base, keys=128, stages=4, half_scores=True)
        found += [_with(wide, chosen) for chosen in silu]
    narrow = replace(fp8_variant_of(128), half_scores=True)
    found += [_with(narrow, chosen) for chosen in ((0, 0), (2, 5), (4, 5))]
    for width, max_rows, branch, chosen in product(
        (64, 128),
        (None, SHORT_ROWS),
        (False, True),
        ((0, 0), (1, 5), (2, 5), (3, 5), (4, 5), (2, 7)),
    ):
        # At 128 SiLU is not what bounds 16 bits: a look suffices.
        if width == 64 or (max_rows is None and chosen[0] < 2):
            base = variant_of("bf16", width, bias=False, window=False, max_rows=max_rows)
            found.append(_with(replace(base, branch_after_silu=branch), chosen))
    return found


def _with(variant: AttentionVariant, chosen: tuple[int, int]) -> AttentionVariant:
    eighths, terms = chosen
    return replace(variant, polynomial_eighths=eighths, polynomial_terms=terms)


def label_of(variant: AttentionVariant) -> str:
    """What distinguishes a kernel from the others of its dtype and width."""
    parts = ["short"] * variant.short + [f"{variant.groups} x {variant.keys} keys"]
    if variant.polynomial_eighths:
        parts.append(f"{variant.polynomial_eighths}/8 by {variant.polynomial_terms} terms")
    else:
        parts.append("tanh")
    parts += ["branch"] * variant.branch_after_silu + ["half scores"] * variant.half_scores
    return ", ".join(parts)


@dataclass
class Row:
    """What was measured of a kernel: its errors, and milliseconds by case."""

    kernel: CompiledKernel
    from_twin: float
    from_float64: float
    ms: dict[AttentionCase, float]


class Inputs:
    """Of one case, as both kinds of kernels read them."""

    def __init__(self, case: AttentionCase, rows: list[int]):
        self.inputs: AttentionInputs = make_inputs(case, torch.bfloat16, rows)
        self._operands: dict[bool, Fp8Rows] = {}

    def operands(self, half_scores: bool) -> Fp8Rows:
        """In eight bits; no sum of products is beyond half precision where it must not be."""
        if half_scores not in self._operands:
            x = self.inputs
            scales = head_scales(x.q, x.k, x.v)
            if half_scores:
                factor = LARGEST / (LARGEST_HALF / x.q.shape[2]) ** 0.5
                scales = Fp8Scales(scales.q * factor, scales.k * factor, scales.v)
            self._operands[half_scores] = to_fp8(x.q, x.k, x.v, rows=x.layout, scales=scales)
        return self._operands[half_scores]

    def launch(self, kernel: CompiledKernel) -> Callable[[], Tensor]:
        """What is timed."""
        x, variant = self.inputs, kernel.variant
        options: dict[str, Any] = {
            "offsets": x.layout.offsets,
            "histories": x.layout.history_lengths,
            "key_limits": x.key_limits,
            "max_rows": x.max_rows,
            "alpha": x.alpha,
            "norm_length": x.max_rows,
            "kernel": kernel,
        }
        if variant.fp8:
            operands = self.operands(variant.half_scores)
            return lambda: eight_bits.forward(operands, **options)
        return lambda: sixteen_bits.forward(q=x.q, k=x.k, v=x.v, window=None, **options)

    def errors(self, kernel: CompiledKernel) -> tuple[float, float]:
        """Relative to the plain twin, and to attention in float64 on what was not rounded."""
        x = self.inputs
        found = self.launch(kernel)().double()
        options: dict[str, Any] = {"rows": x.layout, "key_limits": x.key_limits, "alpha": x.alpha}
        options |= {"norm_length": x.max_rows, "backend": "reference"}
        numbers = (part.double() for part in (x.q, x.k, x.v))
        exact = hstu_attention(*numbers, timestamps=x.timestamps, **options)
        twin = exact
        if kernel.variant.fp8:
            operands = self.operands(kernel.variant.half_scores)
            twin = attention_of_fp8_rows(operands, **options).double()
        return _relative(found, twin), _relative(found, exact)


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def cases_of(element: Element, width: int) -> Iterator[AttentionCase]:
    """Those that kernels of a dtype and width are timed at."""
    for lengths, longest in BATCHES:
        yield AttentionCase(
            direction="fwd",
            lengths=lengths,
            longest=longest,
            heads=HEADS[width],
            width=width,
            suffix="" if width == 128 else f"-d{width}",
            fp8=element == "fp8",
        )


def compile_into(folder: Path) -> None:
    """A folder for each kernel: files are named by the variant, which says nothing of its SiLU."""
    from genrec_kernels.cutlass.build import compile_variant

    variants = shares()
    for number, variant in enumerate(variants):
        built = compile_variant(variant)
        replace(built.description, folder=folder / f"{number:02d}").write(built.cubin)
        _log.info("%d of %d: %s, %s", number + 1, len(variants), variant.name, label_of(variant))


def main() -> None:
    """Compile, or time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--compile", action="store_true", help="into the folder, and time nothing")
    parser.add_argument("--match", default="", help="only variants whose name contains this")
    parser.add_argument("--seconds", type=float, default=110, help="measure nothing after this")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.compile:
        compile_into(options.folder)
        return
    stop = monotonic() + options.seconds
    kernels = [k for x in sorted(options.folder.iterdir()) for k in compiled_kernels(x).values()]
    kernels = [k for k in kernels if options.match in k.variant.name]
    kinds = dict.fromkeys((k.variant.element, k.variant.width) for k in kernels)
    tables = []
    for kind in kinds:
        same = [k for k in kernels if (k.variant.element, k.variant.width) == kind]
        tables.append(_measured(list(cases_of(*kind)), same, stop))
    _log.info("\nms, TFLOP/s (times as fast as the first); errors relative to twin and float64")
    for table in tables:
        _log_table(table)


def _measured(cases: list[AttentionCase], kernels: list[CompiledKernel], stop: float) -> list[Row]:
    small = Inputs(cases[0], CHECKED_ROWS)
    rows = [Row(kernel, *small.errors(kernel), {}) for kernel in kernels]
    for case in cases:
        inputs = Inputs(case, case.rows)
        for row in rows * _ROUNDS:
            variant = row.kernel.variant
            if (variant.short and case.longest > SHORT_ROWS) or monotonic() > stop:
                continue
            ms = measure(inputs.launch(row.kernel))[0]
            row.ms[case] = min(ms, row.ms.get(case, ms))
            _log.info(
                "%s, %s: %.4f ms, %.0f TFLOP/s, %.5f from its twin, %.5f from float64",
                *(case.name, label_of(variant), ms, case.flops / ms / 1e9),
                *(row.from_twin, row.from_float64),
            )
        del inputs
        torch.cuda.empty_cache()
    return rows


def _log_table(rows: list[Row]) -> None:
    """A line a kernel."""
    cases = list(dict.fromkeys(case for row in rows for case in row.ms))
    _log.info(
        "%-42s%s", "", "".join(f"{case.name.removeprefix('attn-fwd-'):>25}" for case in cases)
    )
    for row in rows:
        line = ""
        for case in cases:
            ms, first = row.ms.get(case), rows[0].ms.get(case)
            cell = "-"
            if ms is not None and first is not None:
                cell = f"{ms:.4f} {case.flops / ms / 1e9:5.0f} ({first / ms:.3f})"
            line += f"{cell:>25}"
        errors = f"{row.from_twin:.5f} {row.from_float64:.5f}"
        _log.info("%-42s%s  %s", label_of(row.kernel.variant), line, errors)


if __name__ == "__main__":
    main()
