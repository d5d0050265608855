"""HSTU's layers over a cached history, as others time them: embedding and heads left out.

    python -m genrec_serving.bench.block --commit $(git rev-parse --short HEAD)

A request has a history of which most rows are cached; its new rows and its candidates run through
all layers in one pass, which is captured in a CUDA graph and replayed.

Letters in shapes: R rows of a pass, B requests, W width.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from genrec_kernels.bench.records import Record, append_records, where_and_when
from genrec_kernels.dispatch import use_backend
from genrec_kernels.fp8_pages import FP8, keys_and_values, pages_of, qk_scale_for, scales_for
from genrec_kernels.page_write import page_write
from genrec_kernels.paged_hstu_attention import paged_hstu_attention, takes_queries
from genrec_model.hstu import HSTUConfig
from genrec_model.hstu.layer import AttendedParts, HSTULayer

RECORDS = Path(__file__).parents[2] / "bench" / "records.csv"
NOW = 1_700_000_000
#: That random keys, values and queries reach.
LARGEST_NUMBER = 8.0
PAGE_ROWS = 64

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BlockCase:
    """What is timed.

    Args:
        batch: requests.
        history: rows of a history.
        cached: of which these are in the pages.
        candidates: of a request.
        layers, width, heads: of the model; the heads share the width.
        bias: with position and time bias.
        fp8: with weights, products and pages in eight bits.
    """

    batch: int
    history: int = 4096
    cached: int = 3968
    candidates: int = 256
    layers: int = 8
    width: int = 1024
    heads: int = 4
    bias: bool = False
    fp8: bool = False

    @property
    def name(self) -> str:
        """As in the column `case` of the records."""
        bias = "-bias" if self.bias else ""
        fp8 = "-fp8" if self.fp8 else ""
        return f"block-{self.cached}of{self.history}{bias}{fp8}-b{self.batch}"


class Block:
    """Layers of random weights, and pages full of random histories.

    Args:
        case: what is timed.
        device: where.
        dtype: of weights and pages.
    """

    def __init__(self, case: BlockCase, device: torch.device, dtype: torch.dtype) -> None:
        self.case = case
        self.config = HSTUConfig(
            num_items=1, num_actions=1, tasks=(), hidden_size=case.width, num_layers=case.layers,
            num_heads=case.heads, head_dim=case.width // case.heads, max_history=case.history,
            chunk_size=1, norm_length=case.history, relative_bias=case.bias,
        )  # fmt: skip
        random = torch.Generator().manual_seed(0)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = [HSTULayer(self.config) for _ in range(case.layers)]
        self.layers = nn.ModuleList(layers).eval().to(device, dtype)
        pages = -(-case.history // PAGE_ROWS)
        shape = (case.batch * pages, case.heads, PAGE_ROWS, 2 * self.config.head_dim)
        numbers = (torch.randn(shape, generator=random).to(device) for _ in range(case.layers))
        #: Of each layer: pages, and the scales of keys and values in eight bits.
        self.pages: list[tuple[Tensor, Tensor | None]]
        self._qk_scales: dict[HSTULayer, float] = {}
        if case.fp8:
            for layer in layers:
                layer.narrow()
            self.pages = [narrow_pages(x) for x in numbers]
        else:
            self.pages = [(x.to(dtype), None) for x in numbers]
        gaps = torch.randint(1, 10_000, (case.batch, pages * PAGE_ROWS), generator=random)
        times = (NOW - gaps.flip(1).cumsum(1).flip(1)).to(device)
        self.times = times.view(-1, PAGE_ROWS).contiguous()
        self.page_table = torch.randperm(case.batch * pages, generator=random).int().to(device)
        self.page_table = self.page_table.view(case.batch, pages)

        new = case.history - case.cached
        rows = new + case.candidates
        self.x = torch.randn(case.batch * rows, case.width, generator=random).to(device, dtype)
        place = torch.arange(case.cached, case.history, device=device)
        page = self.page_table[:, place // PAGE_ROWS].long()
        slots = torch.full((case.batch, rows), -1, device=device)
        slots[:, :new] = page * PAGE_ROWS + place % PAGE_ROWS
        limits = torch.full((case.batch, rows), case.history, device=device)
        limits[:, :new] = place
        self.slots, self.limits = slots.flatten(), limits.flatten()
        row_times = torch.full((case.batch, rows), NOW, device=device)
        row_times[:, :new] = self.times.flatten()[slots[:, :new]]
        self.row_times = row_times.flatten()
        self.offsets = (torch.arange(case.batch + 1, device=device) * rows).int()

    def qk_scale(self, layer: HSTULayer, scales: Tensor) -> float:
        """Of a layer; found once, as it is read on the host."""
        if layer not in self._qk_scales:
            self._qk_scales[layer] = qk_scale_for(
                torch.full_like(scales[0], LARGEST_NUMBER), scales, self.config.head_dim,
                alpha=self.config.alpha, bias=layer.bias,
            )  # fmt: skip
        return self._qk_scales[layer]

    @torch.inference_mode()
    def run(self) -> Tensor:
        """Hidden rows [R, W] of new rows and candidates."""
        places = dict(zip(self.layers, self.pages, strict=True))

        def attend(layer: HSTULayer, q: Tensor, k: Tensor, v: Tensor) -> AttendedParts:
            pages, scales = places[layer]
            qk_scale = None if scales is None else self.qk_scale(layer, scales)
            max_new_rows, max_keys = len(self.x) // self.case.batch, self.case.history
            narrows = takes_queries(
                q, kv_pages=pages, page_table=self.page_table, row_offsets=self.offsets,
                has_bias=layer.bias is not None, qk_scale=qk_scale, max_new_rows=max_new_rows,
                max_keys=max_keys,
            )  # fmt: skip
            queries = page_write(
                k, v, self.slots, kv_pages=pages, kv_scales=scales,
                q=q if narrows else None, qk_scale=qk_scale if narrows else None,
            )  # fmt: skip
            parts = paged_hstu_attention(
                q, k, v, kv_pages=pages, kv_scales=scales, qk_scale=qk_scale, queries=queries,
                timestamp_pages=self.times,
                page_table=self.page_table, row_offsets=self.offsets, key_limits=self.limits,
                timestamps=self.row_times, alpha=self.config.alpha,
                norm_length=self.config.norm_length, bias=layer.bias,
                max_new_rows=max_new_rows, max_keys=max_keys,
                in_parts=True,
            )  # fmt: skip
            return AttendedParts(parts)

        x = self.x
        for layer in self.layers:
            x = layer(x, attend)
        return x


def narrow_pages(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Pages in eight bits of random numbers [P, H, S, 2·D], whose order says nothing; scales."""
    heads, width = numbers.shape[1], numbers.shape[3] // 2
    largest = torch.full((heads,), LARGEST_NUMBER, device=numbers.device)
    scales = scales_for(largest, largest, width)
    pages = torch.empty(numbers.shape, device=numbers.device, dtype=FP8)
    for half, part, scale in zip(
        keys_and_values(pages), numbers.chunk(2, dim=3), scales, strict=True
    ):
        half.copy_(part.reshape(half.shape) / scale[:, None, None])
    return pages, scales


