"""Candidates of finished histories: from ids to scores and task logits, in one go.

Candidates never enter the prompt: there they would fill the prefix cache with rows that nobody
asks for again. When a history is finished, its candidates run through the layers beside it,
together with those of all other histories that finish in the same step.

All that the host knows of them goes to the GPU in one copy, and the GPU does everything else in one
CUDA graph, heads included. Launched one by one, the some seventy small kernels around the layers
take the host two milliseconds a step, most of what a step of few users takes.

Letters in shapes: R candidates, B requests that ask, M pages of the longest request, W hidden
width, T tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from genrec_cache.streams import sent
from genrec_model.features.reserved import NO_ACTION
from genrec_model.features.rows import Ints
from genrec_serving.vllm_plugin.graphs import Graphs
from genrec_serving.vllm_plugin.passes import (
    MAX_GRAPH_ROWS,
    PassInputs,
    PassOptions,
    PassSize,
    size_of,
)

#: Columns of an answer before the task logits: the item's row and its next-item score.
NUM_FIXED_COLUMNS = 2
#: Numbers of a candidate, and of a request, that the host knows.
_OF_ROWS, _OF_REQUESTS = 4, 2


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Candidates of one finished request.

    Args:
        request: its place in the step's batch.
        last_row: of its history, in the step's hidden rows.
        history_rows: of its history, all in the pages.
        now: unix seconds.
        items: int64, rows of the item table; any where the GPU knows them better.
    """

    request: int
    last_row: int
    history_rows: int
    now: int
    items: Ints


@dataclass(frozen=True, kw_only=True)
class CandidateInputs:
    """What a pass reads.

    Args:
        rows: the candidates, as a pass without slots.
        owner: int64 [R], which of the requests a candidate is of.
        users: [B, W], the last hidden rows of the histories.
    """

    rows: PassInputs
    owner: Tensor
    users: Tensor


class CandidatePass:
    """Runs candidates plainly, or padded to few sizes, or as graphs of those sizes.

    Args:
        run: columns float64 [R, 2 + T] of a pass: item, next-item score, task logits.
        in_use: a block in which the rows of items int64 [R] may be read.
        graphs: where those of all passes are.
        options: of all passes.
        columns: 2 + T.
        num_items: rows of the item table.
    """

    def __init__(
        self,
        run: Callable[[CandidateInputs], Tensor],
        *,
        in_use: Callable[[Tensor], AbstractContextManager[None]],
        graphs: Graphs,
        options: PassOptions,
        columns: int,
        num_items: int,
    ) -> None:
        self._run = run
        self._in_use = in_use
        self._all_graphs = graphs
        self._options = options
        self._num_items = num_items
        if options.mode == "plain":
            return
        zeros = partial(torch.zeros, device=options.device)
        requests, pages = options.max_requests, options.max_pages
        self._numbers = zeros(_num_numbers(MAX_GRAPH_ROWS, requests), dtype=torch.int64)
        self._pages = zeros(requests, pages, dtype=torch.int32)
        self._users = zeros(requests, options.width, dtype=options.dtype)
        self._columns = zeros(MAX_GRAPH_ROWS, columns, dtype=torch.float64)

    @torch.inference_mode()
    def __call__(
        self,
        hidden: Tensor,
        page_table: Tensor,
        asked: Sequence[Asked],
        found: Tensor | None = None,
    ) -> Tensor:
        """Columns of all candidates, which the next call overwrites.

        Args:
            hidden: [H, W], hidden rows of the step.
            page_table: int32 [S, M], pages of the step's requests.
            asked: one request at least.
            found: int64 [F] on the device: items of the last F candidates.

        Returns:
            float64 [R, 2 + T] on the device.

        Raises:
            IndexError: an item is not in the table.
        """
        rows = sum(len(one.items) for one in asked)
        new_rows = max(len(one.items) for one in asked)
        options = self._options
        if options.runs_plainly(rows, len(asked)):
            size = PassSize(rows, len(asked), new_rows, writes=False)
            host = numbers_of(asked, size)
            self._check(host[:rows])
            numbers = sent(host, options.device)
            inputs = self._inputs(
                size,
                numbers,
                page_table=page_table[_requests(numbers, size)],
                users=hidden[_last_rows(numbers, size)],
                max_keys=max(one.history_rows for one in asked),
            )
            _put(found, inputs, rows)
            with self._in_use(inputs.rows.items):
                return self._run(inputs)
        size = size_of(rows, len(asked), new_rows, max_requests=options.max_requests, writes=False)
        host = numbers_of(asked, size, pinned=options.device.type == "cuda")
        self._check(host[:rows])
        numbers = self._numbers[: len(host)].copy_(host, non_blocking=True)
        pages, users = self._pages[: size.requests], self._users[: size.requests]
        table = page_table[:, : pages.shape[1]]
        torch.index_select(table, 0, _requests(numbers, size), out=pages)
        torch.index_select(hidden, 0, _last_rows(numbers, size), out=users)
        inputs = self._static(size)
        _put(found, inputs, rows)
        with self._in_use(inputs.rows.items[:rows]):
            if options.mode == "graphs":
                self._all_graphs.replay(size, partial(self._run_static, size))
                return self._columns[:rows]
            self._run_static(size)
            return self._columns[:rows].clone()  # on a CPU answers are not copied from here

    @torch.inference_mode()
    def capture(self, size: PassSize) -> None:
        """Capture a size before anything was asked."""
        self._all_graphs.capture(size, partial(self._run_static, size))

    def _run_static(self, size: PassSize) -> None:
        self._columns[: size.rows] = self._run(self._static(size))

    def _static(self, size: PassSize) -> CandidateInputs:
        return self._inputs(
            size,
            self._numbers[: _num_numbers(size.rows, size.requests)],
            page_table=self._pages[: size.requests],
            users=self._users[: size.requests],
            max_keys=self._options.max_keys,
        )

    def _check(self, items: Tensor) -> None:
        """Raise the IndexError of a call; what the GPU knows better comes out of the table."""
        least, most = (int(number) for number in items.aminmax())
        if least < 0 or most >= self._num_items:
            raise IndexError(f"candidates {least} to {most} of a table of {self._num_items} items")

    def _inputs(
        self,
        size: PassSize,
        numbers: Tensor,
        *,
        page_table: Tensor,
        users: Tensor,
        max_keys: int,
    ) -> CandidateInputs:
        items, limits, timestamps, owner = numbers[: _OF_ROWS * size.rows].view(_OF_ROWS, -1)
        offsets = numbers[_OF_ROWS * size.rows + _OF_REQUESTS * size.requests :]
        return CandidateInputs(
            rows=PassInputs(
                items=items,
                actions=torch.full_like(items, NO_ACTION),
                limits=limits,
                timestamps=timestamps,
                slots=None,
                row_offsets=offsets.int(),
                page_table=page_table,
                max_new_rows=size.new_rows,
                max_keys=max_keys,
            ),
            owner=owner,
            users=users,
        )


