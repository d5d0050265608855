"""Retrieval by a copy in eight bits finds what the whole table has, ties and all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec_cache.embedding_cache import CachedTable
from genrec_kernels.top_k import TopK
from genrec_serving.catalogue import ResidentCatalogue
from genrec_serving.vllm_plugin import compact_catalogue, unit_codes
from genrec_serving.vllm_plugin.compact_catalogue import CompactCatalogue
from genrec_serving.vllm_plugin.streamed_catalogue import StreamedCatalogue
from genrec_serving.vllm_plugin.unit_codes import DTYPES, UnitCodes

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
        ],
    ),
]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
devices = pytest.mark.parametrize("device", DEVICES)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random(rows: int, width: int) -> Tensor:
    return normal(rows, width)


def uneven(rows: int, width: int) -> Tensor:
    """Some rows are long, some short, and one number of each is large: coarse codes."""
    table = normal(rows, width) * torch.logspace(-3, 3, rows)[:, None]
    table[torch.arange(rows), torch.arange(rows) % width] *= 20
    return table


def repeated(rows: int, width: int) -> Tensor:
    """Each row is there five times, far from one another."""
    return normal(-(-rows // 5), width).repeat(5, 1)[:rows]


def zeros_in_it(rows: int, width: int) -> Tensor:
    table = normal(rows, width)
    table[::3] = 0
    return table


def alike(rows: int, width: int) -> Tensor:
    """All rows point nearly the same way: bounds tell none from another."""
    return 1 + 1e-3 * normal(rows, width)


def searches(
    table: Tensor, device: str, **room: int
) -> tuple[CompactCatalogue, ResidentCatalogue, CachedTable]:
    """By a copy, and over the whole table."""
    cached = CachedTable(table, len(table) // 10, device=device)
    whole = ResidentCatalogue(F.normalize(table.to(device), dim=-1))
    return CompactCatalogue(cached, **room), whole, cached


def users_of(dtype: torch.dtype, device: str, count: int, width: int) -> Tensor:
    return F.normalize(normal(count, width, seed=1), dim=-1).to(device, dtype)


def same(found: TopK, expected: TopK, users: Tensor, table: Tensor) -> None:
    """Items may differ where their scores do by rounding alone, and are never there twice.

    Sums of products may differ in their last bit with the number of rows. On a CPU scores have the
    type of the table.
    """
    share = 2 * torch.finfo(torch.float32 if users.is_cuda else users.dtype).eps
    near = partial(torch.testing.assert_close, rtol=max(share, 1e-5), atol=1e-6)
    near(found.scores, expected.scores)
    assert torch.equal(found.items < 0, expected.items < 0)
    every = users.double() @ F.normalize(table.to(users.device), dim=-1).double().T
    for mine, scores, of_all in zip(found.items, found.scores, every, strict=True):
        kept = mine[mine >= 0]
        assert len(kept.unique()) == len(kept)
        near(of_all[kept].float(), scores[: len(kept)])


@devices
@dtypes
@pytest.mark.parametrize("make", [random, uneven, repeated], ids=lambda f: f.__name__)
def test_the_best_are_those_of_the_whole_table(
    device: str, dtype: torch.dtype, make: Callable[[int, int], Tensor]
) -> None:
    rows, width = 3000, 64
    table = make(rows, width).to(dtype)
    compact, whole, cached = searches(table, device, spare_rows=400)
    users = users_of(dtype, device, 4, width)
    exclude = torch.randint(-1, rows, (4, 40), generator=torch.Generator().manual_seed(2))
    # The very best are among them.
    every = torch.ones(rows, dtype=torch.bool, device=device)
    best = whole.search(users, 20, exclude=None, allow=every).items
    exclude = torch.cat([exclude.to(device), best[:, ::2]], dim=1)
    some = (torch.arange(rows, device=device) % 3 > 0).index_fill(0, best[0, :5], False)
    for k in (1, 7, 30):
        for left_out in (None, exclude):
            for allow in (every, some):
                found = compact.search(users, k, exclude=left_out, allow=allow)
                expected = whole.search(users, k, exclude=left_out, allow=allow)
                same(found, expected, users, table)
                assert bool(allow[found.items].all())
                if left_out is not None:
                    assert not bool((found.items[:, :, None] == left_out[:, None]).any())
    shown = compact.statistics()
    assert shown["search"] == "compact"
    assert (shown["searches"], shown["search_streams"], shown["search_fallbacks"]) == (12, 0, 0)
    assert shown["search_rows"] == 4 * sum(400 + 8 * 4 * k for k in (1, 7, 30))
    # What is read is not counted as asked for: the layers look it up, too.
    assert cached.stats.lookups == 0


@devices
@dtypes
def test_where_products_are_exact_so_are_ties(device: str, dtype: torch.dtype) -> None:
    # Unit vectors of plus and minus a quarter, each five times: all scores are ties of some.
    table = repeated(2000, 16).sign().to(dtype)
    compact, whole, _ = searches(table, device, spare_rows=600)
    users = normal(3, 16, seed=1).sign().to(device, dtype)
    allow = torch.ones(2000, dtype=torch.bool, device=device)
    exclude = torch.tensor([[3, 9, -1], [100, 101, 102], [-1, -7, -1900]], device=device)
    for k in (1, 4, 12):
        found = compact.search(users, k, exclude=exclude, allow=allow)
        expected = whole.search(users, k, exclude=exclude, allow=allow)
        assert found.items.tolist() == expected.items.tolist()
        assert found.scores.tolist() == expected.scores.tolist()


@devices
def test_where_too_many_rows_may_be_the_best_the_whole_table_is_searched(device: str) -> None:
    table = alike(2000, 32)
    compact, whole, cached = searches(table, device, spare_rows=100)
    users = torch.ones(2, 32, device=device)
    allow = torch.ones(2000, dtype=torch.bool, device=device)
    streamed = StreamedCatalogue(cached)
    for number in range(1, 4):
        found = compact.search(users, 3, exclude=None, allow=allow)
        expected = streamed.search(users, 3, exclude=None, allow=allow)
        assert torch.equal(found.items, expected.items)
        assert torch.equal(found.scores, expected.scores)
        same(found, whole.search(users, 3, exclude=None, allow=allow), users, table)
        shown = compact.statistics()
        names = ("searches", "search_streams", "search_fallbacks")
        assert [shown[name] for name in names] == [number] * 3
    assert compact.problem == ""
    for _ in range(100):
        compact.search(users, 3, exclude=None, allow=allow)
    assert "103 of 103 searches needed the whole table" in compact.problem


def test_one_row_too_many_is_noticed() -> None:
    # Only the best 41 are equally good; others are far away.
    table = torch.cat([torch.eye(8)[:1].repeat(41, 1), torch.eye(8)[1:2].repeat(400, 1)])
    allow = torch.ones(len(table), dtype=torch.bool)
    for spare, fallbacks in ((33, 0), (32, 1), (31, 1)):
        compact, _, _ = searches(table, "cpu", spare_rows=spare, rows_per_item=8)
        found = compact.search(torch.eye(8)[:1], 1, exclude=None, allow=allow)
        assert found.items.tolist() == [[0]]
        assert compact.statistics()["search_fallbacks"] == fallbacks


@dtypes
def test_zero_rows_and_few_that_are_left(dtype: torch.dtype) -> None:
    # In float16 the unit vector of a row of zeros is not finite, and what is found is as before.
    table = zeros_in_it(900, 24).to(dtype)
    compact, whole, _ = searches(table, "cpu", spare_rows=300)
    users = users_of(dtype, "cpu", 2, 24)
    allow = torch.zeros(900, dtype=torch.bool).index_fill(0, torch.tensor([3, 4, 6, 700]), True)
    finite = allow & F.normalize(table, dim=-1).isfinite().all(dim=1)
    for kept in (allow, finite, torch.zeros_like(allow)):
        found, expected = (c.search(users, 10, exclude=None, allow=kept) for c in (compact, whole))
        assert torch.equal(found.items, expected.items)
        torch.testing.assert_close(found.scores, expected.scores, equal_nan=True)
        assert int((found.items[0] < 0).sum()) == 10 - int(kept.sum())
    assert compact.statistics()["search_fallbacks"] == 0


def test_a_user_who_is_not_finite_is_answered_as_before() -> None:
    compact, _, cached = searches(random(900, 8), "cpu", spare_rows=100)
    users = torch.full((1, 8), torch.nan)
    allow = torch.ones(900, dtype=torch.bool)
    expected = StreamedCatalogue(cached).search(users, 3, exclude=None, allow=allow)
    found = compact.search(users, 3, exclude=None, allow=allow)
    assert found.items.tolist() == expected.items.tolist()
    assert compact.statistics()["search_fallbacks"] == 1


def test_where_most_rows_would_be_read_the_whole_table_comes_by() -> None:
    table = random(300, 16)
    compact, whole, _ = searches(table, "cpu")
    users, allow = users_of(torch.float32, "cpu", 2, 16), torch.ones(300, dtype=torch.bool)
    for k in (1, 500):
        found = compact.search(users, k, exclude=None, allow=allow)
        same(found, whole.search(users, k, exclude=None, allow=allow), users, table)
    shown = compact.statistics()
    assert (shown["search_streams"], shown["search_fallbacks"], shown["search_rows"]) == (2, 0, 0)
    assert compact.search(users[:0], 3, exclude=None, allow=allow).items.shape == (0, 3)


def test_many_users_are_searched_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 4000
    table = random(rows, 32)
    compact, whole, _ = searches(table, "cpu", spare_rows=150, rows_per_item=4)
    users, allow = users_of(torch.float32, "cpu", 7, 32), torch.ones(rows, dtype=torch.bool)
    exclude = torch.arange(7 * 5).reshape(7, 5) * 11
    expected = whole.search(users, 5, exclude=exclude, allow=allow)
    monkeypatch.setattr(compact_catalogue, "_SCORE_BYTES", 3 * 4 * rows)
    same(compact.search(users, 5, exclude=exclude, allow=allow), expected, users, table)
    assert compact.statistics()["search_rows"] == 3 * 150 + 4 * 5 * 7
    # As many groups as would read the codes too often.
    monkeypatch.setattr(compact_catalogue, "_MOST_GROUPS", 2)
    same(compact.search(users, 5, exclude=exclude, allow=allow), expected, users, table)
    assert compact.statistics()["search_streams"] == 1


def test_codes_are_used_a_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    table, users = random(1000, 16), users_of(torch.float32, "cpu", 3, 16)
    host, cpu = CachedTable(table, 1).host, torch.device("cpu")
    whole = UnitCodes(host, cpu).bounds(users)
    monkeypatch.setattr(unit_codes, "_MADE_CODES", 16 * 70)
    parts = UnitCodes(host, cpu)
    monkeypatch.setattr(unit_codes, "_PIECE_CODES", 16 * 300)
    for one, other in zip(parts.bounds(users), whole, strict=True):
        torch.testing.assert_close(one, other)


def test_after_a_swap_the_new_rows_are_searched() -> None:
    old, new = random(1000, 16), normal(1000, 16, seed=9)
    compact, _, cached = searches(old, "cpu", spare_rows=300)
    users, allow = users_of(torch.float32, "cpu", 2, 16), torch.ones(1000, dtype=torch.bool)
    for version, table in enumerate((old, new, old)):
        if version:
            cached.swap(table.clone(), version=version)
        expected = ResidentCatalogue(F.normalize(table, dim=-1)).search(
            users, 5, exclude=None, allow=allow
        )
        same(compact.search(users, 5, exclude=None, allow=allow), expected, users, table)
    assert compact.statistics()["search_fallbacks"] == 0


def test_a_swap_in_the_middle_of_a_search_mixes_no_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old, new = random(1000, 16), normal(1000, 16, seed=9)
    compact, _, cached = searches(old, "cpu", spare_rows=300)
    gather = cached.gather_versioned

    def swap_first(ids: Tensor, *, counted: bool = True) -> tuple[Tensor, int]:
        if cached.version == 0:
            cached.swap(new, version=1)
        return gather(ids, counted=counted)

    monkeypatch.setattr(cached, "gather_versioned", swap_first)
    users, allow = users_of(torch.float32, "cpu", 2, 16), torch.ones(1000, dtype=torch.bool)
    found = compact.search(users, 5, exclude=None, allow=allow)
    expected = ResidentCatalogue(F.normalize(new, dim=-1)).search(
        users, 5, exclude=None, allow=allow
    )
    same(found, expected, users, new)
    assert compact.statistics()["search_fallbacks"] == 1


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_scores_are_within_their_bounds(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    rows, width = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 80))
    number = st.floats(-1e3, 1e3, width=16, allow_subnormal=False)
    few = st.lists(number, min_size=1, max_size=8)
    # Few numbers make large ones, equal ones and zeros likely; the rest of the row is noise.
    table = normal(rows, width, seed=data.draw(st.integers(0, 99)))
    for value in data.draw(few):
        table[data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, width - 1))] = value
    table *= data.draw(st.sampled_from([1e-3, 1.0, 1e2]))
    users = (normal(3, width, seed=7) * data.draw(st.sampled_from([1e-2, 1.0, 30.0]))).to(dtype)
    cached = CachedTable(table.to(dtype), 1)
    lower, upper = UnitCodes(cached.host, torch.device("cpu")).bounds(users)
    vectors = F.normalize(table.to(dtype), dim=-1)
    exact = users.double() @ vectors.double().T
    searched = (users @ vectors.T).float()
    # In float16 the unit vector of a row of zeros is not finite: its score may be any.
    known = vectors.isfinite().all(dim=1)
    assert bool(lower[:, ~known].isneginf().all())
    assert bool(upper[:, ~known].isposinf().all())
    for score in (exact[:, known], searched[:, known]):
        assert bool(((lower[:, known] <= score) & (score <= upper[:, known])).all())


def test_factors_that_may_be_rounded_widen_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    users = users_of(torch.float32, "cpu", 2, 16)
    codes = UnitCodes(CachedTable(random(50, 16), 1).host, torch.device("cpu"))
    width = {}
    for precision in ("highest", "high", "medium"):
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda now=precision: now)
        lower, upper = codes.bounds(users)
        width[precision] = float((upper - lower).mean())
    assert width["high"] == pytest.approx(width["highest"] + 4 * 2.0**-9, rel=1e-3)
    assert width["medium"] == pytest.approx(width["highest"] + 4 * 2.0**-6, rel=1e-3)


#: Of four numbers, of which one or all or none are not 0, and these of one size: their length, and
#: what they are divided by it, have no rounding.
rows_of_exact_length = st.builds(
    lambda signs, size, place: [
        size * sign * (place is None or place == i) for i, sign in enumerate(signs)
    ],
    st.lists(st.sampled_from([-1, 1]), min_size=4, max_size=4),
    st.sampled_from([0, 1, 2, 4]),
    st.sampled_from([None, 0, 1, 2, 3]),
)


@settings(max_examples=40, deadline=None)
@given(
    numbers=st.lists(rows_of_exact_length, min_size=40, max_size=120),
    user=st.lists(st.integers(-2, 2), min_size=4, max_size=4),
    k=st.integers(1, 12),
    spare=st.integers(0, 20),
    excluded=st.lists(st.integers(-50, 39), max_size=6),
)
def test_ties_zeros_and_repeats_in_any_mix(
    numbers: list[list[int]], user: list[int], k: int, spare: int, excluded: list[int]
) -> None:
    table = torch.tensor(numbers, dtype=torch.float32)
    compact, _, cached = searches(table, "cpu", spare_rows=spare, rows_per_item=1)
    users = torch.tensor([user], dtype=torch.float32)
    exclude = torch.tensor([excluded], dtype=torch.int64)
    allow = torch.arange(len(table)) % 7 > 0
    found = compact.search(users, k, exclude=exclude, allow=allow)
    expected = StreamedCatalogue(cached).search(users, k, exclude=exclude, allow=allow)
    # All products are exact, so that they are the same in a matrix of fewer rows.
    assert torch.equal(found.items, expected.items)
    assert torch.equal(found.scores, expected.scores)


@dtypes
def test_the_bounds_are_narrow_enough_to_be_of_use(dtype: torch.dtype) -> None:
    table = random(5000, 128).to(dtype)
    codes = UnitCodes(CachedTable(table, 1).host, torch.device("cpu"))
    users = users_of(dtype, "cpu", 4, 128)
    lower, upper = codes.bounds(users)
    spread = (users.float() @ F.normalize(table, dim=-1).float().T).std()
    assert float((upper - lower).mean()) < 0.5 * float(spread)
    assert codes.num_bytes == 5000 * (128 + 8)
    assert codes.num_bytes < 0.55 * 5000 * 128 * 2


def test_a_type_without_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="float64"):
        UnitCodes(CachedTable(random(4, 4).double(), 1).host, torch.device("cpu"))
