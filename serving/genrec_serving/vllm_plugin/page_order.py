"""Which pages vLLM takes first when it needs some: those of users who hardly come back soon.

vLLM takes free pages from the front of a queue: those without content, then those that were not
used for the longest time. Just before it takes some, the pages that should go are put at its front,
by the queue's own methods. All else stays vLLM's: its queue, its hashes, its counts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from genrec_cache.return_order import ReturnOrder

logger = logging.getLogger(__name__)

#: What vLLM puts behind a page's hash: the number of the group of layers.
GROUP_BYTES = 4
#: Chains in use, which are of no help now, before vLLM's own order decides.
_MOST_IN_USE = 8
_POOL = ("get_new_blocks", "get_cached_block", "free_block_queue", "num_gpu_blocks")
_QUEUE = ("fake_free_list_head", "fake_free_list_tail", "remove", "prepend_n", "append_n")


class PageOrder:
    """The order in which a pool's pages leave, from here on.

    Args:
        pool: vLLM's.

    Raises:
        AttributeError: this version of vLLM has another kind of pool.
    """

    def __init__(self, pool: Any) -> None:
        for thing, names in ((pool, _POOL), (getattr(pool, "free_block_queue", None), _QUEUE)):
            for name in names:
                getattr(thing, name)
        self._pool = pool
        self._order = ReturnOrder(pool.num_gpu_blocks)
        # Hashes of each chain's pages that are, or may be, in the pool; and all of them.
        self._pages: dict[bytes, list[bytes]] = {}
        self._known: set[bytes] = set()
        self._chosen = 0
        self._problem = ""
        self._take = pool.get_new_blocks

        def get_new_blocks(count: int, *args: Any, **kwargs: Any) -> Any:
            self._prepare(count)
            return self._take(count, *args, **kwargs)

        pool.get_new_blocks = get_new_blocks

    def visit(self, user: bytes, hashes: list[bytes], *, later: Iterable[bytes]) -> None:
        """A request is answered.

        Args:
            user: names the user.
            hashes: of the whole pages of the history, from its start.
            later: names that the user may have when the start of the history has changed.
        """
        chain = hashes[0] if hashes else b""
        if hashes:
            self._pages[chain] = list(hashes)
            self._known.update(hashes)
        self._order.visit(user, chain, len(hashes), later=later)

    def statistics(self) -> dict[str, Any]:
        """Chains that are known, pages that were chosen to go, and what went wrong."""
        return {
            "order": "lru" if self._problem else "return",
            "chains": len(self._order),
            "pages_chosen": self._chosen,
            "problem": self._problem,
        }

    def _prepare(self, count: int) -> None:
        try:
            self._put_first(count)
        except Exception as error:
            # A hit less is no reason to lose the engine.
            logger.exception("pages leave in vLLM's own order from here on")
            self._problem = f"{type(error).__name__}: {error}"
            self._pool.get_new_blocks = self._take

    def _put_first(self, count: int) -> None:
        """Have the right pages at the front of the queue."""
        queue = self._pool.free_block_queue
        first: list[Any] = []
        spared: list[Any] = []
        # Pages without content are there already. So are, in time, those that no chain knows, as
        # the others are put at the end.
        block, end = queue.fake_free_list_head.next_free_block, queue.fake_free_list_tail
        while block is not end and len(first) < count and len(spared) <= count:
            known = block.block_hash is not None and block.block_hash[:-GROUP_BYTES] in self._known
            (spared if known else first).append(block)
            block = block.next_free_block
        if not spared:
            return
        gone = {block.block_id for block in first}
        in_use = 0
        while len(first) < count and in_use < _MOST_IN_USE:
            chain = self._order.victim()
            if not isinstance(chain, bytes):
                break
            found = self._end_of(chain, count - len(first), gone)
            first += found
            self._chosen += len(found)
            in_use += not found and chain in self._pages
        for block in first:
            queue.remove(block)
        queue.prepend_n(first)
        spared = [block for block in spared if block.block_id not in gone]
        for block in spared:
            queue.remove(block)
        queue.append_n(spared)

    def _end_of(self, chain: bytes, count: int, gone: set[int]) -> list[Any]:
        """Free pages from the end of a chain, which forgets them; `gone` gets their numbers."""
        hashes = self._pages[chain]
        found: list[Any] = []
        while hashes and len(found) < count:
            blocks = self._pool.get_cached_block(hashes[-1], [0])
            if blocks is not None and blocks[0].ref_cnt:
                return found
            self._known.discard(hashes.pop())
            if blocks is not None and blocks[0].block_id not in gone:
                found.append(blocks[0])
                gone.add(blocks[0].block_id)
        if not hashes:
            del self._pages[chain]
            self._order.drop(chain)
        return found
