"""Plain PyTorch twins: what every faster kernel is tested against."""

from genrec_kernels.reference.fused_linear import linear_add, linear_silu
from genrec_kernels.reference.hstu_attention import hstu_attention
from genrec_kernels.reference.hstu_attention_backward import (
    HSTUAttentionGradients,
    hstu_attention_backward,
)
from genrec_kernels.reference.padded_hstu_attention import padded_hstu_attention
from genrec_kernels.reference.page_write import page_write
from genrec_kernels.reference.paged_bias import paged_bias
from genrec_kernels.reference.paged_hstu_attention import paged_hstu_attention
from genrec_kernels.reference.time_plan import plan_times

__all__ = [
    "HSTUAttentionGradients",
    "hstu_attention",
    "hstu_attention_backward",
    "linear_add",
    "linear_silu",
    "padded_hstu_attention",
    "page_write",
    "paged_bias",
    "paged_hstu_attention",
    "plan_times",
]
