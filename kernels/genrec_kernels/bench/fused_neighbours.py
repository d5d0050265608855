"""Page write, linear layers (of eight bits too), norm and gate, top-k: checked and timed in a run.

python -m genrec_kernels.bench.fused_neighbours --commit $(git rev-parse --short HEAD)
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_kernels.bench.paged_measure import Recorder, copy_bandwidth, relative_error, time_graph
from genrec_kernels.bench.records import RECORDS
from genrec_kernels.dispatch import Backend
from genrec_kernels.fp8_layout import places_of
from genrec_kernels.fp8_linear import linear_add_fp8, linear_silu_fp8
from genrec_kernels.fp8_pages import FP8, keys_and_values, narrow_factors, narrow_values, scales_for
from genrec_kernels.fused_linear import linear_add, linear_silu
from genrec_kernels.fused_norm_gate import layer_norm, norm_gate
from genrec_kernels.narrow_rows import narrow_rows
from genrec_kernels.page_write import page_write
from genrec_kernels.top_k import groups_pay, top_k
from genrec_kernels.triton.fp8_pages import narrow_queries

DTYPE = torch.bfloat16
HEADS, WIDTH, PAGE = 4, 128, 64
#: New rows of a request, from the start of a page: not a multiple of what is written at once.
RUN = 120


def measure_page_write(rows: int, recorder: Recorder, copy_tbps: float) -> None:
    """Keys, values and times of `rows` rows into random slots."""
    kvuq = torch.randn(rows, 4, HEADS, WIDTH, device="cuda").to(DTYPE)
    k, v = kvuq[:, 0], kvuq[:, 1]
    pages = max(16, 2 * rows // PAGE)
    kv_pages = torch.zeros(pages, HEADS, PAGE, 2 * WIDTH, device="cuda", dtype=DTYPE)
    time_pages = torch.zeros(pages, PAGE, device="cuda", dtype=torch.int64)
    times = torch.randint(0, 2**31, (rows,), device="cuda")
    slots = torch.randperm(pages * PAGE, device="cuda")[:rows]

    def plain() -> None:
        kv_pages[slots // PAGE, :, slots % PAGE, :] = torch.cat([k, v], dim=-1)
        time_pages[slots // PAGE, slots % PAGE] = times

    def fused() -> None:
        page_write(k, v, slots, kv_pages=kv_pages, timestamps=times, timestamp_pages=time_pages)

    moved = rows * (2 * 2 * HEADS * WIDTH * DTYPE.itemsize + 24)
    _record_page_write(f"page-write-{rows}", plain, fused, kv_pages, moved, recorder, copy_tbps)


def measure_page_write_fp8(
    rows: int, recorder: Recorder, copy_tbps: float, *, queries: bool
) -> None:
    """The same in eight bits, rows in runs as a server writes them; with `queries`, of all rows."""
    k, v, q = torch.randn(rows, 4, HEADS, WIDTH, device="cuda").to(DTYPE)[:, :3].unbind(1)
    largest = torch.full((HEADS,), 5.0, device="cuda")
    scales = scales_for(largest, largest, WIDTH)
    row = torch.arange(rows, device="cuda")
    pages = torch.randperm(-(-rows // RUN) * -(-RUN // PAGE), device="cuda").view(
        -1, -(-RUN // PAGE)
    )
    page, place = pages[row // RUN, row % RUN // PAGE], row % RUN % PAGE
    slots, value_place = page * PAGE + place, places_of(place)
    kv_pages = torch.zeros(pages.numel(), HEADS, PAGE, 2 * WIDTH, device="cuda").to(FP8)
    keys, values = (half.view(torch.uint8) for half in keys_and_values(kv_pages))
    time_pages = torch.zeros(pages.numel(), PAGE, device="cuda", dtype=torch.int64)
    times = torch.randint(0, 2**31, (rows,), device="cuda")

    def plain() -> None:
        keys[page, :, place] = narrow_factors(k, scales[0]).view(torch.uint8)
        values[page, :, :, value_place] = narrow_values(v, scales[1]).view(torch.uint8)
        time_pages[page, place] = times
        if queries:
            narrow_factors(q, 1 / scales[0])

    def write(**of_queries: Any) -> None:
        page_write(
            k, v, slots, kv_pages=kv_pages, kv_scales=scales, timestamps=times,
            timestamp_pages=time_pages, **of_queries,
        )  # fmt: skip

    def apart() -> None:
        write()
        narrow_queries(q, scales[0], 1.0)

    case, note = f"page-write-fp8-{rows}", f"; runs of {RUN} rows"
    tensors = 2
    fused = write
    if queries:
        case, tensors = f"page-write-fp8-queries-{rows}", 3
        fused = partial(write, q=q, qk_scale=1.0)
        note += f"; {time_graph([apart]).p50:.4f} ms in two kernels"
    moved = rows * (tensors * HEADS * WIDTH * (DTYPE.itemsize + FP8.itemsize) + 24)
    _record_page_write(case, plain, fused, kv_pages, moved, recorder, copy_tbps, note)


def _record_page_write(
    case: str,
    plain: Callable[[], None],
    fused: Callable[[], None],
    kv_pages: Tensor,
    moved: int,
    recorder: Recorder,
    copy_tbps: float,
    note: str = "",
) -> None:
    """Check what both write into pages of zeros, time them, and append a row."""
    plain()
    expected = kv_pages.double()
    kv_pages.zero_()
    fused()
    error = relative_error(kv_pages, expected)
    timing = time_graph([fused])
    recorder.add(
        case, timing, backend="triton", dtype=DTYPE, work=moved, unit="TB/s",
        reference="plain PyTorch", reference_ms=time_graph([plain]).p50, error=error,
        note=f"{100 * moved / timing.p50 / 1e9 / copy_tbps:.0f} % of the copy's bandwidth{note}"
        + ("; from the L2 cache" if moved < 5e7 else ""),
    )  # fmt: skip


def measure_norm_gate(rows: int, width: int, recorder: Recorder, copy_tbps: float) -> None:
    """Forward and backward."""
    x, u, grad = (torch.randn(rows, width, device="cuda").to(DTYPE) for _ in range(3))
    weight, bias = (torch.randn(width, device="cuda").to(DTYPE) for _ in range(2))

    def plain(x: Tensor, u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x, (width,), weight, bias, 1e-6) * u

    compiled = torch.compile(plain)
    inputs = (x, u, weight, bias)
    wide = [t.double().requires_grad_() for t in inputs]
    expected = plain(*wide)
    expected_grads = torch.autograd.grad(expected, wide, grad.double())
    timing = time_graph([lambda: norm_gate(*inputs)])
    moved = 3 * rows * width * DTYPE.itemsize
    note = f"{100 * moved / timing.p50 / 1e9 / copy_tbps:.0f} % of the copy's bandwidth"
    for name, run in (("plain PyTorch", plain), ("torch.compile", compiled)):
        reference_ms = time_graph([partial(run, *inputs)]).p50
        recorder.add(
            f"norm-gate-{rows}x{width}", timing, backend="triton", dtype=DTYPE, work=moved,
            unit="TB/s", reference=name, reference_ms=reference_ms,
            error=relative_error(norm_gate(*inputs), expected.detach()), note=note,
        )  # fmt: skip

    _, mean, rstd = torch.ops.genrec.norm_gate(*inputs, 1e-6, "triton")
    saved = (grad, *inputs, mean, rstd)
    timing = time_graph([lambda: torch.ops.genrec.norm_gate_backward(*saved, "triton")])
    plain_timing = time_graph(
        [lambda: torch.ops.genrec.norm_gate_backward(*saved, "reference")], replays=10
    )
    grads = torch.ops.genrec.norm_gate_backward(*saved, "triton")
    error = max(relative_error(g, e) for g, e in zip(grads, expected_grads, strict=True))
    moved = 5 * rows * width * DTYPE.itemsize
    recorder.add(
        f"norm-gate-bwd-{rows}x{width}", timing, backend="triton", dtype=DTYPE, work=moved,
        unit="TB/s", reference="plain PyTorch", reference_ms=plain_timing.p50, error=error,
        note=f"{100 * moved / timing.p50 / 1e9 / copy_tbps:.0f} % of the copy's bandwidth",
    )  # fmt: skip


def measure_linear(
    rows: int, width: int, recorder: Recorder, *, adds: bool, backend: Backend
) -> None:
    """A layer's first projection with SiLU, or its last with the residual, against cuBLAS."""
    columns = width if adds else 4 * width
    x = torch.randn(rows, width, device="cuda").to(DTYPE)
    weight = (torch.randn(columns, width, device="cuda") / width**0.5).to(DTYPE)
    bias = torch.randn(columns, device="cuda").to(DTYPE)
    residual = torch.randn(rows, columns, device="cuda").to(DTYPE)

    def plain() -> Tensor:
        product = F.linear(x, weight, bias)
        return residual + product if adds else F.silu(product)

    def fused(backend: Backend) -> Tensor:
        if adds:
            return linear_add(x, weight, bias, residual, backend=backend)
        return linear_silu(x, weight, bias, backend=backend)

    references: dict[str, Callable[[], Tensor]] = {"plain PyTorch": plain}
    if backend == "cutlass":
        references["triton"] = partial(fused, "triton")
        references["cuBLAS, the product alone"] = lambda: x @ weight.t()
    else:
        references["torch.compile"] = torch.compile(plain)
    some = slice(0, 4096)
    exact = F.linear(x[some].double(), weight.double(), bias.double())
    exact = residual[some].double() + exact if adds else F.silu(exact)
    timing = time_graph([partial(fused, backend)])
    error = relative_error(fused(backend)[some], exact)
    for name, run in references.items():
        recorder.add(
            f"linear-{'add' if adds else 'silu'}-{rows}x{width}", timing, backend=backend,
            dtype=DTYPE, work=2 * rows * width * columns, unit="TFLOP/s", reference=name,
            reference_ms=time_graph([run]).p50, error=error,
        )  # fmt: skip


