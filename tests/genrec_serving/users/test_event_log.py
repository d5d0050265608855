"""Logs that share a list are each as a tuple of their own would be."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_serving.users.event_log import EventLog
from genrec_serving.users.user_event import UserEvent


def event(number: int) -> UserEvent:
    return UserEvent(f"e{number}", number, "view", number)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 4)), max_size=20))
def test_any_tree_of_logs_is_as_tuples(steps: list[tuple[int, int]]) -> None:
    logs, tuples = [EventLog()], [()]
    for number, (parent, count) in enumerate(steps):
        fresh = [event(10 * number + i) for i in range(count)]
        logs.append(logs[parent % len(logs)].followed_by(fresh))
        tuples.append((*tuples[parent % len(tuples)], *fresh))
    for log, wanted in zip(logs, tuples, strict=True):
        assert tuple(log) == wanted
        assert log == wanted
        assert len(log) == len(wanted)
        assert log[1:-1] == list(wanted[1:-1])
        assert [log[i] for i in range(-len(log), len(log))] == 2 * list(wanted)


def test_nothing_beyond_the_end_is_seen() -> None:
    first = EventLog([event(0)])
    first.followed_by([event(1)])
    assert event(1) not in first
    for index in (1, -2):
        with pytest.raises(IndexError, match="of 1"):
            first[index]


def test_threads_that_extend_one_log_do_not_mix() -> None:
    base = EventLog([event(0)])
    ready = threading.Barrier(4)
    found: list[EventLog] = []

    def extend(number: int) -> None:
        ready.wait()
        log = base
        for i in range(200):
            log = log.followed_by([event(1000 * number + i)])
        found.append(log)

    threads = [threading.Thread(target=extend, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(log[1].timestamp // 1000 for log in found) == [0, 1, 2, 3]
    for log in found:
        begin = log[1].timestamp
        assert [e.timestamp for e in log] == [0, *range(begin, begin + 200)]
