"""What is asked of the pooler, as it travels in ``PoolingParams.extra_kwargs``.

vLLM moves these between processes as msgpack: only bytes and numbers may be in them.

Letters in shapes: C candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec_model.features.rows import Ints


@dataclass(frozen=True, kw_only=True)
class RecommendOp:
    """The best items of the catalogue and their task logits.

    Args:
        k: most items to give.
        now: unix seconds, when the items would be shown.
        exclude: int64, rows of the item table to leave out.
        allow: int64, the only rows to consider; None for all.
    """

    k: int
    now: int
    exclude: Tensor
    allow: Tensor | None


@dataclass(frozen=True, kw_only=True)
class RankOp:
    """Scores and task logits of given items.

    Args:
        candidates: int64 [C], rows of the item table.
        now: unix seconds, when the items would be shown.
    """

    candidates: Ints
    now: int


def recommend_kwargs(*, k: int, now: int, exclude: Ints, allow: Ints | None) -> dict[str, Any]:
    """`extra_kwargs` of a `RecommendOp`."""
    filters = {"exclude": _to_bytes(exclude)}
    if allow is not None:
        filters["allow"] = _to_bytes(allow)
    return {"op": "recommend", "k": k, "now": now, **filters}


def rank_kwargs(*, candidates: Ints, now: int) -> dict[str, Any]:
    """`extra_kwargs` of a `RankOp`."""
    return {"op": "rank", "now": now, "candidates": _to_bytes(candidates)}


def parse_op(kwargs: Mapping[str, Any] | None) -> RecommendOp | RankOp | None:
    """The reverse; None where nothing is asked, as in vLLM's own dry runs."""
    if not kwargs:
        return None
    if kwargs["op"] == "rank":
        candidates = np.frombuffer(kwargs["candidates"], np.int32).astype(np.int64)
        return RankOp(candidates=candidates, now=int(kwargs["now"]))
    allow = kwargs.get("allow")
    return RecommendOp(
        k=int(kwargs["k"]),
        now=int(kwargs["now"]),
        exclude=_from_bytes(kwargs["exclude"]),
        allow=None if allow is None else _from_bytes(allow),
    )


def _to_bytes(rows: Ints) -> bytes:
    return rows.astype(np.int32).tobytes()


def _from_bytes(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, np.int32).astype(np.int64))