def measure_linear_fp8(rows: int, width: int, recorder: Recorder, *, adds: bool) -> None:
    """The same of rows and weights in eight bits, against Triton's in 16."""
    columns = width if adds else 4 * width
    wide, wide_weight = (torch.randn(n, width, device="cuda") for n in (rows, columns))
    wide_weight /= width**0.5
    x, weight = narrow_rows(wide), narrow_rows(wide_weight)
    x16, weight16 = wide.to(DTYPE), wide_weight.to(DTYPE)
    bias = torch.randn(columns, device="cuda").to(DTYPE)
    residual = torch.randn(rows, columns, device="cuda").to(DTYPE)

    def in_eight_bits() -> Tensor:
        if adds:
            return linear_add_fp8(x, weight, bias, residual, backend="triton")
        return linear_silu_fp8(x, weight, bias, backend="triton")

    def in_sixteen() -> Tensor:
        if adds:
            return linear_add(x16, weight16, bias, residual, backend="triton")
        return linear_silu(x16, weight16, bias, backend="triton")

    some = slice(0, 4096)
    exact = F.linear(wide[some].double(), wide_weight.double(), bias.double())
    exact = residual[some].double() + exact if adds else F.silu(exact)
    recorder.add(
        f"linear-{'add' if adds else 'silu'}-fp8-{rows}x{width}", time_graph([in_eight_bits]),
        backend="triton", dtype=x.numbers.dtype, work=2 * rows * width * columns, unit="TFLOP/s",
        reference="triton bfloat16", reference_ms=time_graph([in_sixteen]).p50,
        error=relative_error(in_eight_bits()[some], exact),
        note="error: of numbers before they are rounded",
    )  # fmt: skip


