"""Sizes that passes are padded to. What comes out of padded passes: `test_vllm_engine`."""

import torch

from genrec_serving.vllm_plugin.passes import (
    FEW_ROWS,
    MAX_GRAPH_ROWS,
    PassInputs,
    PassSize,
    size_of,
    usual_sizes,
)


def inputs(rows: list[int], *, writes: bool) -> PassInputs:
    """Of requests with so many new rows each."""
    zeros = torch.zeros(sum(rows), dtype=torch.int64)
    return PassInputs(
        items=zeros,
        actions=zeros,
        limits=zeros,
        timestamps=zeros,
        slots=zeros if writes else None,
        row_offsets=torch.tensor([0, *rows]).cumsum(0).int(),
        page_table=torch.zeros(len(rows), 4, dtype=torch.int32),
        max_new_rows=max(rows),
        max_keys=0,
    )


def test_a_size_holds_the_pass_and_little_more() -> None:
    for requests in (1, 2, 5, 40, 100):
        for each in (1, 8, 30, 81):
            size = size_of(inputs([each] * requests, writes=True), max_requests=100)
            rows = each * requests
            assert rows <= size.rows <= max(rows * 1.5, 32)
            assert requests <= size.requests <= 100
            assert each <= size.new_rows <= size.rows or size.new_rows in FEW_ROWS


def test_few_sizes_serve_all_passes() -> None:
    sizes = {
        size_of(inputs([each] * requests, writes=True), max_requests=128)
        for requests in range(1, 129)
        for each in range(1, 65)
    }
    assert len(sizes) < 100


def test_usual_passes_find_their_size_captured() -> None:
    usual = set(usual_sizes(128))
    assert all(size.rows <= MAX_GRAPH_ROWS for size in usual)
    for requests in (1, 4, 16, 64, 128):
        assert size_of(inputs([40] * requests, writes=True), 128) in usual
        assert size_of(inputs([60] * requests, writes=True), 128) in usual
    assert size_of(inputs([100], writes=False), 128) in usual
    assert size_of(inputs([2000], writes=True), 128) in usual
    assert PassSize(32, 1, 16, writes=True) in usual
