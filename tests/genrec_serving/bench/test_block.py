import pytest
import torch

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


def test_requests_do_not_see_each_other() -> None:
    block = Block(BlockCase(batch=2, **SMALL), CPU, torch.float32)
    rows = len(block.x) // 2
    before = block.run()
    block.x[rows:] = block.x[rows:].flip(1)
    after = block.run()
    assert torch.equal(before[:rows], after[:rows])
    assert not torch.equal(before[rows:], after[rows:])
