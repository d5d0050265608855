"""The rule by which events become a history, whatever the store."""

from hypothesis import given
from hypothesis import strategies as st

from genrec_model.features.rows import window_start
from genrec_serving.users.events import TRIM, UserState, merge
from genrec_serving.users.user_event import UserEvent


def event(name: str, time: int) -> UserEvent:
    return UserEvent(event_id=name, item_id=1, action="view", timestamp=time)


EVENTS = st.lists(
    st.builds(event, st.text("abcdefgh", min_size=1, max_size=2), st.integers(0, 9)), max_size=30
)


@given(EVENTS, EVENTS)
def test_appending_twice_is_appending_once(first, second) -> None:
    once, _ = merge(None, [*first, *second], limit=1000)
    state, _ = merge(None, first, limit=1000)
    state, appended = merge(state, second, limit=1000)
    assert state.events == once.events
    again, repeated = merge(state, [*second, *first], limit=1000)
    assert again is state
    assert repeated == (0, len(first) + len(second), 0, len(state.events))
    assert appended.held == len(state.events)


@given(EVENTS)
def test_events_are_in_time_order_and_unique(events) -> None:
    state, appended = merge(None, events, limit=1000)
    times = [e.timestamp for e in state.events]
    assert times == sorted(times)
    ids = [e.event_id for e in state.events]
    assert len(set(ids)) == len(ids) == appended.accepted == len({e.event_id for e in events})


def test_events_of_one_second_stay_as_they_came() -> None:
    state, _ = merge(None, [event("b", 5), event("a", 5), event("c", 4)], limit=1000)
    assert [e.event_id for e in state.events] == ["c", "b", "a"]


def test_old_events_leave_in_whole_chunks_so_that_the_window_stays() -> None:
    """Whatever was appended, the model's window starts at a multiple of the chunk from the first
    event ever: a page that is cached stays one.
    """
    state: UserState | None = None
    longest, limit = 600, 600 + TRIM
    total = 0
    for batch in (100, 300, 1, 1, 57, 256, 3, 1000, 1):
        events = [event(f"e{total + i}", total + i) for i in range(batch)]
        state, appended = merge(state, events, limit=limit)
        total += batch
        assert longest <= min(total, appended.held) or total < longest
        assert appended.held <= limit
        for chunk in (16, 32, 64, 128, 512):
            start = window_start(appended.held, longest, chunk)
            assert state.events[start].timestamp == window_start(total, longest, chunk)


def test_what_was_dropped_does_not_come_back() -> None:
    events = [event(f"e{i}", i) for i in range(1200)]
    state, appended = merge(None, events, limit=1024)
    assert appended.held == 1200 - TRIM
    assert state.horizon == TRIM - 1
    again, repeated = merge(state, events[:10], limit=1024)
    assert again is state
    assert repeated == (0, 0, 10, 1200 - TRIM)
