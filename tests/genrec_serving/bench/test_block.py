import pytest
import torch

from genrec_kernels.fp8_pages import FP8
from genrec_serving.bench import block as block_module
from genrec_serving.bench.block import Block, BlockCase, error_of

CPU = torch.device("cpu")
SMALL = {"history": 200, "cached": 130, "candidates": 7, "layers": 2, "width": 32, "heads": 2}


@pytest.mark.parametrize("bias", [False, True])
def test_a_block_is_as_exact_as_its_numbers(bias: bool) -> None:
    assert error_of(BlockCase(batch=3, bias=bias, **SMALL), CPU, torch.float32) < 1e-6
    assert 1e-5 < error_of(BlockCase(batch=3, bias=bias, **SMALL), CPU, torch.bfloat16) < 0.05


def test_candidates_see_the_rows_that_the_same_pass_writes() -> None:
    block = Block(BlockCase(batch=1, **SMALL), CPU, torch.float32)
    before = block.run()
    new = block.case.history - block.case.cached
    block.x[new - 1] = block.x[new - 1].flip(0)  # the last event of the history
    after = block.run()
    assert torch.equal(before[: new - 1], after[: new - 1])
    assert (before[new:] != after[new:]).any(dim=1).all()


def test_queries_that_attention_takes_are_rounded_as_the_rows_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    block = Block(BlockCase(batch=2, fp8=True, **SMALL), CPU, torch.bfloat16)
    attend, given = block_module.paged_hstu_attention, []

    def keep(*args: object, queries: torch.Tensor | None, **options: object) -> torch.Tensor:
        given.append(queries)
        return attend(*args, queries=queries, **options)

    monkeypatch.setattr(block_module, "paged_hstu_attention", keep)
    before = block.run()
    assert given == [None, None]
    monkeypatch.setattr(block_module, "takes_queries", lambda *_, **__: True)
    assert torch.equal(block.run(), before)
    assert [queries.dtype for queries in given[2:]] == [FP8, FP8]


def test_requests_do_not_see_each_other() -> None:
    block = Block(BlockCase(batch=2, **SMALL), CPU, torch.float32)
    rows = len(block.x) // 2
    before = block.run()
    block.x[rows:] = block.x[rows:].flip(1)
    after = block.run()
    assert torch.equal(before[:rows], after[:rows])
    assert not torch.equal(before[rows:], after[rows:])
