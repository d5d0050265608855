"""Sizes that passes are padded to. What comes out of them: `test_vllm_engine`."""

from genrec_serving.vllm_plugin.passes import (
    FEW_ROWS,
    MAX_GRAPH_ROWS,
    PassSize,
    all_sizes,
    size_of,
)


def size_for(rows: list[int], *, writes: bool, max_requests: int = 128) -> PassSize:
    """Of requests with so many new rows each."""
    return size_of(sum(rows), len(rows), max(rows), max_requests=max_requests, writes=writes)


def test_a_size_holds_the_pass_and_little_more() -> None:
    for requests in (1, 2, 5, 40, 100):
        for each in (1, 8, 30, 81):
            size = size_for([each] * requests, writes=True, max_requests=100)
            rows = each * requests
            assert rows <= size.rows <= max(rows * 1.5, 32)
            assert requests <= size.requests <= 100
            assert each <= size.new_rows <= size.rows or size.new_rows in FEW_ROWS


def test_few_sizes_serve_all_passes() -> None:
    sizes = {
        size_for([each] * requests, writes=True)
        for requests in range(1, 129)
        for each in range(1, 65)
    }
    assert len(sizes) < 100


def test_all_sizes_are_known() -> None:
    known = {(size.rows, size.requests, size.new_rows) for size in all_sizes(128)}
    for requests in (1, 3, 17, 100, 128):
        for each in (1, 9, 16, 24, 32, 33, 60):
            size = size_for([each] * requests, writes=True)
            assert (size.rows, size.requests, size.new_rows) in known
    one_new = size_for([1000] + [9] * 100, writes=True)
    assert (one_new.rows, one_new.requests, one_new.new_rows) in known


def test_candidates_find_their_size_captured() -> None:
    known = set(all_sizes(128))
    for requests in (1, 3, 17, 81):
        for each in (33, 100):
            assert size_for([each] * requests, writes=False) in known


def test_the_largest_size_comes_first() -> None:
    rows = [size.rows for size in all_sizes(16)]
    assert rows[0] == MAX_GRAPH_ROWS
    assert rows == sorted(rows, reverse=True)
