"""Bias of new rows over a paged history as a matrix, made once a layer for all its heads.

Where all new rows of a request have one key limit and one time, as candidates do, they have one
bias, and a row of the matrix is a request's; else it is a new row's.

Letters in shapes: R new rows, B requests, P pages of the cache, S rows a page, M pages of the
longest request, N rows of the matrix (B, or R), K its columns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genrec_kernels.paged_sizes import PagedSizes

#: Columns are a multiple of this, for kernels that take so many keys at a time.
COLUMNS = 128


class PagedBias(NamedTuple):
    """A layer's bias on a batch.

    rows: float32, or for scores in half precision float16, [N, K]: bias on each key that a row
        sees; undefined on the others.
    own: float32 [1], bias of a row on itself.
    """

    rows: Tensor
    own: Tensor


def num_columns(max_keys: int) -> int:
    """K for rows that see at most `max_keys` keys."""
    return -(-max(max_keys, 1) // COLUMNS) * COLUMNS


def matrix_bytes(sizes: PagedSizes, dtype: torch.dtype) -> int:
    """Memory of a call's matrix."""
    lines = sizes.num_requests if sizes.same_bias else sizes.num_rows
    return dtype.itemsize * lines * num_columns(sizes.max_keys)
