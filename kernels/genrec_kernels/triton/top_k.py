"""The best items of each user without all scores, in Triton.

Groups of 32 neighbouring items. The first pass multiplies users by all items and keeps only each
group's best score. Every item of a user's best k lies in one of the k best groups: a group left
out has k groups before it, each with an item at least as good as all of its own. So the second
pass scores the items of those groups again, and a top-k of k · 32 scores remains. Nothing depends
on the data but the values: no atomics on results, no host reads, one order.

Scores and places travel as one int64 (see `top_k_keys`).

Letters in shapes: B users of a tile, V items of a tile, G groups of a tile, W width of a step.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from genrec_kernels.dispatch import interpreting
from genrec_kernels.top_k_keys import unpack

#: Items of a group: as many as an int32 has bits, one for each item that a user leaves out.
GROUP = 32
#: Groups looked at beyond k. The two passes sum in different orders, so scores that differ by
#: rounding alone may change places.
SPARE_GROUPS = 8

_GROUP = tl.constexpr(GROUP)


@triton.jit
def _key(score, place):
    bits = (score + 0.0).to(tl.int32, bitcast=True)  # no -0.0, which would be less than 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - place).to(tl.int64)


@triton.jit
def _mark_excluded(exclude_ptr, words_ptr, num_entries, num_items, num_words, BLOCK: tl.constexpr):
    user = tl.program_id(0).to(tl.int64)
    entry = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    item = tl.load(exclude_ptr + user * num_entries + entry, mask=entry < num_entries, other=-1)
    bit = tl.full([BLOCK], 1, tl.int32) << (item % _GROUP).to(tl.int32)
    word_ptr = words_ptr + user * num_words + item // _GROUP
    tl.atomic_or(word_ptr, bit, mask=(item >= 0) & (item < num_items))


@triton.jit
def _best_of_groups(
    users_ptr, items_ptr, words_ptr, allow_ptr, keys_ptr,
    num_users, num_items, width, num_groups, users_row, items_row,
    BLOCK_USERS: tl.constexpr, BLOCK_ITEMS: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
    HAS_EXCLUDE: tl.constexpr, HAS_ALLOW: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    # Tiles of users are neighbours in the grid: they share the tile of items in the L2 cache.
    user_B = tl.program_id(0) * BLOCK_USERS + tl.arange(0, BLOCK_USERS)
    item_V = tl.program_id(1) * BLOCK_ITEMS + tl.arange(0, BLOCK_ITEMS)
    real_B, real_V = user_B < num_users, item_V < num_items
    users_at_B = users_ptr + user_B.to(tl.int64) * users_row
    items_at_V = items_ptr + item_V.to(tl.int64) * items_row
    score_BV = tl.zeros([BLOCK_USERS, BLOCK_ITEMS], dtype=tl.float32)
    for first in range(0, width, BLOCK_WIDTH):
        dim_W = first + tl.arange(0, BLOCK_WIDTH)
        in_width_W = dim_W < width
        user_mask_BW = real_B[:, None] & in_width_W[None, :]
        item_mask_VW = real_V[:, None] & in_width_W[None, :]
        user_BW = tl.load(users_at_B[:, None] + dim_W[None, :], mask=user_mask_BW, other=0.0)
        item_VW = tl.load(items_at_V[:, None] + dim_W[None, :], mask=item_mask_VW, other=0.0)
        if UPCAST:  # the interpreter multiplies bfloat16 matrices wrongly
            user_BW, item_VW = user_BW.to(tl.float32), item_VW.to(tl.float32)
        score_BV = tl.dot(user_BW, tl.trans(item_VW), score_BV, input_precision="ieee")
    kept_V = real_V
    if HAS_ALLOW:
        kept_V = kept_V & (tl.load(allow_ptr + item_V, mask=real_V, other=0) != 0)
    score_BV = tl.where(kept_V[None, :], score_BV, -float("inf"))
    GROUPS: tl.constexpr = BLOCK_ITEMS // _GROUP
    group_G = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    out_at_BG = user_B.to(tl.int64)[:, None] * num_groups + group_G[None, :]
    real_BG = real_B[:, None] & (group_G < num_groups)[None, :]
    score_BGV = tl.reshape(score_BV, [BLOCK_USERS, GROUPS, _GROUP])
    if HAS_EXCLUDE:
        word_BG = tl.load(words_ptr + out_at_BG, mask=real_BG, other=0)
        bit_BGV = (word_BG[:, :, None] >> tl.arange(0, _GROUP)[None, None, :]) & 1
        score_BGV = tl.where(bit_BGV != 0, -float("inf"), score_BGV)
    best_BG = tl.max(score_BGV, 2)
    tl.store(keys_ptr + out_at_BG, _key(best_BG, group_G[None, :]), mask=real_BG)


@triton.jit
def _score_groups(
    users_ptr, items_ptr, words_ptr, allow_ptr, group_keys_ptr, keys_ptr,
    num_items, width, num_words, num_chosen, users_row, items_row,
    BLOCK_WIDTH: tl.constexpr, HAS_EXCLUDE: tl.constexpr, HAS_ALLOW: tl.constexpr,
):  # fmt: skip
    user, chosen = tl.program_id(0).to(tl.int64), tl.program_id(1)
    key = tl.load(group_keys_ptr + user * num_chosen + chosen)
    group = 0x7FFFFFFF - (key & 0x7FFFFFFF).to(tl.int32)
    item_V = group * _GROUP + tl.arange(0, _GROUP)
    kept_V = item_V < num_items
    if HAS_ALLOW:
        kept_V = kept_V & (tl.load(allow_ptr + item_V, mask=kept_V, other=0) != 0)
    if HAS_EXCLUDE:
        word = tl.load(words_ptr + user * num_words + group)
        kept_V = kept_V & (((word >> tl.arange(0, _GROUP)) & 1) == 0)
    items_at_V = items_ptr + item_V.to(tl.int64) * items_row
    score_V = tl.zeros([_GROUP], dtype=tl.float32)
    for first in range(0, width, BLOCK_WIDTH):
        dim_W = first + tl.arange(0, BLOCK_WIDTH)
        in_width_W = dim_W < width
        user_W = tl.load(users_ptr + user * users_row + dim_W, mask=in_width_W, other=0.0)
        item_mask_VW = kept_V[:, None] & in_width_W[None, :]
        item_VW = tl.load(items_at_V[:, None] + dim_W[None, :], mask=item_mask_VW, other=0.0)
        score_V += tl.sum(item_VW.to(tl.float32) * user_W.to(tl.float32)[None, :], 1)
    score_V = tl.where(kept_V, score_V, -float("inf"))
    at_V = (user * num_chosen + chosen) * _GROUP + tl.arange(0, _GROUP)
    tl.store(keys_ptr + at_V, _key(score_V, item_V))


def top_k(
    users: Tensor, items: Tensor, k: int, *, exclude: Tensor | None, allow: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `genrec_kernels.reference.top_k`; rows of users and items must be contiguous."""
    (num_users, width), num_items = users.shape, items.shape[0]
    num_groups = triton.cdiv(num_items, GROUP)
    device = users.device
    upcast = interpreting() and users.dtype == torch.bfloat16
    words = users
    if exclude is not None:
        words = torch.zeros((num_users, num_groups), dtype=torch.int32, device=device)
        if exclude.shape[1]:
            _mark_excluded[(num_users, triton.cdiv(exclude.shape[1], 128))](
                exclude, words, exclude.shape[1], num_items, num_groups, BLOCK=128, num_warps=4
            )
    allowed = users if allow is None else allow.view(torch.uint8)
    flags = {"HAS_EXCLUDE": exclude is not None, "HAS_ALLOW": allow is not None}

    block_users, block_items = _tile(num_users, users.dtype)
    group_keys = torch.empty((num_users, num_groups), dtype=torch.int64, device=device)
    _best_of_groups[(triton.cdiv(num_users, block_users), triton.cdiv(num_items, block_items))](
        users, items, words, allowed, group_keys,
        num_users, num_items, width, num_groups, users.stride(0), items.stride(0),
        BLOCK_USERS=block_users, BLOCK_ITEMS=block_items, BLOCK_WIDTH=32 if width <= 32 else 64,
        UPCAST=upcast, num_warps=8 if block_users == 128 else 4, num_stages=3, **flags,
    )  # fmt: skip
    chosen = group_keys.topk(min(k + SPARE_GROUPS, num_groups), dim=1).values

    num_chosen = chosen.shape[1]
    keys = torch.empty((num_users, num_chosen * GROUP), dtype=torch.int64, device=device)
    _score_groups[(num_users, num_chosen)](
        users, items, words, allowed, chosen, keys,
        num_items, width, num_groups, num_chosen, users.stride(0), items.stride(0),
        BLOCK_WIDTH=min(triton.next_power_of_2(width), 256), num_warps=4, **flags,
    )  # fmt: skip
    return unpack(keys.topk(min(k, num_items), dim=1).values)


def _tile(num_users: int, dtype: torch.dtype) -> tuple[int, int]:
    if dtype == torch.float32:
        return 16, 64
    return (128, 128) if num_users > 64 else (64, 128) if num_users > 16 else (16, 128)
