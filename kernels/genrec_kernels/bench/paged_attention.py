"""Attention of new rows over cached ones, in pages and contiguous: checked and timed in one run.

    python -m genrec_kernels.bench.paged_attention --commit $(git rev-parse --short HEAD)

With `--backend cutlass` the CUTLASS kernels are timed, and Triton's beside them.

`attn-paged-…`: pages of 64 rows in random order; `-fp8` in eight bits. `attn-delta-…`: the same
kernel with one page a request, so that each head's keys and values are contiguous. New rows are
candidates of one moment, as a server ranks them; `-causal` has history rows with times and limits
of their own.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_kernels import reference
from genrec_kernels.bench.paged_measure import (
    Recorder,
    Timing,
    copy_bandwidth,
    relative_error,
    time_eager,
    time_graph,
)
from genrec_kernels.bench.records import RECORDS
from genrec_kernels.cutlass.paged_hstu_attention import unsupported
from genrec_kernels.dispatch import Backend
from genrec_kernels.fp8_pages import FP8, keys_and_values, pages_of, qk_scale_for, scales_for
from genrec_kernels.paged_hstu_attention import paged_hstu_attention
from genrec_kernels.paged_sizes import PagedSizes
from genrec_kernels.relative_bias import RelativeBias, time_bucket_boundaries

YEAR = 365 * 86_400
#: That numbers in eight bits have room for: random ones reach some 5.
LARGEST_NUMBER = 8.0


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Requests of one size."""

    cached: int
    new: int
    batch: int = 32
    heads: int = 4
    width: int = 128
    page: int = 64
    dtype: torch.dtype = torch.bfloat16
    with_bias: bool = False
    causal: bool = False
    fp8: bool = False
    layers: int = 1

    @property
    def name(self) -> str:
        """As PEERS names it."""
        kind = "attn-delta" if self.page >= self.cached else "attn-paged"
        suffix = "-bias" if self.with_bias else ""
        suffix += "-causal" if self.causal else ""
        suffix += f"-d{self.width}" if self.width != 128 else ""
        suffix += f"-h{self.heads}" if self.heads != 4 else ""
        suffix += f"-b{self.batch}" if self.batch != 32 else ""
        suffix += "-fp8" if self.fp8 else ""
        suffix += f"-page{self.page}" if kind == "attn-paged" and self.page != 64 else ""
        return f"{kind}-{self.cached}-{self.new}{suffix}"

    @property
    def bytes(self) -> int:
        """Least that has to move: the cache once, q, k, v and the result once."""
        cached = 2 * self.batch * self.cached * (1 if self.fp8 else self.dtype.itemsize)
        new = 4 * self.batch * self.new * self.dtype.itemsize
        return (cached + new) * self.heads * self.width

    @property
    def operations(self) -> int:
        """Of the two matrix products."""
        return 4 * self.batch * self.new * self.cached * self.heads * self.width


