"""Retrieval over a table on the host finds what it finds over the whole table on the device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from genrec_cache import stored_matrix
from genrec_cache.embedding_cache import CachedTable
from genrec_cache.stored_matrix import StoredMatrix
from genrec_model.hstu import HSTU
from genrec_serving.catalogue import ResidentCatalogue
from genrec_serving.next_item import NextItem
from genrec_serving.vllm_plugin.item_cache_options import ItemCacheOptions
from genrec_serving.vllm_plugin.item_rows import ItemRows
from genrec_serving.vllm_plugin.streamed_catalogue import StreamedCatalogue

# Unit vectors of plus and minus a quarter: products are exact.
ROWS, WIDTH = 403, 16


def both(rows: Tensor, piece_rows: int) -> tuple[NextItem, NextItem]:
    table = CachedTable(rows, 40)
    streamed = StreamedCatalogue(table, piece_bytes=piece_rows * rows[:1].nbytes)
    return NextItem(streamed, 0.05), NextItem(ResidentCatalogue(F.normalize(rows, dim=-1)), 0.05)


def table(*, repeats: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    rows = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))
    rows = rows.sign()[torch.arange(ROWS) // repeats]
    return rows.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("piece_rows", [3, 100, 403, 1000])
@pytest.mark.parametrize("k", [1, 10, 500])
def test_the_best_are_the_same(dtype, piece_rows, k) -> None:
    streamed, resident = both(table(dtype=dtype), piece_rows)
    users = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1)).sign()
    exclude = torch.tensor([[3, 99, -1], [100, 101, 102], [402, -1, -1], [-1, -1, -1], [5, 5, 6]])
    allow = torch.arange(0, ROWS, 3)
    for more in ({}, {"exclude": exclude}, {"allow": allow}, {"exclude": exclude, "allow": allow}):
        found, expected = (n.best(users, k=k, **more) for n in (streamed, resident))
        assert found.items.tolist() == expected.items.tolist()
        torch.testing.assert_close(found.scores, expected.scores)


def test_equal_scores_are_in_the_order_of_the_table() -> None:
    streamed, _ = both(table(repeats=20), 50)
    users = torch.ones(1, WIDTH)
    found = streamed.best(users, k=ROWS)
    items, scores = found.items[0, :-3].tolist(), found.scores[0, :-3].tolist()
    assert sorted(items) == list(range(3, ROWS))
    assert list(zip(scores, items, strict=True)) == sorted(
        zip(scores, items, strict=True), key=lambda pair: (-pair[0], pair[1])
    )


def test_scores_of_items_are_not_counted_twice() -> None:
    rows = table()
    cached = CachedTable(rows, 40)
    streamed = NextItem(StreamedCatalogue(cached), 0.05)
    _, resident = both(rows, 100)
    items, user = torch.tensor([7, 3, 402, 7]), torch.randn(WIDTH)
    assert torch.equal(streamed.scores_of(user, items), resident.scores_of(user, items))
    assert cached.stats.lookups == 0
    with pytest.raises(IndexError, match="403"):
        streamed.scores_of(user, torch.tensor([403]))


class Largest(TorchDispatchMode):
    """Remembers the largest float tensor that an operator made."""

    num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves(args) if isinstance(t, Tensor)}
        for made in tree_leaves(out):
            if isinstance(made, Tensor) and made.device.type == "meta":
                continue
            if isinstance(made, Tensor) and made.untyped_storage().data_ptr() not in given:
                self.num_bytes = max(self.num_bytes, made.untyped_storage().nbytes())
        return out


def test_the_table_is_never_copied_as_a_whole() -> None:
    rows = torch.randn(100_000, WIDTH)
    streamed = NextItem(StreamedCatalogue(CachedTable(rows, 10), piece_bytes=32_000), 0.05)
    with Largest() as largest:
        streamed.best(torch.randn(2, WIDTH), k=5)
        streamed.scores_of(torch.randn(WIDTH), torch.arange(500))
    # A piece, or a mark for each row; the whole table is 6.4 MB.
    assert largest.num_bytes <= 100_000


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_gets_its_rows_without_the_whole_table(
    tiny_artifact, tmp_path, monkeypatch, dtype
) -> None:
    monkeypatch.setattr(stored_matrix, "PIECE_BYTES", 1 << 20)
    config = replace(tiny_artifact.config, num_items=100_000)
    rows = torch.randn(config.num_items, config.hidden_size)
    save_file({"item_embedding.weight": rows}, tmp_path / "weights")
    with Largest() as largest:
        absent = nn.Embedding(*rows.shape, device="meta")
        model = HSTU(config, item_embedding=absent).to(dtype)
        item_rows = ItemRows(
            model,
            StoredMatrix.find(tmp_path / "weights", "item_embedding.weight"),
            ItemCacheOptions(mode="on", slots=0.05),
            dtype=dtype,
            device=torch.device("cpu"),
        )
        items = torch.arange(0, config.num_items, 97)
        with item_rows.pass_over(items):
            found = model.item_embedding(items)
    assert torch.equal(found, rows[items].to(dtype))
    item_rows.close()
    # In the file's own type the table is mapped; otherwise it is made once, as it stays.
    whole = rows.nbytes if dtype == torch.float32 else rows.nbytes // 2
    copied = largest.num_bytes - (0 if dtype == torch.float32 else whole)
    assert copied <= 0.1 * whole
