"""Rows of a large table by id: hot rows from fast memory, the others straight from the host.

Letters in shapes: N ids, V rows of the table, C slots, W width of a row, K rows to copy.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genrec_kernels.current_device import on_device_of
from genrec_kernels.dispatch import Backend, choose_backend
from genrec_kernels.reference import cached_rows as plain

#: In `slot_of`: the id has no slot.
NO_SLOT = -1
_MOST_BINS = 1 << 16


class StoredRows(NamedTuple):
    """Rows as they are kept.

    values: float or int8 [R, W].
    scales: float32 [R] of int8 rows, which stand for ``values * scales``; else None.
    """

    values: Tensor
    scales: Tensor | None = None


def cached_rows(
    ids: Tensor,
    slot_of: Tensor,
    *,
    fast: StoredRows,
    host: StoredRows,
    outside: Tensor,
    dtype: torch.dtype,
    merge_repeats: bool = False,
    order: Tensor | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """The rows of these ids, without waiting for the device.

    Args:
        ids: int64 [N]; repeated ids are fine.
        slot_of: int32 [V], the slot of each row that has one, else :data:`NO_SLOT`.
        fast: C rows where `ids` are.
        host: V rows, pinned in the host's memory (or where `ids` are) for `triton`; anywhere for
            `reference`, which gathers on the CPU and waits for it.
        outside: int32 [1], where `ids` are or pinned; becomes 1 if an id is not in [0, V).
        dtype: of the result, a float.
        merge_repeats: let each missed row cross the link once, however often it is asked for.
            Three launches in place of one, and `slot_of` is scratch while they run: no other call
            may use it then. Pays where many misses are repeats.
        order: int32 [N], the places of `ids` in the order in which their rows are to be read (see
            :func:`misses_first`); the result is the same.
        backend: force one of `triton`, `reference`.

    Returns:
        [N, W]; rows of ids out of range are NaN.

    Raises:
        ValueError: shapes or types do not fit together.
        BackendUnavailable: the forced backend cannot run.
    """
    _check_ids(ids)
    if order is not None and (order.shape != ids.shape or order.dtype != torch.int32):
        raise ValueError(f"order must be int32 {list(ids.shape)}, one place an id")
    if slot_of.dtype != torch.int32 or slot_of.shape != host.values.shape[:1]:
        raise ValueError(f"slot_of must be int32 [{len(host.values)}], one a row of the host")
    _check_stores(fast, host)
    if not dtype.is_floating_point:
        raise ValueError(f"rows come back as floats, not as {dtype}")
    if _chosen("cached_rows", ids, host, backend) == "reference":
        return plain.cached_rows(
            *(ids, slot_of, fast.values, host.values, fast.scales, host.scales, outside, dtype)
        )
    from genrec_kernels.triton import cached_rows as kernels

    with on_device_of(ids):
        return kernels.cached_rows(
            *(ids.contiguous(), slot_of, fast.values, host.values, fast.scales, host.scales),
            outside,
            dtype,
            merge_repeats=merge_repeats,
            order=None if order is None else order.contiguous(),
        )


def misses_first(
    ids: Tensor, slot_of: Tensor, *, bins: int = 1024, backend: Backend | None = None
) -> Tensor:
    """An order for :func:`cached_rows`: missed rows first, neighbours in the table together.

    Args:
        ids: int64 [N].
        slot_of: int32 [V], as for :func:`cached_rows`, where `ids` are.
        bins: parts of the table whose rows are together, in any order; 1 to 65,536.
        backend: force one of `triton`, `reference`.

    Returns:
        int32 [N], each place of `ids` once.

    Raises:
        ValueError: shapes or types do not fit together, or `bins` is out of range.
        BackendUnavailable: the forced backend cannot run.
    """
    _check_ids(ids)
    if slot_of.dtype != torch.int32 or slot_of.dim() != 1:
        raise ValueError(f"slot_of must be int32 [V], not {slot_of.dtype} {list(slot_of.shape)}")
    if not 1 <= bins <= _MOST_BINS:
        raise ValueError(f"bins must be 1 to {_MOST_BINS}, not {bins}")
    offered: tuple[Backend, ...] = ("triton", "reference")
    if choose_backend("misses_first", ids.device, offered, forced=backend) == "reference":
        return plain.misses_first(ids, slot_of, bins)
    from genrec_kernels.triton import row_order

    with on_device_of(ids):
        return row_order.misses_first(ids.contiguous(), slot_of, bins)


def copy_rows(
    ids: Tensor,
    slots: Tensor,
    *,
    source: StoredRows,
    target: StoredRows,
    backend: Backend | None = None,
) -> None:
    """Copy row ``ids[k]`` of the source to row ``slots[k]`` of the target.

    Args:
        ids, slots: int64 [K] where the target is, in range; no slot twice.
        source: as `host` of :func:`cached_rows`.
        target: written.
        backend: force one of `triton`, `reference`.

    Raises:
        ValueError: shapes or types do not fit together.
        BackendUnavailable: the forced backend cannot run.
    """
    _check_ids(ids)
    if slots.shape != ids.shape or slots.dtype != torch.int64:
        raise ValueError(f"slots must be int64 {list(ids.shape)}, one an id")
    _check_stores(target, source)
    stores = (source.values, target.values, source.scales, target.scales)
    if _chosen("copy_rows", ids, source, backend) == "reference":
        plain.copy_rows(ids, slots, *stores)
        return
    from genrec_kernels.triton import cached_rows as kernels

    with on_device_of(ids):
        kernels.copy_rows(ids.contiguous(), slots.contiguous(), *stores)


def _chosen(op: str, ids: Tensor, host: StoredRows, forced: Backend | None) -> Backend:
    """A GPU reaches the host's rows only if they are pinned; otherwise the CPU must gather."""
    reachable = host.values.device == ids.device or host.values.is_pinned()
    offered: tuple[Backend, ...] = ("triton", "reference") if reachable else ("reference",)
    return choose_backend(op, ids.device, offered, forced=forced)


def _check_ids(ids: Tensor) -> None:
    if ids.dim() != 1 or ids.dtype != torch.int64:
        raise ValueError(f"ids must be int64 [N], not {ids.dtype} {list(ids.shape)}")


def _check_stores(fast: StoredRows, host: StoredRows) -> None:
    if fast.values.dim() != 2 or host.values.dim() != 2:
        raise ValueError("stored rows are [R, W]")
    same = fast.values.shape[1] == host.values.shape[1] and fast.values.dtype == host.values.dtype
    if not same or (fast.scales is None) != (host.scales is None):
        raise ValueError("both stores must have rows of one width and type, scaled or not")
    for store in (fast, host):
        if not store.values.is_contiguous():
            raise ValueError("stored rows must be contiguous")
        if (store.values.dtype == torch.int8) != (store.scales is not None):
            raise ValueError("int8 rows, and no others, have scales")
        if store.scales is not None and (
            store.scales.shape != store.values.shape[:1] or store.scales.dtype != torch.float32
        ):
            raise ValueError(f"scales must be float32 [{len(store.values)}], one a row")
