"""Finds the fastest tile of a kernel on this GPU and keeps it on disk, ahead of any request.

    python -m genrec_kernels.autotune --kernel forward --width 128 --bias

Nothing else tunes: a request looks its tile up (see `genrec_kernels.tiles`).
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from triton import CompilationError, OutOfResources
from triton.testing import do_bench

from genrec_kernels.bench.attention_inputs import AttentionCase, make_inputs
from genrec_kernels.tiles import ShapeClass, Tile, remember_tile
from genrec_kernels.triton import hstu_attention as kernels

_log = logging.getLogger(__name__)


def candidates(kernel: str, *, tma: bool) -> Iterator[Tile]:
    """Tiles worth trying: what some GPU and head width was fastest with, and its neighbours."""
    if kernel == "forward":
        for rows, keys, warps, stages in (
            (64, 32, 4, 3),
            (64, 32, 4, 4),
            (64, 64, 4, 2),
            (64, 64, 4, 3),
            (128, 32, 8, 2),
            (128, 64, 8, 2),
        ):
            yield Tile(rows=rows, keys=keys, warps=warps, stages=stages, tma=tma)
        yield Tile(rows=64, keys=32, warps=4, stages=3, tma=tma, registers=168)
        yield Tile(rows=64, keys=32, warps=4, stages=3, tma=tma, registers=128)
        yield Tile(rows=128, keys=32, warps=8, stages=2, tma=tma, registers=128)
        return
    square = kernel == "bias_gradient"
    for rows, keys, warps, stages in (
        (64, 64, 4, 2),
        (64, 64, 8, 2),
        (32, 32, 4, 3),
        (64, 32, 4, 3),
        (32, 64, 4, 3),
        (64, 128, 8, 2),
    ):
        if rows == keys or not square:
            yield Tile(rows=rows, keys=keys, warps=warps, stages=stages)


def tune(
    kernel: str, *, width: int, bias: bool, dtype: torch.dtype = torch.bfloat16, longest: int = 2048
) -> Tile:
    """Time the candidates on sequences of varied lengths, remember the fastest, return it.

    Args:
        kernel: "forward", "backward_q", "backward_kv" or "bias_gradient".
        width: of the heads.
        bias: with the relative bias.
        dtype: of the inputs.
        longest: rows of the longest sequence.

    Raises:
        RuntimeError: no candidate runs on this GPU.
    """
    case = AttentionCase(
        direction="fwd", lengths="varied", longest=longest, bias=bias, heads=4, width=width
    )
    inputs = make_inputs(case, dtype, case.rows)
    arguments = kernels.AttentionArguments(
        q=inputs.q,
        k=inputs.k,
        v=inputs.v,
        offsets=inputs.layout.offsets,
        histories=inputs.layout.history_lengths,
        max_rows=inputs.max_rows,
        key_limits=inputs.key_limits,
        alpha=inputs.alpha,
        norm_length=inputs.max_rows,
        window=None,
        bias=inputs.bias,
        times=inputs.time_plan,
    )
    times: dict[Tile, float] = {}
    capability = torch.cuda.get_device_capability()
    for tile in candidates(kernel, tma=capability >= (9, 0)):
        launch = _launch(kernel, replace(arguments, tile=tile), inputs.grad_out)
        try:
            times[tile] = do_bench(launch, warmup=20, rep=100, return_mode="median")
        except (OutOfResources, CompilationError) as error:
            _log.info("%s does not fit: %s", tile, error)
        else:
            _log.info("%s: %.3f ms", tile, times[tile])
    if not times:
        raise RuntimeError(f"no tile of {kernel} at width {width} runs on this GPU")
    best = min(times, key=times.__getitem__)
    shape = ShapeClass(
        kernel=kernel, bits=dtype.itemsize * 8, width=kernels.tile_width(width), bias=bias
    )
    remember_tile(shape, torch.cuda.get_device_name(), best)
    return best


def _launch(
    kernel: str, arguments: kernels.AttentionArguments, grad_out: torch.Tensor
) -> Callable[[], Any]:
    if kernel == "forward":
        return lambda: kernels.forward(arguments)
    return lambda: kernels.backward_part(kernel, arguments, grad_out)


def main() -> None:
    """Tune one shape class."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", default="forward")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--bias", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    best = tune(options.kernel, width=options.width, bias=options.bias)
    _log.info("fastest: %s", best)


if __name__ == "__main__":
    main()
