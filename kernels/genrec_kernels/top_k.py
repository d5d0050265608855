"""The best items of each user over a whole catalogue, without a matrix of all scores.

Letters in shapes: B users, V items, W width, E items that a user leaves out, k items found.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genrec_kernels.current_device import on_device_of
from genrec_kernels.dispatch import Backend, choose_backend
from genrec_kernels.reference.top_k import leave_out
from genrec_kernels.reference.top_k import top_k as top_k_reference
from genrec_kernels.top_k_keys import pack, unpack

MAX_K = 1024
_TRITON_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


class TopK(NamedTuple):
    """The best items of each user, best first; equal scores in the order of the items.

    items: int64 [B, k]; -1 where the filters leave fewer than k.
    scores: float32 [B, k]; minus infinity there.
    """

    items: Tensor
    scores: Tensor


def top_k(
    users: Tensor,
    items: Tensor,
    k: int,
    *,
    exclude: Tensor | None = None,
    allow: Tensor | None = None,
    backend: Backend | None = None,
) -> TopK:
    """Items of the k largest ``users · items``; exact but for the rounding of the scores.

    Where it is faster (see `groups_pay`), an unforced call multiplies users by all items with
    cuBLAS and sorts all scores instead.

    Args:
        users: float [B, W].
        items: float [V, W], the dtype of `users`.
        k: 1 to 1024; more than V gives V.
        exclude: int64 [B, E], items that a user leaves out; a negative entry is none.
        allow: bool [V], the only items to consider; None for all.
        backend: force one of `triton`, `reference`.

    Raises:
        ValueError: shapes or dtypes do not fit together, or k is out of range.
        BackendUnavailable: the forced backend cannot run.
    """
    if users.dim() != 2 or items.dim() != 2 or users.shape[1] != items.shape[1]:
        raise ValueError(
            f"users must be [B, W] and items [V, W], not {list(users.shape)}, {list(items.shape)}"
        )
    if users.dtype != items.dtype:
        raise ValueError(f"users are {users.dtype} and items {items.dtype}; make them one dtype")
    if not 1 <= k <= MAX_K:
        raise ValueError(f"k must be 1 to {MAX_K}, not {k}")
    if exclude is not None and (exclude.dim() != 2 or exclude.shape[0] != users.shape[0]):
        raise ValueError(f"exclude must be [{users.shape[0]}, E], not {list(exclude.shape)}")
    if allow is not None and (allow.shape != items.shape[:1] or allow.dtype != torch.bool):
        raise ValueError(
            f"allow must be bool [{items.shape[0]}], not {allow.dtype} {list(allow.shape)}"
        )
    found: tuple[Tensor, Tensor] = torch.ops.genrec.top_k(
        users, items, min(k, items.shape[0]), exclude, allow, backend
    )
    return TopK(*found)


def groups_pay(num_users: int, num_items: int, k: int) -> bool:
    """Whether the kernels are likely faster than all scores and a sort of them.

    Measured on an H200: with few scores, launches and sorts are all there is; and the second pass
    reads ``32 · k`` item rows a user, as much work as all scores where k is large.
    """
    return num_users * num_items >= 2**24 and num_items >= 256 * k


@torch.library.custom_op("genrec::top_k", mutates_args=())
def _top_k(
    users: Tensor,
    items: Tensor,
    k: int,
    exclude: Tensor | None,
    allow: Tensor | None,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    fits = users.dtype in _TRITON_DTYPES and items.shape[0] > 0 and users.shape[0] > 0
    offered: tuple[Backend, ...] = ("triton", "reference") if fits else ("reference",)
    chosen = choose_backend("top_k", users.device, offered, forced=backend)
    if chosen == "reference":
        return top_k_reference(users, items, k, exclude=exclude, allow=allow)
    if backend != "triton" and not groups_pay(users.shape[0], items.shape[0], k):
        return _by_all_scores(users, items, k, exclude, allow)
    from genrec_kernels.triton.top_k import top_k as top_k_triton

    with on_device_of(users):
        return top_k_triton(
            users if users.stride(1) == 1 else users.contiguous(),
            items if items.stride(1) == 1 else items.contiguous(),
            k,
            exclude=None if exclude is None else exclude.contiguous(),
            allow=None if allow is None else allow.contiguous(),
        )


def _by_all_scores(
    users: Tensor, items: Tensor, k: int, exclude: Tensor | None, allow: Tensor | None
) -> tuple[Tensor, Tensor]:
    """On a GPU: a matrix product with float32 results, and PyTorch's top-k."""
    if users.dtype == torch.float32:
        scores_BV = users @ items.T
    else:
        scores_BV = torch.mm(users, items.T, out_dtype=torch.float32)
    return unpack(pack(leave_out(scores_BV, exclude, allow)).topk(k, dim=1).values)


@_top_k.register_fake
def _fake(users: Tensor, _items: Tensor, k: int, *_: object) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(users.dtype, torch.float32)
    shape = (users.shape[0], k)
    return users.new_empty(shape, dtype=torch.int64), users.new_empty(shape, dtype=wide)
