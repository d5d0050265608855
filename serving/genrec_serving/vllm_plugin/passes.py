"""Rows that run through all layers against paged histories, in one pass; on a GPU as a CUDA graph.

A pass launches some ten small kernels a layer. Launched one by one they take longer than they run,
so a pass is captured once for each size and replayed: its inputs are copied into tensors that stay
where they are, padded to the next of few sizes. History rows have their pass here, candidates
theirs in `candidate_pass`.

Letters in shapes: R rows, B requests, M pages of the longest request, W hidden width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from genrec_serving.vllm_plugin.graphs import Graphs

Mode = Literal["plain", "padded", "graphs"]
#: Larger passes keep the GPU busy without a graph.
MAX_GRAPH_ROWS = 8192
MIN_GRAPH_ROWS = 32
#: Rows from which the time that a pass takes grows with them.
_LONG_PASS = 1024
#: New rows of a request for which attention takes smaller tiles.
FEW_ROWS = (16, 32)


@dataclass(frozen=True, kw_only=True)
class PassInputs:
    """History rows of a step, or candidates.

    Args:
        items, actions: int64 [R], rows of the tables.
        limits: int64 [R], rows of its request's pages that a row sees besides itself, which is
            also its position.
        timestamps: int64 [R], unix seconds.
        slots: int64 [R], where a row's key, value and time go; negative for nowhere. None for
            candidates, which are never written.
        row_offsets: int32 [B + 1], first row of each request.
        page_table: int32 [B, M].
        max_new_rows: at least the rows of the largest request.
        max_keys: at least the largest of `limits`.
    """

    items: Tensor
    actions: Tensor
    limits: Tensor
    timestamps: Tensor
    slots: Tensor | None
    row_offsets: Tensor
    page_table: Tensor
    max_new_rows: int
    max_keys: int


@dataclass(frozen=True)
class PassSize:
    """What a captured pass was captured for."""

    rows: int
    requests: int
    new_rows: int
    writes: bool


def row_sizes(most: int) -> list[int]:
    """What numbers of rows are padded to: powers of two, and some between them.

    Half a power more where a pass lasts as long with fewer rows, else a quarter.
    """
    sizes = [MIN_GRAPH_ROWS]
    while sizes[-1] < most:
        power = 1 << sizes[-1].bit_length() - 1
        sizes.append(sizes[-1] + power // (2 if power < _LONG_PASS else 4))
    return sizes


def request_sizes(most: int) -> list[int]:
    """What numbers of requests are padded to."""
    sizes = [1]
    while sizes[-1] < most:
        sizes.append(min(4 * sizes[-1], most))
    return sizes


def size_of(
    rows: int, requests: int, new_rows: int, *, max_requests: int, writes: bool
) -> PassSize:
    """The size that a pass is padded to.

    Args:
        rows, requests: that it has.
        new_rows: of the request with the most.
        max_requests: most requests of a pass.
        writes: whether it is of history rows.
    """
    rows = row_sizes(rows)[-1]
    return PassSize(
        rows=rows,
        requests=next(n for n in request_sizes(max_requests) if n >= requests),
        # All that attention makes of it is whether a request has few rows.
        new_rows=next((few for few in FEW_ROWS if new_rows <= few), rows),
        writes=writes,
    )


def all_sizes(max_requests: int) -> list[PassSize]:
    """Sizes that a server meets, the largest first, so that smaller graphs find its memory free.

    Left out are passes of at most `FEW_ROWS` candidates for each of several requests.
    """
    sizes = []
    fewest = 1
    for requests in request_sizes(max_requests):
        for rows in row_sizes(MAX_GRAPH_ROWS):
            if rows < fewest:
                continue
            sizes += [
                PassSize(rows, requests, new_rows, writes=True)
                for new_rows in (*FEW_ROWS, rows)
                # Padding adds less than half to the rows.
                if 2 * rows <= 3 * max(requests * new_rows, MIN_GRAPH_ROWS)
            ]
            sizes.append(PassSize(rows, requests, rows, writes=False))
        fewest = requests + 1
    return sorted(dict.fromkeys(sizes), key=lambda size: -size.rows)


@dataclass(frozen=True, kw_only=True)
class PassOptions:
    """What passes of histories and of candidates have in common.

    Args:
        width: W.
        dtype: of hidden rows.
        max_requests: most requests of a pass.
        max_pages: M.
        max_keys: most rows of a history.
        device: of all tensors.
        mode: "padded" does what "graphs" does, without a GPU: for tests.
    """

    width: int
    dtype: torch.dtype
    max_requests: int
    max_pages: int
    max_keys: int
    device: torch.device
    mode: Mode

    def runs_plainly(self, rows: int, requests: int) -> bool:
        """Whether a pass is larger than all sizes, or none is padded."""
        return self.mode == "plain" or rows > MAX_GRAPH_ROWS or requests > self.max_requests


class Passes:
    """Runs history rows plainly, or padded to few sizes, or as graphs of those sizes.

    Args:
        run: the layers: hidden rows [R, W] of a pass.
        graphs: where those of all passes are.
        options: of all passes.
    """

    def __init__(
        self, run: Callable[[PassInputs], Tensor], *, graphs: Graphs, options: PassOptions
    ) -> None:
        self._run = run
        self._all_graphs = graphs
        self._options = options
        if options.mode == "plain":
            return
        zeros = partial(torch.zeros, device=options.device)
        requests, pages = options.max_requests, options.max_pages
        # Until a pass fills them, rows of no request, which are written nowhere.
        self._rows = zeros(5, MAX_GRAPH_ROWS, dtype=torch.int64)
        self._rows[4] = -1
        self._offsets = zeros(requests + 1, dtype=torch.int32)
        self._pages = zeros(requests, pages, dtype=torch.int32)
        self._hidden = zeros(MAX_GRAPH_ROWS, options.width, dtype=options.dtype)

    @torch.inference_mode()
    def __call__(self, inputs: PassInputs) -> Tensor:
        """Hidden rows [R, W]. What it returns is overwritten by the next call."""
        rows, requests = len(inputs.items), len(inputs.page_table)
        if self._options.runs_plainly(rows, requests):
            return self._run(inputs)
        most = self._options.max_requests
        size = size_of(rows, requests, inputs.max_new_rows, max_requests=most, writes=True)
        self._fill(self._static(size), inputs)
        if self._options.mode == "padded":
            self._run_static(size)
        else:
            self._all_graphs.replay(size, partial(self._run_static, size))
        return self._hidden[:rows]

    @torch.inference_mode()
    def capture(self, size: PassSize) -> None:
        """Capture a size before anything was asked; nothing is written to the pages."""
        self._all_graphs.capture(size, partial(self._run_static, size))

    def _run_static(self, size: PassSize) -> None:
        self._hidden[: size.rows] = self._run(self._static(size))

    def _static(self, size: PassSize) -> PassInputs:
        items, actions, limits, timestamps, slots = self._rows[:, : size.rows].unbind()
        return PassInputs(
            items=items,
            actions=actions,
            limits=limits,
            timestamps=timestamps,
            slots=slots,
            row_offsets=self._offsets[: size.requests + 1],
            page_table=self._pages[: size.requests],
            max_new_rows=size.new_rows,
            max_keys=self._options.max_keys,
        )

    def _fill(self, static: PassInputs, inputs: PassInputs) -> None:
        """Copy the inputs, in few launches.

        Rows past the last are what an earlier pass left there: they belong to no request and are
        written nowhere.
        """
        rows, requests = len(inputs.items), len(inputs.page_table)
        assert static.slots is not None
        assert inputs.slots is not None
        torch.stack(
            [inputs.items, inputs.actions, inputs.limits, inputs.timestamps, inputs.slots],
            out=self._rows[:, :rows],
        )
        static.slots[rows:] = -1
        static.row_offsets[: requests + 1] = inputs.row_offsets
        static.row_offsets[requests + 1 :] = rows
        static.page_table[:requests] = inputs.page_table[:, : static.page_table.shape[1]]