def make_layers(shape: Shape) -> list[dict[str, Any]]:
    """Arguments of each layer: its own rows and pages; places, limits and times are shared."""
    g = torch.Generator("cuda").manual_seed(0)
    rows, pages = shape.batch * shape.new, shape.batch * shape.cached // shape.page

    def randn(*size: int) -> Tensor:
        return torch.empty(size, device="cuda", dtype=shape.dtype).normal_(generator=g)

    page_table = torch.randperm(pages, device="cuda", generator=g).view(shape.batch, -1)
    sizes = (shape.batch, shape.cached)
    times = torch.randint(0, 3 * YEAR, sizes, device="cuda", generator=g).sort(1).values
    timestamp_pages = torch.empty((pages, shape.page), device="cuda", dtype=torch.int64)
    timestamp_pages[page_table.flatten()] = times.view(pages, shape.page)
    limits = torch.full((rows,), shape.cached, device="cuda")
    now = torch.full((rows,), 3 * YEAR + 60, device="cuda")
    if shape.causal:
        place = torch.arange(shape.cached - shape.new, shape.cached, device="cuda")
        limits, now = place.repeat(shape.batch), times[:, -shape.new :].flatten()
    bias = None
    if shape.with_bias:
        bias = RelativeBias(
            torch.randn(shape.cached + 1, device="cuda", generator=g),
            torch.randn(64, device="cuda", generator=g),
            time_bucket_boundaries(64).cuda(),
        )

    def kv_pages() -> dict[str, Any]:
        numbers = randn(pages, shape.heads, shape.page, 2 * shape.width)
        if not shape.fp8:
            return {"kv_pages": numbers}
        largest = torch.full((shape.heads,), LARGEST_NUMBER, device="cuda")
        scales = scales_for(largest, largest, shape.width)
        narrow_pages = torch.empty(numbers.shape, device="cuda", dtype=FP8)
        # Whatever the order of random numbers is, their pages are as good.
        for half, scale in zip(keys_and_values(narrow_pages), scales, strict=True):
            half.copy_(randn(*half.shape).float() / scale[:, None, None])
        qk_scale = qk_scale_for(largest, scales, shape.width, alpha=shape.width**-0.5, bias=bias)
        return {"kv_pages": narrow_pages, "kv_scales": scales, "qk_scale": qk_scale}

    return [
        {
            "q": randn(rows, shape.heads, shape.width),
            "k": randn(rows, shape.heads, shape.width),
            "v": randn(rows, shape.heads, shape.width),
            **kv_pages(),
            "timestamp_pages": timestamp_pages,
            "page_table": page_table.int(),
            "row_offsets": torch.arange(0, rows + 1, shape.new, device="cuda"),
            "key_limits": limits,
            "timestamps": now,
            "alpha": shape.width**-0.5,
            "norm_length": shape.cached,
            "bias": bias,
        }
        for _ in range(shape.layers)
    ]


def exact(shape: Shape, layer: dict[str, Any], request: int) -> Tensor:
    """One request in float64, of the numbers that the pages hold."""
    rows = slice(request * shape.new, (request + 1) * shape.new)
    own = layer["page_table"][request].long()
    bias = layer["bias"]
    numbers = pages_of(layer["kv_pages"], own, layer.get("kv_scales"), torch.float64)
    return reference.paged_hstu_attention(
        *(layer[name][rows].double() for name in "qkv"),
        kv_pages=numbers,
        timestamp_pages=layer["timestamp_pages"][own],
        page_table=torch.arange(len(own), device="cuda")[None],
        row_offsets=torch.tensor([0, shape.new], device="cuda"),
        key_limits=layer["key_limits"][rows],
        timestamps=layer["timestamps"][rows],
        alpha=layer["alpha"],
        norm_length=layer["norm_length"],
        bias=bias and RelativeBias(bias.position.double(), bias.time.double(), bias.boundaries),
    )


def narrow(bias: RelativeBias, dtype: torch.dtype) -> RelativeBias:
    """Tables in the dtype of the rows, which plain PyTorch wants."""
    return RelativeBias(bias.position.to(dtype), bias.time.to(dtype), bias.boundaries)


def gather_and_attend(q: Tensor, k: Tensor, v: Tensor, kv_pages: Tensor, table: Tensor) -> Tensor:
    """What torch.compile is given: candidates without bias, all histories of one length."""
    batch, width = table.shape[0], q.shape[2]
    kv = kv_pages[table].transpose(1, 2).flatten(2, 3)
    rows = (batch, -1, *q.shape[1:])
    queries = q.view(rows).transpose(1, 2)
    scores = F.silu(queries @ kv[..., :width].transpose(2, 3) * width**-0.5)
    own = F.silu((q * k).sum(-1, keepdim=True) * width**-0.5) * v
    out = (scores @ kv[..., width:]).transpose(1, 2).reshape(q.shape) + own
    return out / (kv.shape[2])


