"""Rows from fast memory or the host's: the Triton kernels against their plain twins.

Not collected by itself: `test_triton_kernels.py` runs it in a process of its own, on the GPU or,
without one, in Triton's interpreter, which must be chosen before Triton is first imported.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genrec_kernels.cached_rows import NO_SLOT, StoredRows, cached_rows, copy_rows, misses_first

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int8)
ROWS = 200_000 if ON_GPU else 60


def stored(rows: int, width: int, dtype: torch.dtype, seed: int = 0) -> StoredRows:
    g = torch.Generator().manual_seed(seed)
    if dtype == torch.int8:
        values = torch.randint(-127, 128, (rows, width), generator=g, dtype=dtype)
        return StoredRows(values, torch.rand(rows, generator=g))
    return StoredRows(torch.randn(rows, width, generator=g).to(dtype))


def moved(store: StoredRows, device: str) -> StoredRows:
    return StoredRows(*(None if part is None else part.to(device) for part in store))  # type: ignore[arg-type]


def pinned(store: StoredRows) -> StoredRows:
    if not ON_GPU:
        return store
    return StoredRows(*(None if part is None else part.pin_memory() for part in store))  # type: ignore[arg-type]


def poisoned(like: StoredRows, rows: int) -> StoredRows:
    values = torch.full((rows, like.values.shape[1]), 99, dtype=like.values.dtype, device=DEVICE)
    if values.is_floating_point():
        values.fill_(torch.nan)
    scales = None if like.scales is None else torch.full((rows,), torch.nan, device=DEVICE)
    return StoredRows(values, scales)


def expected_rows(host: StoredRows, ids: Tensor, dtype: torch.dtype) -> Tensor:
    ids = ids.cpu()
    values = host.values[ids]
    if host.scales is None:
        return values.to(dtype)
    return (values.float() * host.scales[ids][:, None]).to(dtype)


def resident(host: StoredRows, ids: Tensor) -> tuple[Tensor, StoredRows]:
    """Slots in an order of their own, filled by the copy under test."""
    slots = torch.randperm(len(ids), generator=torch.Generator().manual_seed(1))
    slot_of = torch.full((len(host.values),), NO_SLOT, dtype=torch.int32)
    slot_of[ids] = slots.int()
    fast = poisoned(host, len(ids))
    copy_rows(ids.to(DEVICE), slots.to(DEVICE), source=host, target=fast, backend="triton")
    return slot_of.to(DEVICE), fast


BATCHES = {
    "empty": torch.zeros(0, dtype=torch.int64),
    "one": torch.tensor([3]),
    "same-hit": torch.full((37,), 4),
    "same-miss": torch.full((37,), 5),
    "unique": torch.randperm(ROWS, generator=torch.Generator().manual_seed(2)),
    "mixed": torch.randint(0, ROWS, (2 * ROWS + 3,), generator=torch.Generator().manual_seed(3)),
}


@pytest.mark.parametrize("merge_repeats", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [3, 256, 1000] if ON_GPU else [1, 3, 48])
def test_every_row_is_the_tables(width: int, dtype: torch.dtype, merge_repeats: bool) -> None:
    host = pinned(stored(ROWS, width, dtype))
    slot_of, fast = resident(host, torch.arange(0, ROWS, 4))
    before = slot_of.clone()
    # The interpreter cuts float32 down to bfloat16; a GPU rounds.
    scaled = torch.bfloat16 if ON_GPU else torch.float32
    out_dtype = scaled if dtype == torch.int8 else dtype
    for name, ids in BATCHES.items():
        outside = torch.zeros(1, dtype=torch.int32, device=DEVICE)
        rows = cached_rows(
            *(ids.to(DEVICE), slot_of),
            fast=fast,
            host=host,
            outside=outside,
            dtype=out_dtype,
            merge_repeats=merge_repeats,
            backend="triton",
        )
        assert rows.dtype == out_dtype, name
        assert torch.equal(rows.cpu(), expected_rows(host, ids, out_dtype)), name
        assert int(outside) == 0, name
        assert torch.equal(slot_of, before), name


@pytest.mark.parametrize("slots", [0, ROWS])
def test_no_slots_and_slots_for_all(slots: int) -> None:
    host = pinned(stored(ROWS, 5, torch.float32))
    slot_of, fast = resident(host, torch.arange(slots))
    outside = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    ids = BATCHES["mixed"].to(DEVICE)
    rows = cached_rows(
        ids, slot_of, fast=fast, host=host, outside=outside, dtype=torch.float32, backend="triton"
    )
    assert torch.equal(rows.cpu(), expected_rows(host, ids, torch.float32))


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("merge_repeats", [False, True])
def test_ids_out_of_range_are_flagged_and_no_row(backend: str, merge_repeats: bool) -> None:
    host = pinned(stored(ROWS, 7, torch.float16))
    slot_of, fast = resident(host, torch.tensor([0, 9]))
    ids = torch.tensor([0, ROWS, 9, -1, 2, 2**40, -(2**62), ROWS, 2])
    outside = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    rows = cached_rows(
        *(ids.to(DEVICE), slot_of),
        fast=fast,
        host=host,
        outside=outside,
        dtype=torch.float16,
        merge_repeats=merge_repeats,
        backend=backend,  # type: ignore[arg-type]
    ).cpu()
    inside = (ids >= 0) & (ids < ROWS)
    assert torch.equal(rows[inside], host.values[ids[inside]])
    assert bool(rows[~inside].isnan().all())
    assert int(outside) == 1


@pytest.mark.parametrize("bins", [1, 7, 1024])
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_misses_come_first_and_neighbours_together(backend: str, bins: int) -> None:
    slot_of = torch.full((ROWS,), NO_SLOT, dtype=torch.int32)
    slot_of[::3] = torch.arange(len(slot_of[::3]), dtype=torch.int32)
    for name, ids in {**BATCHES, "outside": torch.tensor([5, ROWS, 4, -1, 2**40])}.items():
        order = misses_first(
            ids.to(DEVICE), slot_of.to(DEVICE), bins=bins, backend=backend,  # type: ignore[arg-type]
        ).cpu()  # fmt: skip
        assert order.dtype == torch.int32
        assert torch.equal(order.sort().values, torch.arange(len(ids)).int()), name
        inside = (ids >= 0) & (ids < ROWS)
        safe = torch.where(inside, ids, 0)
        missed = inside & (slot_of[safe] == NO_SLOT)
        key = torch.where(missed, 0, bins) + safe * bins // ROWS
        assert bool((key[order.long()].diff() >= 0).all()), name


@pytest.mark.parametrize("merge_repeats", [False, True])
def test_rows_are_the_same_in_any_order(merge_repeats: bool) -> None:
    host = pinned(stored(ROWS, 5, torch.bfloat16))
    slot_of, fast = resident(host, torch.arange(0, ROWS, 4))
    for name, ids in BATCHES.items():
        there = ids.to(DEVICE)
        for order in (
            misses_first(there, slot_of, bins=8),
            torch.randperm(len(ids), device=DEVICE).int(),
        ):
            outside = torch.zeros(1, dtype=torch.int32, device=DEVICE)
            rows = cached_rows(
                *(there, slot_of), fast=fast, host=host, outside=outside, dtype=torch.bfloat16,
                merge_repeats=merge_repeats, order=order, backend="triton",
            )  # fmt: skip
            assert torch.equal(rows.cpu(), expected_rows(host, ids, torch.bfloat16)), name
            assert int(outside) == 0, name


@pytest.mark.parametrize(("num_bytes", "num_warps"), [(1, 1), (64, 1), (1 << 15, 8)])
def test_rows_are_the_same_for_any_program(num_bytes: int, num_warps: int) -> None:
    from genrec_kernels.triton import cached_rows as kernels

    host = pinned(stored(ROWS, 5, torch.bfloat16))
    slot_of, fast = resident(host, torch.arange(0, ROWS, 4))
    for name, ids in BATCHES.items():
        rows = kernels.cached_rows(
            ids.to(DEVICE), slot_of, fast.values, host.values, None, None,
            torch.zeros(1, dtype=torch.int32, device=DEVICE), torch.bfloat16,
            num_bytes=num_bytes, num_warps=num_warps,
        )  # fmt: skip
        assert torch.equal(rows.cpu(), expected_rows(host, ids, torch.bfloat16)), name


def test_an_order_that_does_not_fit_is_refused() -> None:
    ids, slot_of = torch.zeros(3, dtype=torch.int64), torch.zeros(4, dtype=torch.int32)
    for bins in (0, 1 << 17):
        with pytest.raises(ValueError, match="bins must be"):
            misses_first(ids, slot_of, bins=bins)
    with pytest.raises(ValueError, match="slot_of must be int32"):
        misses_first(ids, slot_of.long())


def test_unmoved_rows_are_left_alone() -> None:
    host = pinned(stored(ROWS, 9, torch.int8))
    fast = poisoned(host, 50)
    ids, slots = torch.tensor([5, 1, 5]).to(DEVICE), torch.tensor([40, 2, 7]).to(DEVICE)
    copy_rows(ids, slots, source=host, target=fast, backend="triton")
    values, scales = fast.values.cpu(), fast.scales
    assert scales is not None
    assert torch.equal(values[slots.cpu()], host.values[ids.cpu()])
    rest = torch.ones(50, dtype=torch.bool)
    rest[slots.cpu()] = False
    assert bool((values[rest] == 99).all())
    assert int(scales.isnan().sum()) == 47


def test_on_its_own_the_reference_agrees() -> None:
    for dtype in DTYPES:
        host = stored(60, 6, dtype)
        ids = torch.arange(0, 60, 7)
        slot_of = torch.full((60,), NO_SLOT, dtype=torch.int32, device=DEVICE)
        slot_of[ids] = torch.arange(len(ids), dtype=torch.int32, device=DEVICE)
        fast = poisoned(host, len(ids))
        there = ids.to(DEVICE)
        copy_rows(there, torch.arange(len(ids)).to(DEVICE), source=host, target=fast)
        asked = torch.randint(0, 60, (100,))
        outside = torch.zeros(1, dtype=torch.int32, device=DEVICE)
        rows = cached_rows(
            *(asked.to(DEVICE), slot_of),
            fast=fast,
            host=host,
            outside=outside,
            dtype=torch.float32,
        )
        assert torch.equal(rows.cpu(), expected_rows(host, asked, torch.float32))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"ids": torch.zeros(2, dtype=torch.int32)}, "ids must be int64"),
        ({"slot_of": torch.zeros(8, dtype=torch.int32)}, r"int32 \[9\]"),
        ({"fast": StoredRows(torch.zeros(2, 4))}, "one width"),
        ({"fast": StoredRows(torch.zeros(2, 3, dtype=torch.int8))}, "one width"),
        ({"host": StoredRows(torch.zeros(3, 9).T)}, "contiguous"),
        ({"host": StoredRows(torch.zeros(9, 3), torch.zeros(9))}, "scaled or not"),
        ({"dtype": torch.int8}, "as floats"),
        ({"order": torch.zeros(3, dtype=torch.int32)}, "one place an id"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], text: str) -> None:
    arguments: dict[str, object] = {
        "ids": torch.zeros(2, dtype=torch.int64),
        "slot_of": torch.full((9,), NO_SLOT, dtype=torch.int32),
        "fast": StoredRows(torch.zeros(2, 3)),
        "host": StoredRows(torch.zeros(9, 3)),
        "outside": torch.zeros(1, dtype=torch.int32),
        "dtype": torch.float32,
    }
    arguments |= change
    ids, slot_of = arguments.pop("ids"), arguments.pop("slot_of")
    with pytest.raises(ValueError, match=text):
        cached_rows(ids, slot_of, **arguments)  # type: ignore[arg-type]