def measure_layer_norm(rows: int, width: int, recorder: Recorder, copy_tbps: float) -> None:
    """The norm at a layer's head, against PyTorch's."""
    x = torch.randn(rows, width, device="cuda").to(DTYPE)
    weight, bias = torch.randn(2, width, device="cuda").to(DTYPE)

    def plain() -> Tensor:
        return F.layer_norm(x, (width,), weight, bias, 1e-6)

    timing = time_graph([lambda: layer_norm(x, weight, bias, backend="triton")])
    exact = F.layer_norm(x.double(), (width,), weight.double(), bias.double(), 1e-6)
    moved = 2 * x.nbytes
    recorder.add(
        f"layer-norm-{rows}x{width}", timing, backend="triton", dtype=DTYPE, work=moved,
        unit="TB/s", reference="plain PyTorch", reference_ms=time_graph([plain]).p50,
        error=relative_error(layer_norm(x, weight, bias, backend="triton"), exact),
        note=f"{100 * moved / timing.p50 / 1e9 / copy_tbps:.0f} % of the copy's bandwidth",
    )  # fmt: skip


def measure_top_k(num_users: int, num_items: int, width: int, k: int, recorder: Recorder) -> None:
    """Against a product of all scores and PyTorch's top-k (ties in any order)."""
    users = torch.randn(num_users, width, device="cuda").to(DTYPE)
    items = torch.empty(num_items, width, device="cuda", dtype=DTYPE).normal_()
    exclude = torch.randint(0, num_items, (num_users, 500), device="cuda")

    def plain() -> Tensor:
        return torch.mm(users, items.T, out_dtype=torch.float32).topk(k).values

    forced = top_k(users, items, k, backend="triton")
    some = slice(0, 4)  # a float64 product of all would not fit
    exact = (users[some].double() @ items.T.double()).topk(k).values
    error = relative_error(forced.scores[some], exact)
    timing = time_graph([lambda: top_k(users, items, k, backend="triton")], replays=10)
    filtered = time_graph(
        [lambda: top_k(users, items, k, exclude=exclude, backend="triton")], replays=10
    )
    recorder.add(
        f"top-k-{num_users}x{num_items}-k{k}", timing, backend="triton", dtype=DTYPE,
        work=2 * num_users * num_items * width, unit="TFLOP/s", reference="plain PyTorch",
        reference_ms=time_graph([plain], replays=10).p50, error=error,
        note=f"width {width}; {filtered.p50:.4f} ms with 500 items left out a user; "
        + ("chosen" if groups_pay(num_users, num_items, k) else "not chosen: cuBLAS and topk are"),
    )  # fmt: skip


