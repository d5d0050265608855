"""The public op of attention in eight bits, without a GPU; `fp8_cases.py` runs it on one."""

from __future__ import annotations

import pytest
import torch

from genrec_kernels.cutlass.hstu_attention_fp8 import unsupported
from genrec_kernels.dispatch import BackendUnavailable, use_backend
from genrec_kernels.fp8_layout import (
    KEY_OF_PLACE,
    LARGEST,
    LARGEST_FACTOR,
    PLACES,
    Fp8Scales,
    first_value_of,
    largest_factor,
    places,
)
from genrec_kernels.fp8_rows import head_scales, to_fp8
from genrec_kernels.hstu_attention import hstu_attention
from genrec_kernels.hstu_attention_fp8 import hstu_attention_fp8
from genrec_kernels.jagged import JaggedRows
from genrec_kernels.reference.fp8_rows import values_of

ROWS = JaggedRows(torch.tensor([40, 0, 3]), torch.tensor([2, 5, 0]))
LIMITS = torch.tensor([*range(40), 40, 40, *[0] * 5, *range(3)])
OPTIONS = {"rows": ROWS, "key_limits": LIMITS, "alpha": 0.125, "norm_length": 64}


def inputs(width: int = 64) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(50, 3, 2, width, generator=random).unbind(1)


def test_every_key_has_a_place() -> None:
    assert sorted(KEY_OF_PLACE) == list(range(16))
    # One thread's scores: columns 0, 1, 8 and 9, or 2, 3, 10 and 11.
    assert KEY_OF_PLACE[:8] == (0, 1, 8, 9, 2, 3, 10, 11)


def test_sequences_do_not_share_places() -> None:
    random = torch.Generator().manual_seed(0)
    for _ in range(50):
        lengths = torch.randint(0, 400, (20,), generator=random) * torch.randint(
            0, 2, (20,), generator=random
        )
        offsets = [0, *lengths.cumsum(0).tolist()]
        first = [first_value_of(offset, i) for i, offset in enumerate(offsets)]
        for i, length in enumerate(lengths.tolist()):
            assert first[i] + -(-length // PLACES) * PLACES <= first[i + 1]
        assert first[-1] <= places(offsets[-1], len(lengths))


def test_values_come_back() -> None:
    q, k, v = inputs()
    operands = to_fp8(q, k, v, rows=ROWS)
    back = values_of(operands, offsets=ROWS.offsets).float() * operands.scales.v[:, None]
    assert float((back - v).norm() / v.norm()) < 0.04
    factor = largest_factor(q.shape[2])
    for x, scale, most in zip((q, k, v), operands.scales, (factor, factor, LARGEST), strict=True):
        assert torch.allclose(scale * most, x.abs().amax((0, 2)))


@pytest.mark.parametrize("width", [24, *LARGEST_FACTOR])
def test_no_sum_of_products_leaves_half_precision(width: int) -> None:
    factor = largest_factor(width)
    assert torch.tensor(factor).to(torch.float8_e4m3fn).float() == factor
    assert width * factor**2 < torch.finfo(torch.float16).max
    x = torch.full((50, 2, width), 1e9)
    ones = torch.ones(2)
    operands = to_fp8(x, -x, x, rows=ROWS, scales=Fp8Scales(ones, ones, ones))
    assert operands.q.float().eq(factor).all()
    assert operands.k.float().eq(-factor).all()


def test_heads_of_zeros_and_no_rows() -> None:
    zeros = torch.zeros(50, 2, 64)
    assert hstu_attention_fp8(zeros, zeros, zeros, **OPTIONS).eq(0).all()
    assert all(scale.gt(0).all() for scale in head_scales(zeros, zeros, zeros))
    none = torch.zeros(0, 2, 64)
    nobody = JaggedRows(torch.tensor([0]), torch.tensor([0]))
    options = OPTIONS | {"rows": nobody, "key_limits": LIMITS[:0]}
    assert hstu_attention_fp8(none, none, none, **options).shape == none.shape


def test_each_head_has_its_scale() -> None:
    """A head of great numbers does not cost another its small ones."""
    q, k, v = inputs()
    factor = torch.tensor([1e-3, 1e3])[:, None]
    found = hstu_attention_fp8(q, k, v * factor, **OPTIONS).float()
    expected = hstu_attention(q, k, v * factor, timestamps=LIMITS, backend="reference", **OPTIONS)
    for head in range(2):
        difference = (found - expected)[:, head].norm() / expected[:, head].norm()
        assert float(difference) < 0.06


def test_what_is_refused() -> None:
    q, k, v = inputs()
    with pytest.raises(ValueError, match="no gradient"):
        hstu_attention_fp8(q.clone().requires_grad_(), k, v, **OPTIONS)
    with pytest.raises(ValueError, match="of one shape"):
        hstu_attention_fp8(q, k, v[..., :32], **OPTIONS)
    with pytest.raises(ValueError, match=r"key_limits must be \[R\]"):
        hstu_attention_fp8(q, k, v, **OPTIONS | {"key_limits": LIMITS[1:]})
    ones = torch.ones(3)
    with pytest.raises(ValueError, match=r"float32 \[H\], H = 2"):
        hstu_attention_fp8(q, k, v, scales=Fp8Scales(ones, ones, ones), **OPTIONS)


def test_a_forced_backend_that_cannot_run() -> None:
    with pytest.raises(BackendUnavailable, match="cutlass"):
        hstu_attention_fp8(*inputs(), **OPTIONS, backend="cutlass")
    with use_backend("triton"), pytest.raises(BackendUnavailable, match="not implemented in it"):
        hstu_attention_fp8(*inputs(), **OPTIONS)
    assert unsupported(inputs(96)[0]) == "its kernels take heads of 64, 128, 256, not of 96"
    with pytest.raises(BackendUnavailable, match="not of 96"):
        hstu_attention_fp8(*inputs(96), **OPTIONS, backend="cutlass")


def test_small_numbers_get_scales_that_half_precision_has_digits_of() -> None:
    q, k, v = (x / 30 for x in inputs())
    scales = head_scales(q, k, v, alpha=0.125)
    assert (0.125 * scales.q * scales.k / 2 >= torch.finfo(torch.float16).tiny).all()
    usual = inputs()
    for mine, theirs in zip(head_scales(*usual, alpha=0.125), head_scales(*usual), strict=True):
        assert torch.equal(mine, theirs)
