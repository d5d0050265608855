"""All rows come by, in order; on a GPU too (see `gpu_cache_cases.py`)."""

from __future__ import annotations

import pytest
import torch

from genrec_cache.host_rows import HostRows
from genrec_cache.row_stream import stream_rows

CPU = torch.device("cpu")


@pytest.mark.parametrize("piece_rows", [1, 7, 50, 99])
def test_floats_are_those_of_the_table(piece_rows) -> None:
    rows = torch.randn(50, 4)
    pieces = list(stream_rows(HostRows(rows), CPU, piece_bytes=piece_rows * 16))
    assert [first for first, _ in pieces] == list(range(0, 50, piece_rows))
    assert torch.equal(torch.cat([piece for _, piece in pieces]), rows)
    assert pieces[-1][1].data_ptr() == rows[pieces[-1][0] :].data_ptr()  # not copied


def test_int8_rows_come_as_floats() -> None:
    host = HostRows.quantized(torch.randn(50, 4), dtype=torch.bfloat16)
    found = torch.cat([piece for _, piece in stream_rows(host, CPU, piece_bytes=40)])
    scales = host.stored.scales
    assert scales is not None
    assert torch.equal(found, (host.stored.values.float() * scales[:, None]).bfloat16())


def test_a_table_without_rows_has_no_pieces() -> None:
    assert not list(stream_rows(HostRows(torch.zeros(0, 4)), CPU))
