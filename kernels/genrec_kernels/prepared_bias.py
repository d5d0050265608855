"""A layer's bias in the form that the attention kernels read, made once where weights stay.

Without it `hstu_attention` makes that form at every call, which training needs and inference not.

Letters in shapes: P and T entries of the position and time tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from genrec_kernels.reference.bias_tables import bias_tables
from genrec_kernels.relative_bias import RelativeBias
from genrec_kernels.time_plan import MAX_TRITON_BUCKETS


class BiasTables(NamedTuple):
    """A layer's tables as the attention kernels read them, times some scale.

    pairs: float32 [P + 1, 2], position biases in pairs: of a distance, and of one less.
    cells: int32 [TIME_CELLS + T + MOST_STEPS, 4], time biases by cells of differences, then by
        buckets (see `plan_blocks`).
    """

    pairs: Tensor
    cells: Tensor


#: Tables of both scales as the operator takes them, the halved ones first.
OperatorTables = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
NO_TABLES: OperatorTables = (None, None, None, None)


@dataclass(frozen=True, kw_only=True)
class PreparedBias:
    """What `prepare_bias` makes, for `hstu_attention` in place of a `RelativeBias`.

    It holds what the weights were when it was made, and gets no gradient.

    Args:
        bias: the tables that it was made of, for the reference.
        alpha: scale of q·kᵀ that it was made for.
        halved: tables times 1/2, for Triton; None where only the reference takes the bias.
        over_alpha: tables times 1/alpha, for CUTLASS; likewise.
    """

    bias: RelativeBias
    alpha: float
    halved: BiasTables | None
    over_alpha: BiasTables | None

    @property
    def operator_tables(self) -> OperatorTables:
        """For the operator, which chooses its backend itself."""
        if self.halved is None or self.over_alpha is None:
            return NO_TABLES
        return (*self.halved, *self.over_alpha)

    def check(self, *, alpha: float, device: torch.device) -> None:
        """That a call with `alpha` on `device` may use it.

        Raises:
            ValueError: it was made for another alpha or device, or a gradient is asked for.
        """
        if alpha != self.alpha:
            raise ValueError(f"the bias was prepared for alpha {self.alpha}, not {alpha}")
        if device != self.bias.position.device:
            raise ValueError(
                f"the bias was prepared on {self.bias.position.device}, the rows are on {device}: "
                "prepare it again where the weights are now"
            )
        trained = self.bias.position.requires_grad or self.bias.time.requires_grad
        if trained and torch.is_grad_enabled():
            raise ValueError(
                "a prepared bias gets no gradient: bring the RelativeBias itself where it is "
                "trained, or call under torch.no_grad()"
            )


@torch.no_grad()
def prepare_bias(bias: RelativeBias, *, alpha: float) -> PreparedBias:
    """Bring a layer's bias to the kernels' form, for weights that stay as they are.

    In plain PyTorch, as it runs once; Triton makes the same bits at the calls of training.

    Args:
        bias: tables of any float dtype.
        alpha: scale of q·kᵀ of the calls to come.
    """
    if bias.time.shape[0] > MAX_TRITON_BUCKETS:
        return PreparedBias(bias=bias, alpha=alpha, halved=None, over_alpha=None)
    return PreparedBias(
        bias=bias,
        alpha=alpha,
        halved=BiasTables(*bias_tables(bias, 0.5)),
        over_alpha=BiasTables(*bias_tables(bias, 1 / alpha)),
    )
