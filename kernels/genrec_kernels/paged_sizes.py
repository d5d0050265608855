"""What the host knows of a call of paged attention; lengths are on the GPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class PagedSizes:
    """Sizes of a call.

    Args:
        num_rows, num_requests, num_heads, head_dim, page_size: R, B, H, D, S.
        dtype: of q, k, v and the pages.
        max_new_rows: most new rows of one request (R if unknown).
        max_keys: most keys that a row sees.
        has_bias: whether scores have a bias.
        same_bias: whether all new rows of a request have one limit and one time.
    """

    num_rows: int
    num_requests: int
    num_heads: int
    head_dim: int
    page_size: int
    dtype: torch.dtype
    max_new_rows: int
    max_keys: int
    has_bias: bool
    same_bias: bool

    @property
    def own_bias(self) -> bool:
        """Whether each new row has a bias of its own."""
        return self.has_bias and not self.same_bias

    def tiles(self, rows: int) -> int:
        """Tiles of `rows` new rows that there can be, each of one request."""
        of_request = -(-max(self.max_new_rows, 1) // rows)
        return min(self.num_requests * of_request, self.num_rows // rows + self.num_requests)
