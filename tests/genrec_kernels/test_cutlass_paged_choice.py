"""Which paged inputs the CUTLASS kernels take, when they are faster, and how keys are cut."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from genrec_kernels.cutlass import paged_hstu_attention
from genrec_kernels.cutlass.paged_hstu_attention import MOST_BIAS_BYTES, unsupported
from genrec_kernels.cutlass.variants import paged_variant_of
from genrec_kernels.paged_sizes import PagedSizes

SIZES = PagedSizes(
    num_rows=3200,
    num_requests=32,
    num_heads=16,
    head_dim=64,
    page_size=64,
    dtype=torch.bfloat16,
    max_new_rows=100,
    max_keys=2048,
    has_bias=True,
    same_bias=True,
)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"head_dim": 32}, "heads of 64, 128, 256"),
        ({"dtype": torch.float32}, "bfloat16 and float16"),
        ({"page_size": 48}, None),
        ({"page_size": 24}, "pages of a multiple of 16 rows, not of 24"),
        ({"same_bias": False, "num_rows": MOST_BIAS_BYTES // 8192}, None),
        (
            {"same_bias": False, "num_rows": MOST_BIAS_BYTES // 8192 + 1},
            f"would take {MOST_BIAS_BYTES >> 20} MiB, more than {MOST_BIAS_BYTES >> 20}",
        ),
        ({"same_bias": False, "has_bias": False, "num_rows": 10**6}, None),
    ],
)
def test_what_the_kernels_do_not_take(
    change: dict[str, Any], problem: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paged_hstu_attention, "compiled_kernels", dict)
    found = unsupported(replace(SIZES, **change))
    assert (found is None) == (problem is None)
    assert (problem or "") in (found or "")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"page_size": 128}, None),
        ({"page_size": 48}, "float8 pages of a multiple of 64 rows"),
        ({"dtype": torch.float16}, "with queries in bfloat16, not of 64 with torch.float16"),
    ],
)
def test_float8_pages_that_the_kernels_do_not_take(
    change: dict[str, Any], problem: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paged_hstu_attention, "compiled_kernels", dict)
    found = unsupported(replace(SIZES, **change), fp8_pages=True)
    assert (found is None) == (problem is None)
    assert (problem or "") in (found or "")


def test_a_kernel_that_was_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    of_tiles = {"hstu_paged_bf16_64_same_bias": None}
    monkeypatch.setattr(paged_hstu_attention, "compiled_kernels", lambda: of_tiles)
    assert unsupported(SIZES) is None
    found = unsupported(replace(SIZES, page_size=16))
    assert found == "hstu_paged_bf16_64_same_bias_page16 was not compiled (make kernels)"


@pytest.mark.parametrize(
    ("change", "expected", "of_fp8"),
    [
        ({}, True, True),
        ({"max_new_rows": 64}, False, True),  # few candidates
        ({"max_new_rows": 64, "same_bias": False}, True, True),
        ({"max_new_rows": 16, "same_bias": False}, False, False),
        ({"num_requests": 1, "num_rows": 100}, False, True),  # one request is cut into parts
        ({"num_requests": 2, "num_rows": 200}, True, True),
        ({"num_requests": 1, "num_rows": 100, "same_bias": False}, True, True),
    ],
)
def test_when_they_are_faster(
    change: dict[str, Any], expected: bool, of_fp8: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paged_hstu_attention, "multiprocessors", lambda _: 132)
    device = torch.device("cuda")
    sizes = replace(SIZES, **change)
    assert paged_hstu_attention.pays(sizes, device) is expected
    assert paged_hstu_attention.pays(sizes, device, fp8_pages=True) is of_fp8


@pytest.mark.parametrize(
    ("requests", "rows", "keys", "splits"),
    [(1, 384, 4096, 11), (2, 384, 4096, 5), (4, 384, 4096, 2), (8, 384, 4096, 1), (1, 100, 700, 2)],
)
def test_parts_run_at_once(
    requests: int, rows: int, keys: int, splits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paged_hstu_attention, "multiprocessors", lambda _: 132)
    sizes = replace(
        SIZES, num_requests=requests, num_rows=requests * rows, max_new_rows=rows, num_heads=4,
        head_dim=256, max_keys=keys, has_bias=False,
    )  # fmt: skip
    variant = paged_variant_of("bf16", 256, bias=False, same_bias=False)
    assert paged_hstu_attention._plan(variant, sizes, torch.device("cuda")).splits == splits
