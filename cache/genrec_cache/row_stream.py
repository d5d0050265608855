"""All rows of a host's table on a device, a piece after the other: for work that needs every row.

Letters in shapes: V rows of the table, W width of a row, N rows of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from genrec_cache.host_memory import PIECE
from genrec_cache.host_rows import HostRows
from genrec_cache.streams import Fence, new_stream
from genrec_kernels.cached_rows import StoredRows

#: Of the table on the device at once; twice that, as the next piece comes meanwhile.
PIECE_BYTES = 64 << 20


def stream_rows(
    host: HostRows, device: torch.device, *, piece_bytes: int = PIECE_BYTES
) -> Iterator[tuple[int, Tensor]]:
    """First row and rows [N, W] of each piece, in order, as `host.dtype` on the device.

    On a GPU the next piece crosses the link while the caller's stream works on this one, whose
    memory is taken once the caller asks for the next. Nothing waits for the GPU where the rows are
    pinned. On the CPU floats are not copied.
    """
    at_once = max(1, piece_bytes // max(1, host.stored.values[:1].nbytes))
    starts = range(0, host.num_rows, at_once)
    if device.type != "cuda":
        for first in starts:
            yield first, _floats(_part(host.stored, first, at_once), host.dtype)
        return
    current = torch.cuda.current_stream(device)
    copying = new_stream(device)
    buffers = [host.empty_slots(min(at_once, host.num_rows), device) for _ in range(2)]
    free = Fence(current)

    def bring(number: int) -> tuple[StoredRows, Fence]:
        source = _part(host.stored, starts[number], at_once)
        target = _part(buffers[number % 2], 0, len(source.values))
        free.hold(copying)
        with torch.cuda.stream(copying):
            for to, whole in zip(target, host.stored, strict=True):
                if to is not None and whole is not None:
                    _copy(to, whole, starts[number])
        return target, Fence(copying)

    following = bring(0) if starts else None
    try:
        for number, first in enumerate(starts):
            assert following is not None
            rows, arrived = following
            # What the caller did with the piece before this one is on the stream by now.
            free = Fence(current)
            following = bring(number + 1) if number + 1 < len(starts) else None
            arrived.hold(current)
            yield first, _floats(rows, host.dtype)
    finally:
        # The buffers go back to the caller's stream, so it must not be ahead of the copies.
        if following is not None:
            following[1].hold(current)


def _part(rows: StoredRows, first: int, count: int) -> StoredRows:
    here = slice(first, first + count)
    return StoredRows(rows.values[here], None if rows.scales is None else rows.scales[here])


def _floats(rows: StoredRows, dtype: torch.dtype) -> Tensor:
    if rows.scales is None:
        return rows.values.to(dtype)
    return (rows.values.float() * rows.scales[:, None]).to(dtype)


def _copy(target: Tensor, source: Tensor, first: int) -> None:
    """Fill a target with the source's rows from the first on.

    Memory is pinned in pieces, and no copy may cross from one to the next.
    """
    to, whole = target.view(-1).view(torch.uint8), source.view(-1).view(torch.uint8)
    begin = first * source[:1].nbytes
    at, end = begin, begin + len(to)
    while at < end:
        stop = min(end, (at // PIECE + 1) * PIECE)
        to[at - begin : stop - begin].copy_(whole[at:stop], non_blocking=True)
        at = stop