def error_of(case: BlockCase, device: torch.device, dtype: torch.dtype) -> float:
    """Error relative to plain PyTorch in float32 on the same weights and histories."""
    block, exact = Block(case, device, dtype), Block(case, device, dtype)
    exact.layers.float()
    for layer in exact.layers:
        assert isinstance(layer, HSTULayer)
        layer.narrow_weights = None
    exact.x = exact.x.float()
    every = torch.arange(len(block.times), device=device)
    exact.pages = [(pages_of(p, every, scales, torch.float32), None) for p, scales in block.pages]
    with use_backend("reference"):
        expected = exact.run()
    return float((block.run().float() - expected).norm() / expected.norm())


def main() -> None:
    """Time the cases and append a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--records", type=Path, default=RECORDS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not torch.cuda.is_available():
        parser.error("an NVIDIA GPU is needed")
    from genrec_kernels.bench.attention import measure

    device, dtype = torch.device("cuda"), torch.bfloat16
    for bias, fp8 in product((False, True), (False, True)):
        small = BlockCase(
            batch=8, history=320, cached=200, candidates=100, layers=2, bias=bias, fp8=fp8
        )
        error = error_of(small, device, dtype)
        for batch in (1, 8):
            case = BlockCase(batch=batch, bias=bias, fp8=fp8)
            with use_backend("reference"):
                reference_ms, _ = measure(
                    Block(replace(case, fp8=False), device, dtype).run, graph=False
                )
            p50, p95 = measure(Block(case, device, dtype).run)
            record = Record(
                **where_and_when(options.commit), case=case.name, backend="kernels",
                dtype="float8" if fp8 else "bfloat16", p50_ms=p50, p95_ms=p95,
                rate=batch / p50 * 1e3, unit="requests/s", reference="plain PyTorch eager",
                reference_ms=reference_ms, error=error,
                note=f"{case.layers} layers, {case.width} wide, {case.candidates} candidates, "
                "CUDA graph; error of a smaller block against float32",
            )  # fmt: skip
            append_records(options.records, [record])
            _log.info("%s: %.3f ms, error %.1e", case.name, p50, error)


if __name__ == "__main__":
    main()
