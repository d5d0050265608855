"""Bias of new rows over a paged history as a matrix, made once a layer for all its heads.

Where all new rows of a request have one key limit and one time, as candidates do, they have one
bias, and a row of the matrix is a request's; else it is a new row's.

Letters in shapes: R new rows, B requests, P pages of the cache, S rows a page, M pages of the
longest request, N rows of the matrix (B, or R), K its columns.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

#: Columns are a multiple of this, for kernels that take so many keys at a time.
COLUMNS = 64


class PagedBias(NamedTuple):
    """A layer's bias on a batch.

    rows: float32 [N, K], bias on each key that a row sees; undefined on the others.
    own: float32 [1], bias of a row on itself.
    """

    rows: Tensor
    own: Tensor


def num_columns(max_keys: int) -> int:
    """K for rows that see at most `max_keys` keys."""
    return -(-max(max_keys, 1) // COLUMNS) * COLUMNS


def matrix_bytes(*, num_rows: int, num_requests: int, max_keys: int, same_bias: bool) -> int:
    """Memory of the matrix.

    Args:
        num_rows, num_requests: R and B.
        max_keys: most keys that a row sees.
        same_bias: whether the rows of a request have one bias.
    """
    return 4 * (num_requests if same_bias else num_rows) * num_columns(max_keys)
