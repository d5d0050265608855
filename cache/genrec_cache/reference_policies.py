"""Replacement policies of the literature, written plainly: what ours is compared with.

LRU and LFU are folklore. FIFO queues: Yang et al., "FIFO queues are all you need for cache
eviction" (S3-FIFO), SOSP 2023; Zhang et al., "SIEVE is simpler than LRU", NSDI 2024.
W-TinyLFU: Einziger, Friedman and Manes, "TinyLFU: a highly efficient cache admission policy",
ACM Transactions on Storage 2017, with exact counts in place of its sketch.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable


class ReferencePolicy(ABC):
    """A cache of ids that takes one access at a time.

    Args:
        capacity: ids that fit, at least 1.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a cache of {capacity} ids holds nothing")
        self.capacity = capacity

    @abstractmethod
    def __contains__(self, item: int) -> bool:
        """Whether the id is resident; nothing changes."""

    @abstractmethod
    def access(self, item: int) -> bool:
        """Use an id: says whether it was resident, and makes room for it if the policy wants to."""


class LRU(ReferencePolicy):
    """The id whose last use is longest ago leaves."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._ids: OrderedDict[int, None] = OrderedDict()

    def __contains__(self, item: int) -> bool:
        return item in self._ids

    def access(self, item: int) -> bool:
        """As the base class says."""
        if item in self._ids:
            self._ids.move_to_end(item)
            return True
        if len(self._ids) >= self.capacity:
            self._ids.popitem(last=False)
        self._ids[item] = None
        return False


class LFU(ReferencePolicy):
    """The id with the fewest uses since the start leaves; among equals, the one used longest ago.

    Counts outlive a stay, and a newcomer with fewer uses than every resident stays outside.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._uses: dict[int, int] = {}
        self._last: dict[int, int] = {}
        self._ids: set[int] = set()
        self._heap: list[tuple[int, int, int]] = []
        self._now = 0

    def __contains__(self, item: int) -> bool:
        return item in self._ids

    def access(self, item: int) -> bool:
        """As the base class says."""
        self._now += 1
        self._uses[item] = uses = self._uses.get(item, 0) + 1
        self._last[item] = self._now
        if item in self._ids:
            return True
        if len(self._ids) >= self.capacity:
            fewest, _, other = self._coldest()
            if uses < fewest:
                return False
            heapq.heappop(self._heap)
            self._ids.remove(other)
        self._ids.add(item)
        heapq.heappush(self._heap, (uses, self._now, item))
        return False

    def _coldest(self) -> tuple[int, int, int]:
        """Bring the heap's top up to date; entries are only ever too low, never too high."""
        while True:
            top = self._heap[0]
            now = (self._uses[top[2]], self._last[top[2]], top[2])
            if top == now:
                return top
            heapq.heapreplace(self._heap, now)


