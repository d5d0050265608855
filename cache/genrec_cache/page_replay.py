"""Replays of users' visits through a pool of pages: how many pages are found again.

A visit asks for the whole pages of the user's history; those that are there from its start on are
hits, the others are computed, and stay. When the pool is full, pages leave from the ends of
chains. A model sees the latest events of a history, and drops the oldest in chunks: then all pages
are new.

Letters in shapes: E events, N visits.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrec_cache.return_order import ReturnOrder, ReturnSettings

Ints = NDArray[np.int64]

PAGE_POLICIES = ("return", "lru", "optimum")
# One chain of pages a user at a time; a user's chains differ in the chunks that were dropped.
_CHUNKS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class HistoryRule:
    """What a visit is, and what the model sees of a history.

    Args:
        gap_s: a visit comes after more seconds than that without an event; 0: every moment with
            events is one.
        events: of a history at most.
        chunk: events that are dropped at once from a longer one.
        page_rows: rows of a page; a history has one row more than events.
    """

    gap_s: int = 0
    events: int = 255
    chunk: int = 64
    page_rows: int = 16


@dataclass(frozen=True, kw_only=True)
class Visits:
    """Visits in order of time.

    Args:
        users: who came, from 0, [N].
        chains: which pages they ask for: one number as long as the start of the history stays, [N].
        pages: how many of them, [N].
        most: pages of all users at the end.
    """

    users: Ints
    chains: Ints
    pages: Ints
    most: int


def visits_of(users: Ints, times: Ints, rule: HistoryRule) -> Visits:
    """The visits that a stream of events would have brought: each before its first event.

    Args:
        users: of each event in order of time, from 0, [E].
        times: unix seconds, [E].
        rule: what a visit is.
    """
    events: dict[int, int] = {}
    last: dict[int, int] = {}
    out: list[tuple[int, int, int]] = []
    for user, moment in zip(users.tolist(), times.tolist(), strict=True):
        known = events.get(user, 0)
        if known and moment - last[user] > rule.gap_s:
            out.append((user, *_window(user, known, rule)))
        last[user] = moment
        events[user] = known + 1
    table = np.array(out, np.int64).reshape(-1, 3)
    most = sum(_window(user, known, rule)[1] for user, known in events.items())
    return Visits(users=table[:, 0], chains=table[:, 1], pages=table[:, 2], most=most)


def page_hits(
    visits: Visits, pages: int, *, policy: str, settings: ReturnSettings | None = None
) -> float:
    """Hits of all pages that were asked for, starting with an empty pool.

    Args:
        visits: see :class:`Visits`.
        pages: of the pool, at least 1.
        policy: one of :data:`PAGE_POLICIES`.
        settings: of the policy ``return``.

    Raises:
        ValueError: the policy is unknown, or there is nothing to replay.
    """
    if not int(visits.pages.sum()) or pages < 1:
        raise ValueError("without pages there is nothing to replay")
    if policy == "return":
        return _by_return(visits, pages, settings)
    if policy == "lru":
        return _by_key(visits, pages, lambda visit: visit)
    if policy == "optimum":
        due = _next_of_chain(visits.chains)
        return _by_key(visits, pages, lambda visit: -due[visit])
    raise ValueError(f"policy {policy!r} is unknown: use one of {', '.join(PAGE_POLICIES)}")


def _window(user: int, events: int, rule: HistoryRule) -> tuple[int, int]:
    """Chain and whole pages of a history of so many events."""
    chunks = -(-max(events - rule.events, 0) // rule.chunk)
    return user * _CHUNKS + chunks, (events - chunks * rule.chunk + 1) // rule.page_rows


def _next_of_chain(chains: Ints) -> list[int]:
    """Visit that asks for the same chain again; beyond the last one where there is none."""
    again: dict[int, int] = {}
    out = []
    for visit in range(len(chains) - 1, -1, -1):
        out.append(again.get(int(chains[visit]), len(chains)))
        again[int(chains[visit])] = visit
    return out[::-1]


def _by_key(visits: Visits, pages: int, worth: Callable[[int], int]) -> float:
    """The chain with the least worth, as it was at its last visit, loses pages."""
    held: dict[int, int] = {}
    worth_of: dict[int, int] = {}
    least: list[tuple[int, int]] = []
    used = hits = 0
    for visit, (chain, asked) in enumerate(
        zip(visits.chains.tolist(), visits.pages.tolist(), strict=True)
    ):
        found = held.get(chain, 0)
        hits += min(found, asked)
        if not asked:
            continue
        held[chain] = max(found, asked)
        used += held[chain] - found
        worth_of[chain] = worth(visit)
        heapq.heappush(least, (worth_of[chain], chain))
        while used > pages:
            value, victim = least[0]
            if victim in held and worth_of[victim] == value:
                gone = min(held[victim], used - pages)
                held[victim] -= gone
                used -= gone
            if not held.get(victim) or worth_of[victim] != value:
                heapq.heappop(least)
                if not held.get(victim, 1):
                    del held[victim]
    return hits / int(visits.pages.sum())


def _by_return(visits: Visits, pages: int, settings: ReturnSettings | None) -> float:
    order = ReturnOrder(pages, settings)
    held: dict[object, int] = {}
    used = hits = 0
    for user, chain, asked in zip(
        visits.users.tolist(), visits.chains.tolist(), visits.pages.tolist(), strict=True
    ):
        found = held.get(chain, 0)
        hits += min(found, asked)
        if asked:
            held[chain] = max(found, asked)
            used += held[chain] - found
        order.visit(user, chain, asked)
        while used > pages:
            victim = order.victim()
            assert victim is not None
            gone = min(held[victim], used - pages)
            held[victim] -= gone
            used -= gone
            if not held[victim]:
                del held[victim]
                order.drop(victim)
    return hits / int(visits.pages.sum())
