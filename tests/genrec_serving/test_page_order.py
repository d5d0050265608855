"""vLLM's own pool of pages, with the order in which they leave changed."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_model.errors import ConfigError
from genrec_serving.engines.vllm_options import VllmOptions
from genrec_serving.vllm_plugin.page_order import PageOrder
from genrec_serving.vllm_plugin.watched_client import names_of


class Pool:
    """vLLM's pool as its scheduler uses it, and users who come by."""

    def __init__(self, pages: int, *, ordered: bool = True) -> None:
        pytest.importorskip("vllm")
        from genrec_serving.engines.vllm_environment import prepare_environment

        prepare_environment()
        from vllm.v1.core.block_pool import BlockPool

        self.pool: Any = BlockPool(num_gpu_blocks=pages + 1, enable_caching=True, hash_block_size=4)
        self.order = PageOrder(self.pool) if ordered else None

    def hashes(self, user: int, chain: int, pages: int) -> list[bytes]:
        return [f"{user:8}{chain:8}{page:16}".encode() for page in range(pages)]

    def begin(self, hashes: list[bytes]) -> tuple[list[Any], int]:
        """Pages of a request that runs, the found ones first, and how many were found."""
        found = list(
            itertools.takewhile(
                lambda blocks: blocks is not None,
                (self.pool.get_cached_block(page, [0]) for page in hashes),
            )
        )
        blocks = [block for (block,) in found]
        self.pool.touch(blocks)
        new = self.pool.get_new_blocks(len(hashes) - len(blocks))
        request = SimpleNamespace(block_hashes=hashes)
        self.pool.cache_full_blocks(request, blocks + new, len(blocks), len(hashes), 4, 0)
        return blocks + new, len(blocks)

    def end(self, user: int, hashes: list[bytes], blocks: list[Any]) -> None:
        self.pool.free_blocks(reversed(blocks))
        if self.order is not None:
            self.order.visit(str(user).encode(), hashes, later=())

    def visit(self, user: int, chain: int, pages: int) -> int:
        """Pages that were found."""
        hashes = self.hashes(user, chain, pages)
        blocks, found = self.begin(hashes)
        self.end(user, hashes, blocks)
        return found

    def check(self) -> None:
        """The queue holds each free page once, and nothing else."""
        queue = [block.block_id for block in self.pool.free_block_queue.get_all_free_blocks()]
        assert len(queue) == len(set(queue)) == self.pool.free_block_queue.num_free_blocks
        free = {b.block_id for b in self.pool.blocks if b.ref_cnt == 0 and not b.is_null}
        assert set(queue) == free


def hits(pool: Pool) -> int:
    """Of users who come again and again among many who come once."""
    found = 0
    for moment in range(300):
        for faithful in range(5):
            found += pool.visit(faithful, 0, 4)
        for once in range(8):
            found += pool.visit(1000 + 8 * moment + once, 0, 4)
    pool.check()
    return found


def test_who_comes_back_keeps_their_pages() -> None:
    ours, own = Pool(40), Pool(40, ordered=False)
    assert hits(own) == 0
    assert hits(ours) > 0.8 * 299 * 5 * 4
    assert ours.order is not None
    shown = ours.order.statistics()
    assert shown["problem"] == ""
    assert shown["pages_chosen"] > 0
    assert shown["chains"] <= 11


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 7), st.integers(0, 2), st.integers(0, 5), st.booleans()),
        max_size=60,
    )
)
def test_the_pool_stays_whole(each: list[tuple[int, int, int, bool]]) -> None:
    """Requests overlap; some are never answered."""
    pool = Pool(12)
    running: list[tuple[int, list[bytes], list[Any]]] = []
    for user, chain, pages, answered in each:
        hashes = pool.hashes(user, chain, pages)
        if len(running) == 2:
            first, its_hashes, blocks = running.pop(0)
            if answered:
                pool.end(first, its_hashes, blocks)
            else:
                pool.pool.free_blocks(reversed(blocks))
        running.append((user, hashes, pool.begin(hashes)[0]))
        pool.check()
    for user, hashes, blocks in running:
        pool.end(user, hashes, blocks)
    pool.check()
    assert pool.order is not None
    assert pool.order.statistics()["problem"] == ""
    # Every page can still be had.
    assert len(pool.pool.get_new_blocks(12)) == 12


def test_pages_that_nobody_asks_about_do_not_stay() -> None:
    """Those of a request that was never answered."""
    pool = Pool(12)
    blocks, _ = pool.begin(pool.hashes(99, 0, 4))
    pool.pool.free_blocks(reversed(blocks))
    for _ in range(10):
        for user in range(4):
            pool.visit(user, 0, 4)
    assert pool.pool.get_cached_block(pool.hashes(99, 0, 1)[0], [0]) is None


def test_a_pool_of_another_kind_is_left_alone() -> None:
    with pytest.raises(AttributeError, match="get_new_blocks"):
        PageOrder(SimpleNamespace(free_block_queue=None))
    pool = Pool(4, ordered=False).pool
    pool.free_block_queue = SimpleNamespace(num_free_blocks=0)
    with pytest.raises(AttributeError, match="fake_free_list_head"):
        PageOrder(pool)
    assert "get_new_blocks" not in vars(pool)


def test_an_order_that_fails_leaves_vllms_own(caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool(8)
    pool.visit(1, 0, 4)
    pool.visit(2, 0, 4)
    assert pool.order is not None
    pool.order._order.victim = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    for user in range(3, 6):
        pool.visit(user, 0, 4)
    pool.check()
    assert pool.order.statistics()["problem"] == "ZeroDivisionError: division by zero"
    assert pool.order.statistics()["order"] == "lru"
    assert "vLLM's own order" in caplog.text


def test_a_users_names() -> None:
    words = np.arange(4 * 11, dtype=np.float32).reshape(11, 4)
    names = names_of(torch.from_numpy(words), 4)
    assert names == [words[row].tobytes() for row in (1, 5, 9)]
    # The window moves by a chunk: what was a later name is the first one.
    moved = np.concatenate([words[:1], words[5:]])
    assert names_of(torch.from_numpy(moved), 4)[0] == names[1]
    assert names_of(torch.from_numpy(words[:1]), 4) == []


def test_no_such_order() -> None:
    with pytest.raises(ConfigError, match="page order mru: use one of return, lru"):
        VllmOptions(page_order="mru")