def measure(
    shape: Shape, recorder: Recorder, copy_tbps: float, *, backend: Backend, compiled: bool
) -> None:
    """Check and time one shape, and append its rows."""
    layers = make_layers(shape)
    bounds: dict[str, Any] = {
        "max_new_rows": shape.new,
        "max_keys": shape.cached,
        "same_bias": not shape.causal,
    }
    first = layers[0]
    out = paged_hstu_attention(**first, **bounds, backend=backend)
    error = max(
        relative_error(out[request * shape.new :][: shape.new], exact(shape, first, request))
        for request in {0, shape.batch - 1}
    )

    def time_of(backend: Backend) -> Timing:
        run = partial(paged_hstu_attention, **bounds, backend=backend)
        return time_graph([partial(run, **layer) for layer in layers])

    timing = time_of(backend)
    tbps = shape.bytes / timing.p50 / 1e9
    if backend == "triton":
        plain = {**first, "bias": first["bias"] and narrow(first["bias"], shape.dtype)}
        plain.pop("qk_scale", None)
        plainly = time_eager(lambda: reference.paged_hstu_attention(**plain))
        references = {"plain PyTorch": plainly.p50}
    else:
        references = {"triton": time_of("triton").p50}
    if compiled:
        tensors = [first[name] for name in ("q", "k", "v", "kv_pages")]
        table = first["page_table"].long()
        run: Any = torch.compile(gather_and_attend)
        references["torch.compile"] = time_graph([lambda: run(*tensors, table)]).p50
    memory_bound = shape.new <= 64
    note = f"{100 * tbps / copy_tbps:.0f} % of the copy's {copy_tbps:.2f} TB/s"
    if shape.layers > 1:
        note += f"; a layer of {shape.layers} in one graph"
    for name, milliseconds in references.items():
        recorder.add(
            shape.name,
            timing,
            backend=backend,
            dtype=shape.dtype,
            work=shape.bytes if memory_bound else shape.operations,
            unit="TB/s" if memory_bound else "TFLOP/s",
            reference=name,
            reference_ms=milliseconds,
            error=error,
            note=note,
        )


_AGAINST_COMPILED = [Shape(cached=8192, new=new) for new in (16, 256)]


def shapes() -> list[Shape]:
    """What is timed."""
    sizes = {(1024, 16): 4, (4096, 64): 1, (8192, 16): 1, (8192, 256): 1}
    both = [
        Shape(cached=cached, new=new, page=page, layers=layers)
        for (cached, new), layers in sizes.items()
        for page in (cached, 64)
    ]
    # A model of 16 heads of 64 that ranks for returning users, and takes in what they did.
    ranking = Shape(cached=1792, new=100, heads=16, width=64, batch=64, with_bias=True, layers=2)
    serving = [
        ranking,
        replace(ranking, new=8, causal=True),
        replace(ranking, new=1024, causal=True, batch=8, layers=1),
        replace(ranking, batch=1, layers=8),
    ]
    wide = Shape(cached=4096, new=256, batch=1, width=256, layers=8)
    of_fp8 = [
        Shape(cached=8192, new=16),
        Shape(cached=8192, new=256),
        Shape(cached=8192, new=256, with_bias=True),
        wide,
        replace(wide, batch=8),
        *serving,
    ]
    return [
        *both,
        Shape(cached=8192, new=16, page=16),
        Shape(cached=8192, new=256, page=16),
        wide,
        replace(wide, with_bias=True),
        Shape(cached=8192, new=16, with_bias=True),
        Shape(cached=8192, new=256, with_bias=True),
        Shape(cached=8192, new=256, with_bias=True, causal=True),
        *serving,
        *(replace(shape, fp8=True) for shape in of_fp8),
        Shape(cached=1024, new=16, dtype=torch.float16, layers=4),
        Shape(cached=1024, new=16, dtype=torch.float32, layers=2),
    ]


def takes(shape: Shape) -> bool:
    """Whether the CUTLASS kernels do."""
    sizes = PagedSizes(
        num_rows=shape.batch * shape.new,
        num_requests=shape.batch,
        num_heads=shape.heads,
        head_dim=shape.width,
        page_size=shape.page,
        dtype=shape.dtype,
        max_new_rows=shape.new,
        max_keys=shape.cached,
        has_bias=shape.with_bias,
        same_bias=not shape.causal,
    )
    return unsupported(sizes, fp8_pages=shape.fp8) is None


def main() -> None:
    """Parse, measure, append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--backend", choices=["triton", "cutlass"], default="triton")
    parser.add_argument("--match", default="", help="only cases whose name holds this")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.backends.cuda.matmul.allow_tf32 = False
    recorder = Recorder(options.records, options.commit)
    copy_tbps = copy_bandwidth()

    for shape in shapes():
        fits = options.backend == "triton" or takes(shape)
        if options.match in shape.name and fits:
            compiled = options.backend == "triton" and shape in _AGAINST_COMPILED
            measure(shape, recorder, copy_tbps, backend=options.backend, compiled=compiled)


if __name__ == "__main__":
    main()
