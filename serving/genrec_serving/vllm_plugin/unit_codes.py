"""Unit vectors of an item table in eight bits on the device, and how wrong scores by them can be.

Letters in shapes: V rows of the item table, B users, W hidden width, N rows of a piece.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_cache.host_rows import HostRows
from genrec_cache.row_stream import stream_rows

#: Data types of tables whose scores can be bounded.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Codes that are widened for a product at once: as much memory as the stream's two pieces.
_PIECE_CODES = 64 << 20
# That are made at once, out of several float32 each.
_MADE_CODES = 4 << 20
_LARGEST = 127.0
# Of one addition in float32, four times over: tensor cores cut off where the CPU rounds.
_UNIT = 2.0**-22
# Of the arithmetic on the bounds themselves, as a share, and next to nothing.
_SHARE, _NOTHING = 2.0**-6, 2.0**-20
# What PyTorch may take from the factors of float32 products, as a share of each product.
_FACTORS = {"highest": 0.0, "high": 2.0**-9, "medium": 2.0**-6}


class Bounds(NamedTuple):
    """Float32 [B, V], below and above what an exact search would find."""

    lower: Tensor
    upper: Tensor


class UnitCodes:
    """All rows of a table as unit vectors in eight bits, with what they lack.

    A vector v is ``scale * codes`` and a rest r; of each row the codes, the scale and the length of
    r are kept. The score ``u · v`` of a user u then is ``scale * (u · codes)`` up to ``|u| |r|``,
    by the inequality of Cauchy and Schwarz.

    What rounds besides is in the bounds, too. Sums of W products in float32, here and in the exact
    search, are each off by up to ``W · 2⁻²²`` of ``|u| |v|`` (Higham, "Accuracy and Stability of
    Numerical Algorithms", 2002, section 3.1, and four times that); the exact score is off by a
    share of itself where it is rounded to the table's type; PyTorch may be told to round the
    factors of float32 products. A row is taken to have one unit vector, whichever rows are made
    into unit vectors with it.

    Args:
        host: the table, of one of :data:`DTYPES`; kept, to know which table this is of.
        device: of the codes.

    Raises:
        ValueError: the table is of another type.
        RuntimeError: the device has not so much memory.
    """

    def __init__(self, host: HostRows, device: torch.device) -> None:
        if host.dtype not in DTYPES:
            raise ValueError(f"scores of {host.dtype} have no bounds here")
        self.host = host
        # Where the exact search rounds a score to the table's type. A power of two.
        self._rounding = max(torch.finfo(host.dtype).eps, _NOTHING)
        rows, width = host.num_rows, host.width
        row_bytes = max(1, host.stored.values[:1].nbytes)
        at_once = max(1, _MADE_CODES // max(1, width))
        # Searches of any mode read them.
        with torch.inference_mode(False), torch.no_grad():
            self._codes = torch.empty((rows, width), dtype=torch.int8, device=device)
            self._scales = torch.empty(rows, device=device)
            self._slack = torch.empty(rows, device=device)
            # A view: widened, it stays transposed.
            self._codes_WV = self._codes.T
            for first, piece in stream_rows(host, device, piece_bytes=at_once * row_bytes):
                self._fill(first, F.normalize(piece, dim=-1).float())

    @staticmethod
    def bytes_of(rows: int, width: int) -> int:
        """Memory of the codes of so many rows."""
        return rows * (width + 2 * torch.float32.itemsize)

    @property
    def num_bytes(self) -> int:
        """On the device."""
        return self.bytes_of(*self._codes.shape)

    def bounds(self, users: Tensor) -> Bounds:
        """Of the scores of all rows.

        A row whose vector is not finite may have any score. That of a user who is not finite is
        NaN.

        Args:
            users: [B, W] of the table's type.
        """
        scores_BV = self._products(users).mul_(self._scales)
        length_B1 = torch.linalg.vector_norm(users, dim=1, keepdim=True, dtype=torch.float32)
        factors = 0.0 if _narrow(users) else _FACTORS[torch.get_float32_matmul_precision()]
        slack_V = self._slack + 2.0 * factors if factors else self._slack
        # Counted in shares, which a power of two may be without rounding: fewer kernels.
        share = self._rounding
        shares_BV = scores_BV.abs().addcmul_(length_B1, slack_V, value=1.0 / share)
        lower_BV = torch.sub(scores_BV, shares_BV, alpha=share)
        return Bounds(lower=lower_BV, upper=scores_BV.add_(shares_BV, alpha=share))

    def _fill(self, first: int, vectors: Tensor) -> None:
        """Codes of unit vectors [N, W] in float32, from a row on."""
        here = slice(first, first + len(vectors))
        finite_N = vectors.isfinite().all(dim=1)
        vectors = torch.where(finite_N[:, None], vectors, 0.0)
        scale_N = vectors.abs().amax(dim=1) / _LARGEST
        # Of a row of zeros, and of one so small that the quotients would not be finite.
        scale_N = torch.where(scale_N > torch.finfo(torch.float32).tiny, scale_N, 1.0)
        codes = (vectors / scale_N[:, None]).round_().clamp_(-_LARGEST, _LARGEST)
        rest_N = (vectors - codes * scale_N[:, None]).norm(dim=1)
        sums = vectors.shape[1] * _UNIT * (2.0 * vectors.norm(dim=1) + rest_N)
        slack_N = (rest_N + sums) * (1.0 + _SHARE) + _NOTHING
        self._codes[here] = codes.to(torch.int8)
        self._scales[here] = scale_N
        self._slack[here] = torch.where(finite_N, slack_N, torch.inf)

    def _products(self, users: Tensor) -> Tensor:
        """Users times codes, float32 [B, V]; widening the codes to any type is exact."""
        at_once = max(1, _PIECE_CODES // max(1, self._codes.shape[1]))
        if len(self._codes) <= at_once:
            return _product(users, self._codes_WV)
        pieces = torch.split(self._codes_WV, at_once, dim=1)
        return torch.cat([_product(users, piece) for piece in pieces], dim=1)


def _product(users: Tensor, codes: Tensor) -> Tensor:
    """Users times codes [W, N], float32 [B, N]."""
    if _narrow(users):
        return torch.mm(users, codes.to(users.dtype), out_dtype=torch.float32)
    return torch.mm(users.float(), codes.float())


def _narrow(users: Tensor) -> bool:
    """Whether products are of the table's own type, with sums in float32."""
    return users.is_cuda and users.dtype != torch.float32