class Sieve(ReferencePolicy):
    """A queue and a hand: it spares ids used since it last passed them, and takes the next."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._used: dict[int, bool] = {}
        self._newer: dict[int, int | None] = {}
        self._older: dict[int, int | None] = {}
        self._newest: int | None = None
        self._oldest: int | None = None
        self._hand: int | None = None

    def __contains__(self, item: int) -> bool:
        return item in self._used

    def access(self, item: int) -> bool:
        """As the base class says."""
        if item in self._used:
            self._used[item] = True
            return True
        if len(self._used) >= self.capacity:
            self._evict()
        self._used[item] = False
        self._newer[item], self._older[item] = None, self._newest
        if self._newest is not None:
            self._newer[self._newest] = item
        else:
            self._oldest = item
        self._newest = item
        return False

    def _evict(self) -> None:
        hand = self._hand if self._hand is not None else self._oldest
        assert hand is not None
        while self._used[hand]:
            self._used[hand] = False
            onward = self._newer[hand]
            hand = onward if onward is not None else self._oldest
            assert hand is not None
        del self._used[hand]
        newer, older = self._newer.pop(hand), self._older.pop(hand)
        if newer is not None:
            self._older[newer] = older
        else:
            self._newest = older
        if older is not None:
            self._newer[older] = newer
        else:
            self._oldest = newer
        self._hand = newer


class S3FIFO(ReferencePolicy):
    """A small queue on trial, a main queue, and a list of ids that failed the trial."""

    SMALL_SHARE = 0.1
    MOST_USES = 3

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._small_size = max(1, int(capacity * self.SMALL_SHARE))
        self._main_size = max(1, capacity - self._small_size)
        self._small: deque[int] = deque()
        self._main: deque[int] = deque()
        self._failed: OrderedDict[int, None] = OrderedDict()
        self._uses: dict[int, int] = {}

    def __contains__(self, item: int) -> bool:
        return item in self._uses

    def access(self, item: int) -> bool:
        """As the base class says."""
        uses = self._uses.get(item)
        if uses is not None:
            self._uses[item] = min(self.MOST_USES, uses + 1)
            return True
        second_chance = item in self._failed
        while len(self._uses) >= self.capacity:
            if len(self._small) >= self._small_size or not self._main:
                self._judge_trial()
            else:
                self._evict_main()
        self._uses[item] = 0
        if second_chance:
            self._failed.pop(item, None)
            self._main.append(item)
        else:
            self._small.append(item)
        return False

    def _judge_trial(self) -> None:
        item = self._small.popleft()
        if self._uses[item] > 1:
            self._uses[item] = 0
            self._main.append(item)
            if len(self._main) > self._main_size:
                self._evict_main()
            return
        del self._uses[item]
        self._failed[item] = None
        if len(self._failed) > self._main_size:
            self._failed.popitem(last=False)

    def _evict_main(self) -> None:
        while True:
            item = self._main.popleft()
            if not self._uses[item]:
                del self._uses[item]
                return
            self._uses[item] -= 1
            self._main.append(item)


class WTinyLFU(ReferencePolicy):
    """A small LRU window before a segmented LRU that admits by aged counts."""

    WINDOW_SHARE = 0.01
    PROTECTED_SHARE = 0.8
    # Counts are halved after this many accesses per slot, and stop at 15 (four bits).
    SAMPLE = 10
    MOST_USES = 15

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._window_size = max(1, int(capacity * self.WINDOW_SHARE))
        self._main_size = capacity - self._window_size
        self._protected_size = int(self._main_size * self.PROTECTED_SHARE)
        self._window: OrderedDict[int, None] = OrderedDict()
        self._trial: OrderedDict[int, None] = OrderedDict()
        self._protected: OrderedDict[int, None] = OrderedDict()
        self._uses: dict[int, int] = {}
        self._counted = 0

    def __contains__(self, item: int) -> bool:
        return item in self._window or item in self._trial or item in self._protected

    def access(self, item: int) -> bool:
        """As the base class says."""
        self._count(item)
        for queue in (self._window, self._protected):
            if item in queue:
                queue.move_to_end(item)
                return True
        if item in self._trial:
            del self._trial[item]
            self._protected[item] = None
            if len(self._protected) > self._protected_size:
                demoted, _ = self._protected.popitem(last=False)
                self._trial[demoted] = None
            return True
        self._window[item] = None
        if len(self._window) > self._window_size:
            self._admit(self._window.popitem(last=False)[0])
        return False

    def _admit(self, candidate: int) -> None:
        if len(self._trial) + len(self._protected) < self._main_size:
            self._trial[candidate] = None
            return
        queue = self._trial or self._protected
        if not queue:
            return
        victim = next(iter(queue))
        if self._uses.get(candidate, 0) > self._uses.get(victim, 0):
            del queue[victim]
            self._trial[candidate] = None

    def _count(self, item: int) -> None:
        self._uses[item] = min(self.MOST_USES, self._uses.get(item, 0) + 1)
        self._counted += 1
        if self._counted >= self.SAMPLE * self.capacity:
            self._uses = {key: uses >> 1 for key, uses in self._uses.items() if uses > 1}
            self._counted //= 2


REFERENCES: dict[str, Callable[[int], ReferencePolicy]] = {
    "lru": LRU,
    "lfu": LFU,
    "s3fifo": S3FIFO,
    "sieve": Sieve,
    "wtinylfu": WTinyLFU,
}
