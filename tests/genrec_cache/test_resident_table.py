import pytest
import torch

from genrec_cache.resident import ResidentTable

ROWS = torch.arange(12.0).view(4, 3)


def test_looks_rows_up_in_any_shape() -> None:
    ids = torch.tensor([[3, 0], [1, 1]])
    assert torch.equal(ResidentTable(ROWS).lookup(ids), ROWS[ids])


def test_no_ids_give_no_rows() -> None:
    assert ResidentTable(ROWS).lookup(torch.empty(0, dtype=torch.int64)).shape == (0, 3)


def test_knows_its_size() -> None:
    table = ResidentTable(ROWS)
    assert (table.num_rows, table.width) == (4, 3)


@pytest.mark.parametrize("ids", [[4], [0, -1], [1, 99, 2]])
def test_ids_out_of_range_are_named(ids: list[int]) -> None:
    wrong = next(i for i in ids if not 0 <= i < 4)
    with pytest.raises(IndexError, match=f"row {wrong} .* 4 rows"):
        ResidentTable(ROWS).lookup(torch.tensor(ids))


def test_keeps_the_tensor_it_was_given() -> None:
    assert ResidentTable(ROWS).rows is ROWS


def test_refuses_what_is_no_matrix() -> None:
    with pytest.raises(ValueError, match=r"\(4,\)"):
        ResidentTable(torch.zeros(4))
