import pytest
import torch

from genrec_serving.next_item import NextItem, best

NONE = torch.tensor([], dtype=torch.int64)
SCORES = torch.tensor([-torch.inf, -torch.inf, -torch.inf, 1.0, 5.0, 3.0, 4.0])


def test_best_first() -> None:
    assert best(SCORES, k=2, exclude=NONE, allow=None).items.tolist() == [4, 6]


def test_more_than_there_are() -> None:
    top = best(SCORES, k=100, exclude=NONE, allow=None)
    assert top.items.tolist() == [4, 6, 5, 3]
    assert top.scores.tolist() == [5, 4, 3, 1]


def test_exclude_beats_allow() -> None:
    top = best(SCORES, k=9, exclude=torch.tensor([4]), allow=torch.tensor([4, 3, 3]))
    assert top.items.tolist() == [3]


def test_reserved_rows_cannot_be_allowed() -> None:
    assert len(best(SCORES, k=9, exclude=NONE, allow=torch.tensor([0, 1, 2])).items) == 0


def test_leaves_its_input_alone() -> None:
    before = SCORES.clone()
    best(SCORES, k=1, exclude=torch.tensor([4]), allow=torch.tensor([3]))
    assert torch.equal(SCORES, before)


def test_both_ways_to_score_agree(truth) -> None:
    with torch.no_grad():
        catalogue = truth.model.catalogue_embedding()
    next_item = NextItem(catalogue, 0.05)
    user = torch.nn.functional.normalize(torch.arange(32.0), dim=0)
    items = torch.tensor([5, 3, 52])
    scores = next_item.catalogue_scores(user[None])[0]
    assert torch.allclose(next_item.scores_of(user, items), scores[items], atol=1e-5)
    assert not scores[:3].isfinite().any()
    with pytest.raises(IndexError, match="53"):
        next_item.scores_of(user, torch.tensor([53]))