def measurements(recorder: Recorder, backend: Backend) -> dict[str, list[Callable[[], None]]]:
    """What can be measured, by the beginning of its cases' names."""
    copy_tbps = copy_bandwidth()
    products = (
        *((rows, 1024) for rows in (64, 384, 1024, 3072, 8192, 65_536)),
        (65_536, 512),
    )
    catalogues = (
        (128, 50_000, 512, 100),
        (1, 1_000_000, 256, 100),
        (32, 1_000_000, 256, 100),
        (128, 1_000_000, 256, 100),
        (32, 1_000_000, 256, 1000),
        (128, 4_000_000, 128, 100),
    )
    return {
        "page-write": [
            partial(measure_page_write, rows, recorder, copy_tbps) for rows in (512, 8192, 65_536)
        ],
        "page-write-fp8": [
            partial(measure_page_write_fp8, rows, recorder, copy_tbps, queries=queries)
            for rows in (512, 8192, 65_536)
            for queries in (False, True)
        ],
        "linear-silu": [
            partial(measure_linear, *shape, recorder, adds=False, backend=backend)
            for shape in products
        ],
        "linear-add": [
            partial(measure_linear, *shape, recorder, adds=True, backend=backend)
            for shape in products
        ],
        "linear-fp8": [
            partial(measure_linear_fp8, *shape, recorder, adds=adds)
            for shape in products
            for adds in (False, True)
        ],
        "layer-norm": [
            partial(measure_layer_norm, *shape, recorder, copy_tbps)
            for shape in ((384, 1024), (8192, 512), (65_536, 1024))
        ],
        "norm-gate": [
            partial(measure_norm_gate, *shape, recorder, copy_tbps)
            for shape in ((8192, 512), (65_536, 512), (65_536, 1024))
        ],
        "top-k": [partial(measure_top_k, *shape, recorder) for shape in catalogues],
    }


def main() -> None:
    """Parse, measure, append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--only", help="the cases whose names begin so")
    parser.add_argument(
        "--backend", choices=["triton", "cutlass"], default="triton", help="of linear layers"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.backends.cuda.matmul.allow_tf32 = False
    for name, runs in measurements(
        Recorder(options.records, options.commit), options.backend
    ).items():
        if options.only in (None, name):
            for run in runs:
                run()


if __name__ == "__main__":
    main()
