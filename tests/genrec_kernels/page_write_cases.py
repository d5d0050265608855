"""Triton's page write against its plain twin.

Not collected by itself, see `test_triton_kernels.py`.
"""

from __future__ import annotations

import pytest
import torch

from genrec_kernels.fp8_pages import FP8, narrow_factors
from genrec_kernels.page_write import page_write
from genrec_kernels.reference.page_write import page_write as page_write_reference
from genrec_kernels.triton.fp8_pages import narrow_queries

from .paged_inputs import (
    DEVICE,
    ON_GPU,
    TOLERANCE,
    poison,  # noqa: F401  # a fixture
)

SKIP = [-1]
#: Slots, of 192, of rows one after the other; groups of 16 of them are written at once.
SLOTS = {
    "whole groups": [*range(32, 96)],
    "from the middle of a group": [*range(5, 75)],
    "whole groups from a row in the middle": [*SKIP * 5, *range(64, 112)],
    "cut": [n if n % 21 else -1 for n in range(64, 128)],
    "two requests": [*range(23), *SKIP * 3, *range(64, 104), *SKIP * 3],
    "one run beside another": [*range(32, 48), *range(16), *range(120, 144), *range(144, 147)],
    "a group short of a row at the end": [*range(48, 79)],
    "a group short of its first row": [*range(17, 32), *range(64, 80)],
    "one group in three parts": [*range(16, 24), *range(64, 80), 31, *range(24, 31)],
    "padding that counts up": [-3, -2, -1, *range(20), -2, -1],
    "backwards": [*range(39, 15, -1)],
    "every other": [*range(0, 48, 2)],
    "any": torch.randperm(192, generator=torch.Generator().manual_seed(0))[:24].tolist(),
    "one": [77],
    "none": SKIP * 40,
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("heads", "width"), [(2, 16), (3, 24)])
@pytest.mark.parametrize("rows", [0, 1, 37])
def test_page_write(dtype: torch.dtype, heads: int, width: int, rows: int) -> None:
    g = torch.Generator().manual_seed(0)
    kvu = torch.randn(rows, 3, heads, width, generator=g).to(DEVICE, dtype)
    k, v, _ = kvu.unbind(1)
    slots = torch.randperm(5 * 16, generator=g)[:rows].to(DEVICE)
    slots[3::7] = -1
    times = torch.randint(0, 2**40, (rows,), generator=g).to(DEVICE)
    kv = torch.full((5, heads, 16, 2 * width), torch.nan, device=DEVICE, dtype=dtype)
    kv_pages = kv.transpose(1, 2).contiguous().transpose(1, 2)
    time_pages = torch.full((5, 16, 2), -1, device=DEVICE)[..., 0]
    expected, expected_times = kv_pages.clone(), time_pages.clone()
    page_write_reference(
        k, v, slots, kv_pages=expected, timestamps=times, timestamp_pages=expected_times
    )
    page_write(
        k, v, slots,
        kv_pages=kv_pages, timestamps=times, timestamp_pages=time_pages, backend="triton",
    )  # fmt: skip
    torch.testing.assert_close(kv_pages, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(time_pages, expected_times)


def test_page_write_without_times_and_into_another_dtype() -> None:
    k, v = torch.randn(2, 3, 2, 16, device=DEVICE).unbind()
    pages = torch.zeros(2, 2, 16, 32, device=DEVICE, dtype=torch.float16)
    expected = pages.clone()
    slots = torch.tensor([17, 0, 31], device=DEVICE)
    page_write_reference(k, v, slots, kv_pages=expected)
    page_write(k, v, slots, kv_pages=pages, backend="triton")
    assert torch.equal(pages, expected)


# Triton's interpreter loses a power of two where rounding to float8 reaches the next one, and NaN.
@pytest.mark.parametrize("rounded", [False] + [True] * ON_GPU)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_page_write_of_eight_bits(dtype: torch.dtype, rounded: bool) -> None:
    g = torch.Generator().manual_seed(0)
    numbers = torch.randn(2, 40, 3, 24, generator=g) * 100
    scales = torch.tensor([[0.7, 1.3, 0.01], [2.0, 0.5, 0.31]], device=DEVICE)
    if rounded:
        numbers[:, 5, 1, :4] = torch.tensor([1e4, -1e4, torch.nan, 0.0])
    else:
        numbers = numbers.to(FP8).float()
        scales = torch.tensor([[1.0, 2.0, 0.25], [4.0, 0.5, 1.0]], device=DEVICE)
    k, v = numbers.to(DEVICE, dtype).unbind()
    slots = torch.randperm(5 * 16, generator=g)[:40].to(DEVICE)
    slots[3::7] = -1
    pages = torch.full((5, 3, 16, 48), torch.nan, device=DEVICE).to(FP8)
    expected = pages.clone()
    page_write_reference(k, v, slots, kv_pages=expected, kv_scales=scales)
    page_write(k, v, slots, kv_pages=pages, kv_scales=scales, backend="triton")
    torch.testing.assert_close(pages.float(), expected.float(), rtol=0, atol=0, equal_nan=True)
    assert int(expected.float().isfinite().sum()) > 30 * 3 * 48


@pytest.mark.parametrize("slots", SLOTS.values(), ids=SLOTS)
@pytest.mark.parametrize(
    ("page", "heads", "width"), [(16, 2, 24), (64, 1, 64), (16, 1, 128), (64, 1, 256), (48, 1, 1)]
)
def test_slots_of_eight_bits(slots: list[int], page: int, heads: int, width: int) -> None:
    g = torch.Generator().manual_seed(0)
    numbers = torch.randn(len(slots), 2, heads, width, generator=g).to(FP8)
    k, v = numbers.to(DEVICE, torch.bfloat16).unbind(1)
    times = torch.randint(0, 2**40, (len(slots),), generator=g).to(DEVICE)
    # By which a number of float8 stays one, as above.
    scales = torch.tensor([[0.5, 1.0], [0.25, 0.125]], device=DEVICE)[:, :heads]
    pages = torch.full((192 // page, heads, page, 2 * width), torch.nan, device=DEVICE).to(FP8)
    time_pages = torch.full((192 // page, page), -1, device=DEVICE)
    expected, expected_times = pages.clone(), time_pages.clone()
    at = torch.tensor(slots, device=DEVICE)
    page_write_reference(
        k, v, at,
        kv_pages=expected, kv_scales=scales, timestamps=times, timestamp_pages=expected_times,
    )  # fmt: skip
    page_write(
        k, v, at,
        kv_pages=pages, kv_scales=scales, timestamps=times, timestamp_pages=time_pages,
        backend="triton",
    )  # fmt: skip
    torch.testing.assert_close(pages.float(), expected.float(), rtol=0, atol=0, equal_nan=True)
    assert int(pages.float().isfinite().sum()) == 2 * heads * width * sum(n >= 0 for n in slots)
    assert torch.equal(time_pages, expected_times)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("rows", "heads", "width"), [(0, 2, 16), (1, 1, 8), (37, 3, 24)])
def test_queries_of_eight_bits(dtype: torch.dtype, rows: int, heads: int, width: int) -> None:
    g = torch.Generator().manual_seed(0)
    # Numbers that fit, for the interpreter, as above.
    numbers = torch.randn(rows, 2, heads, width, generator=g).to(FP8).float()
    q, _ = numbers.to(DEVICE, dtype).unbind(1)
    k_scales = 2.0 ** torch.arange(1, heads + 1, device=DEVICE)
    found = narrow_queries(q, k_scales, 2.0)
    assert torch.equal(found.float(), narrow_factors(q, 2.0 / k_scales).float())
    assert torch.equal(found.float(), q.float() * k_scales[:, None] / 2)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("rows", "heads", "width"),
    [(0, 2, 16), (1, 1, 8), (16, 1, 64), (37, 3, 24), (40, 2, 1), (33, 2, 128), (17, 1, 256)],
)
@pytest.mark.parametrize("with_slots", [False, True])
def test_queries_beside_a_page_write(
    dtype: torch.dtype, rows: int, heads: int, width: int, with_slots: bool
) -> None:
    g = torch.Generator().manual_seed(0)
    # Numbers that fit, for the interpreter, as above; queries as a layer has them.
    numbers = torch.randn(rows, 3, heads, width, generator=g).to(FP8)
    q, k, v = numbers.to(DEVICE, dtype).unbind(1)
    slots = torch.full((rows,), -1, device=DEVICE)
    if with_slots:
        slots = torch.randperm(5 * 16, generator=g)[:rows].to(DEVICE)
        slots[3::7] = -1
    scales = (2.0 ** -torch.arange(2 * heads, device=DEVICE)).view(2, heads)
    pages = torch.full((5, heads, 16, 2 * width), torch.nan, device=DEVICE).to(FP8)
    expected = pages.clone()
    of_twin = page_write_reference(
        k, v, slots, kv_pages=expected, kv_scales=scales, q=q, qk_scale=0.125
    )
    found = page_write(
        k, v, slots, kv_pages=pages, kv_scales=scales, q=q, qk_scale=0.125, backend="triton"
    )
    assert found is not None
    assert of_twin is not None
    assert found.is_contiguous()
    assert torch.equal(found.float(), of_twin.float())
    torch.testing.assert_close(pages.float(), expected.float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("which", ["two requests", "any", "one", "none"])
def test_queries_are_the_same_bits_in_either_kernel(which: str) -> None:
    g = torch.Generator().manual_seed(0)
    # Some too large, and one no number; the axis of dimensions is not the last in memory.
    numbers = torch.randn(len(SLOTS[which]), 3, 72, 2, generator=g) * 30
    numbers[0, 0, 5, 1] = torch.nan
    q, k, v = numbers.to(DEVICE, torch.bfloat16).transpose(2, 3).unbind(1)
    scales = torch.tensor([[0.7, 0.013], [2.0, 0.31]], device=DEVICE)
    at = torch.tensor(SLOTS[which], device=DEVICE)
    pages = torch.zeros(3, 2, 64, 144, device=DEVICE).to(FP8)
    alone = pages.clone()
    options = {"kv_scales": scales, "backend": "triton"}
    found = page_write(k, v, at, kv_pages=pages, q=q, qk_scale=0.37, **options)
    assert page_write(k, v, at, kv_pages=alone, **options) is None
    assert found is not None
    expected = narrow_queries(q.contiguous(), scales[0], 0.37)
    assert torch.equal(found.view(torch.uint8), expected.view(torch.uint8))
    assert torch.equal(pages.view(torch.uint8), alone.view(torch.uint8))
