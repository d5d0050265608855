"""Sizes that passes are padded to. What comes out of padded passes: `test_vllm_engine`."""

import torch

from genrec_serving.vllm_plugin.passes import (
    FEW_ROWS,
    MAX_GRAPH_ROWS,
    Passes,
    PassInputs,
    PassSize,
    all_sizes,
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


def test_all_sizes_are_known() -> None:
    known = {(size.rows, size.requests, size.new_rows) for size in all_sizes(128)}
    for requests in (1, 3, 17, 100, 128):
        for each in (1, 9, 16, 24, 32, 33, 60):
            size = size_of(inputs([each] * requests, writes=True), max_requests=128)
            assert (size.rows, size.requests, size.new_rows) in known
    one_new = size_of(inputs([1000] + [9] * 100, writes=True), max_requests=128)
    assert (one_new.rows, one_new.requests, one_new.new_rows) in known


def test_warming_up_meets_every_kind() -> None:
    met: list[PassSize] = []

    def run(given: PassInputs) -> torch.Tensor:
        few = given.max_new_rows if given.max_new_rows in FEW_ROWS else 0
        met.append(PassSize(len(given.items), len(given.page_table), few, writes=True))
        return torch.zeros(len(given.items), 8)

    def kind(size: PassSize) -> tuple[bool, int]:
        few = size.new_rows if size.new_rows in FEW_ROWS else 0
        return size.rows > 20 * size.requests, few

    passes = Passes(
        run, width=8, dtype=torch.float32, max_requests=16, max_pages=4, max_keys=256,
        device=torch.device("cpu"), mode="padded", kind=kind,
    )  # fmt: skip
    passes.warm_up()
    assert {kind(size) for size in met} == {kind(size) for size in all_sizes(16)}


def test_usual_passes_find_their_size_captured() -> None:
    usual = set(usual_sizes(128))
    assert all(size.rows <= MAX_GRAPH_ROWS for size in usual)
    for requests in (1, 4, 16, 64, 128):
        assert size_of(inputs([40] * requests, writes=True), 128) in usual
        assert size_of(inputs([60] * requests, writes=True), 128) in usual
    assert size_of(inputs([100], writes=False), 128) in usual
    assert size_of(inputs([2000], writes=True), 128) in usual
    assert PassSize(32, 1, 16, writes=True) in usual
