import pytest
import torch
from torch import Tensor

from genrec_serving.next_item import NextItem

# One dimension, so that a score is the item's own number; the first three rows are reserved.
CATALOGUE = torch.tensor([[9.0], [9.0], [9.0], [1.0], [5.0], [3.0], [4.0]])
USER = torch.ones(1, 1)


def best(k: int, *, exclude: list[int] | None = None, allow: list[int] | None = None) -> Tensor:
    return (
        NextItem(CATALOGUE, 1.0)
        .best(
            USER,
            k=k,
            exclude=None if exclude is None else torch.tensor([exclude], dtype=torch.int64),
            allow=None if allow is None else torch.tensor(allow, dtype=torch.int64),
        )
        .items[0]
    )


def test_best_first() -> None:
    assert best(2).tolist() == [4, 6]


def test_more_than_there_are() -> None:
    top = NextItem(CATALOGUE, 0.5).best(USER, k=100)
    assert top.items.tolist() == [[4, 6, 5, 3, -1, -1, -1]]
    assert top.scores[0, :4].tolist() == [10, 8, 6, 2]


def test_exclude_beats_allow() -> None:
    assert best(2, exclude=[4], allow=[4, 3, 3]).tolist() == [3, -1]


def test_a_negative_exclusion_is_none() -> None:
    assert best(1, exclude=[-1]).tolist() == [4]


def test_reserved_rows_cannot_be_allowed() -> None:
    assert best(1, allow=[0, 1, 2]).tolist() == [-1]


def test_both_ways_to_score_agree(truth) -> None:
    with torch.no_grad():
        catalogue = truth.model.catalogue_embedding()
    next_item = NextItem(catalogue, 0.05)
    user = torch.nn.functional.normalize(torch.arange(32.0), dim=0)
    top = next_item.best(user[None], k=50)
    items = top.items[0]
    assert sorted(items.tolist()) == list(range(3, 53))
    assert torch.allclose(next_item.scores_of(user, items), top.scores[0], atol=1e-5)
    assert torch.allclose(truth.model.catalogue_scores(user)[items], top.scores[0], atol=1e-5)
    with pytest.raises(IndexError, match="53"):
        next_item.scores_of(user, torch.tensor([53]))