def numbers_of(asked: Sequence[Asked], size: PassSize, *, pinned: bool = False) -> Tensor:
    """What the host knows of candidates: int64, padded to a size with candidates of nobody.

    Their items, limits, times and owners come first, then the requests' places and last rows, then
    the offsets of their candidates.
    """
    numbers = torch.zeros(
        _num_numbers(size.rows, size.requests), dtype=torch.int64, pin_memory=pinned
    )
    filled = numbers.numpy()
    of_rows = filled[: _OF_ROWS * size.rows].reshape(_OF_ROWS, -1)
    of_requests = filled[of_rows.size : -size.requests - 1].reshape(_OF_REQUESTS, -1)
    offsets = filled[-size.requests - 1 :]
    counts = np.array([len(one.items) for one in asked])
    rows = int(counts.sum())
    of_rows[0, :rows] = np.concatenate([one.items for one in asked])
    of_rows[1, :rows] = np.repeat([one.history_rows for one in asked], counts)
    of_rows[2, :rows] = np.repeat([one.now for one in asked], counts)
    of_rows[3, :rows] = np.repeat(np.arange(len(asked)), counts)
    of_requests[0, : len(asked)] = [one.request for one in asked]
    of_requests[1, : len(asked)] = [one.last_row for one in asked]
    offsets[1 : len(asked) + 1] = np.cumsum(counts)
    offsets[len(asked) + 1 :] = rows
    return numbers


def _num_numbers(rows: int, requests: int) -> int:
    return _OF_ROWS * rows + (_OF_REQUESTS + 1) * requests + 1


def _requests(numbers: Tensor, size: PassSize) -> Tensor:
    return numbers[_OF_ROWS * size.rows :][: size.requests]


def _last_rows(numbers: Tensor, size: PassSize) -> Tensor:
    return numbers[_OF_ROWS * size.rows + size.requests :][: size.requests]


def _put(found: Tensor | None, inputs: CandidateInputs, rows: int) -> None:
    """Items that only the GPU knows; what a filter left empty is computed like the rest."""
    if found is not None:
        inputs.rows.items[rows - len(found) : rows] = found.clamp(min=0)
