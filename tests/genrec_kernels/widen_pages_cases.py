"""The wide copy of float8 pages, which the CUTLASS kernels read, against its plain twin.

Not collected by itself, see `test_triton_kernels.py`.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from genrec_kernels import reference
from genrec_kernels.fp8_pages import FP8, WidePages
from genrec_kernels.reference.widen_pages import widen_pages as widen_pages_reference
from genrec_kernels.triton import widen_pages as kernels
from genrec_kernels.triton.widen_pages import widen_pages

from .paged_inputs import (
    DEVICE,
    LAYOUTS,
    ON_GPU,
    TOLERANCE,
    Case,
    make_case,
    narrowed,
    poison,  # noqa: F401  # a fixture
)

#: The interpreter cuts bfloat16 off where a GPU rounds.
CLOSE = {torch.bfloat16: 0 if ON_GPU else 2**-7, torch.float16: 0, torch.float32: 0}


def readable(pages: Tensor) -> Tensor:
    """Float8 numbers, all of which the interpreter knows: it takes NaN for 480."""
    bits = pages.view(torch.uint8)
    return pages if ON_GPU else bits.where(bits & 127 != 127, 0).view(FP8)


def in_eight_bits(case: Case) -> Case:
    case = narrowed(case)
    return replace(case, kv_pages=readable(case.kv_pages))


def options_of(case: Case, max_keys: int | None = None) -> dict[str, object]:
    most = case.page_table.shape[1] * case.kv_pages.shape[2]
    return {
        "page_table": case.page_table,
        "row_offsets": case.row_offsets,
        "key_limits": case.key_limits,
        "max_keys": most if max_keys is None else max_keys,
        "dtype": case.q.dtype,
    }


def seen_pages(case: Case) -> Tensor:
    """bool [B, M]: pages of which a row of the request sees a key."""
    page_size = case.kv_pages.shape[2]
    starts = case.row_offsets.tolist()
    first_key = torch.arange(case.page_table.shape[1]) * page_size
    limits = (case.key_limits[a:b].cpu() for a, b in itertools.pairwise(starts))
    return torch.stack([(one[:, None] > first_key).any(0) for one in limits])


def check(case: Case, made: WidePages, expected: WidePages) -> None:
    assert made.kv_pages.is_contiguous()
    assert made.kv_pages.dtype == case.q.dtype
    assert torch.equal(made.page_table, expected.page_table)
    torch.testing.assert_close(
        made.kv_pages, expected.kv_pages, rtol=CLOSE[case.q.dtype], atol=0, equal_nan=True
    )


def widened(case: Case, **options: object) -> None:
    """Both must leave alike what no row sees: `poison` fills it with NaN, as the twin does."""
    assert case.kv_scales is not None
    given = options_of(case) | options
    made = widen_pages(case.kv_pages, case.kv_scales, **given)
    check(case, made, widen_pages_reference(case.kv_pages, case.kv_scales, **given))


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("page", [16, 48, 64])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_equals_the_twin(layout: list[tuple[int, int]], page: int, dtype: torch.dtype) -> None:
    case = in_eight_bits(make_case(layout, dtype=dtype, page=page))
    widened(case)
    widened(case, max_keys=max(cached for cached, _ in layout))


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(("heads", "width"), [(1, 8), (3, 20), (2, 64)] + [(4, 256)] * ON_GPU)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_heads(heads: int, width: int, dtype: torch.dtype) -> None:
    widened(in_eight_bits(make_case([(33, 3), (70, 2)], heads=heads, width=width, dtype=dtype)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_number_of_eight_bits(dtype: torch.dtype) -> None:
    """Times powers of two nothing is rounded, so that the interpreter has no excuse."""
    case = make_case([(16, 1)], heads=1, width=8, dtype=dtype, candidates=True)
    bits = torch.arange(256, dtype=torch.uint8, device=DEVICE).view(1, 1, 16, 16)
    scales = torch.tensor([[0.25], [8.0]], device=DEVICE)
    case = replace(
        case, kv_pages=readable(bits.view(FP8)), kv_scales=scales,
        page_table=torch.zeros(1, 1, dtype=torch.int32, device=DEVICE),
    )  # fmt: skip
    assert case.kv_scales is not None
    made, _ = widen_pages(case.kv_pages, case.kv_scales, **options_of(case))
    expected, _ = widen_pages_reference(case.kv_pages, case.kv_scales, **options_of(case))
    torch.testing.assert_close(made, expected, rtol=0, atol=0, equal_nan=True)
    assert int(made.isnan().sum()) == 2 * ON_GPU


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("most_at", [0, 17, 299])
def test_the_row_that_sees_most_is_anywhere(most_at: int) -> None:
    """More rows than a program looks at together, of which one sees more than the others."""
    case = in_eight_bits(make_case([(20, 3), (50, 300), (0, 2)], candidates=True))
    limits = case.key_limits.clone()
    limits[3:303] = 1
    limits[3 + most_at] = 50
    case = replace(case, key_limits=limits)
    assert seen_pages(case).sum(1).tolist() == [2, 4, 0]
    widened(case)


@pytest.mark.usefixtures("poison")
def test_only_what_is_seen_is_copied() -> None:
    case = in_eight_bits(make_case([(40, 2), (60, 0), (16, 1), (33, 1)], candidates=True))
    assert case.kv_scales is not None
    made = widen_pages(case.kv_pages, case.kv_scales, **options_of(case))
    copied = ~made.kv_pages.isnan().all(dim=(1, 2, 3)).view(made.page_table.shape)
    assert torch.equal(copied.cpu(), seen_pages(case))


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(
    "strides",
    [
        lambda pages: pages.transpose(1, 2).contiguous().transpose(1, 2),
        lambda pages: pages.permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3),
        lambda pages: torch.stack([pages, pages], 1)[:, 0],
        lambda pages: torch.stack([pages, pages], 3).flatten(3)[..., : pages.shape[3]],
    ],
    ids=["heads beside each other", "heads outermost", "larger pages", "wider rows"],
)
def test_page_layouts(strides) -> None:
    case = in_eight_bits(make_case([(70, 3), (33, 20)], dtype=torch.float16, page=64))
    # Copying knows no float8 everywhere: its bits are laid out.
    pages = strides(case.kv_pages.view(torch.uint8)).view(FP8)
    assert not pages.is_contiguous()
    assert torch.equal(pages.view(torch.uint8), case.kv_pages.view(torch.uint8))
    widened(replace(case, kv_pages=pages))


@pytest.mark.usefixtures("poison")
def test_indices_of_either_width_and_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "ELEMENTS", 64)
    case = in_eight_bits(make_case([(33, 3), (40, 5)], page=48, dtype=torch.float16))
    widened(
        replace(
            case, page_table=case.page_table.long(), row_offsets=case.row_offsets.to(torch.int32)
        )
    )


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layout", list(LAYOUTS.values())[1:], ids=list(LAYOUTS)[1:])
def test_attention_over_the_copy_is_that_over_the_pages(
    layout: list[tuple[int, int]], dtype: torch.dtype
) -> None:
    """Scores and values of the copy under its own table; times under the caller's."""
    case = narrowed(make_case(layout, dtype=dtype, with_bias=False))
    assert case.kv_scales is not None
    made = widen_pages(case.kv_pages, case.kv_scales, **options_of(case))
    wide = case.options | {
        "kv_pages": made.kv_pages.double(),
        "page_table": made.page_table,
        "timestamp_pages": torch.zeros(made.kv_pages.shape[::2][:2], dtype=torch.int64),
        "kv_scales": None,
    }
    case.check(
        reference.paged_hstu_attention(
            *(x.double() for x in case.rows.values()), **wide
        ).to(dtype)
    )  # fmt: skip
