"""The bias as a matrix, which the CUTLASS kernels read, against its plain twin.

Not collected by itself, see `test_triton_kernels.py`.
"""

from __future__ import annotations

import pytest
import torch

from genrec_kernels import reference
from genrec_kernels.fp8_layout import LARGEST_BIAS
from genrec_kernels.triton import paged_bias as triton_paged_bias
from genrec_kernels.triton.paged_bias import paged_bias

from .paged_inputs import (
    LAYOUTS,
    make_case,
    poison,  # noqa: F401  # a fixture
)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(("same_bias", "rows"), [(True, 1), (False, 1), (False, 4), (False, 8)])
@pytest.mark.parametrize("layout", list(LAYOUTS.values())[1:], ids=list(LAYOUTS)[1:])
def test_bias_matrix(
    layout: list[tuple[int, int]], same_bias: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_paged_bias, "_rows_of_program", lambda _: rows)
    case = make_case(layout, candidates=same_bias)
    assert case.bias is not None
    options = {
        name: getattr(case, name)
        for name in ("timestamp_pages", "page_table", "row_offsets", "key_limits", "timestamps")
    } | {"max_keys": max(cached for cached, _ in layout), "same_bias": same_bias, "scale": 3.0}
    expected = reference.paged_bias(case.bias, **options)
    made = paged_bias(case.bias, **options)
    seen = expected.rows.isfinite()
    torch.testing.assert_close(made.rows[seen], expected.rows[seen])
    torch.testing.assert_close(made.own, expected.own)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("same_bias", [True, False])
def test_bias_matrix_in_half_precision_is_cut(same_bias: bool) -> None:
    case = make_case([(40, 3), (90, 4)], candidates=same_bias)
    assert case.bias is not None
    options = {
        name: getattr(case, name)
        for name in ("timestamp_pages", "page_table", "row_offsets", "key_limits", "timestamps")
    } | {"max_keys": 90, "same_bias": same_bias, "scale": 8000.0, "dtype": torch.float16}
    expected, made = reference.paged_bias(case.bias, **options), paged_bias(case.bias, **options)
    assert made.rows.dtype == torch.float16
    seen = expected.rows.isfinite()
    assert float(made.rows[seen].abs().max()) == LARGEST_BIAS
    torch.testing.assert_close(made.rows[seen], expected.rows[seen])
    torch.testing.assert_close(made.own, expected.own)


def test_rows_that_differ_have_no_bias_in_common() -> None:
    case = make_case([(40, 3), (40, 140)], candidates=True)
    assert case.bias is not None
    case.timestamps[-1] += 1
    made = paged_bias(
        case.bias,
        timestamp_pages=case.timestamp_pages,
        page_table=case.page_table,
        row_offsets=case.row_offsets,
        key_limits=case.key_limits,
        timestamps=case.timestamps,
        max_keys=40,
        same_bias=True,
        scale=1.0,
    )
    assert made.rows[0, :40].isfinite().all()
    assert made.rows[1, :40].isnan().all()
