"""What is kept by size, against a list that does the same slowly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from genrec_serving.sized_lru import SizedLru

KEYS = st.integers(0, 5)
STEPS = st.one_of(
    st.tuples(st.just("put"), KEYS, st.integers(0, 6)),
    st.tuples(st.just("get"), KEYS, st.just(0)),
    st.tuples(st.just("pop"), KEYS, st.just(0)),
)


@given(steps=st.lists(STEPS, max_size=30), most=st.integers(0, 10), least=st.integers(0, 2))
def test_as_a_list_would_do_it(steps: list[tuple[str, int, int]], most: int, least: int) -> None:
    lru: SizedLru[int, str] = SizedLru(most, len, least=least)
    kept: list[tuple[int, str]] = []
    for step, key, size in steps:
        found = next((value for k, value in kept if k == key), None)
        rest = [entry for entry in kept if entry[0] != key]
        if step == "put":
            lru.put(key, "x" * size)
            kept = [*rest, (key, "x" * size)]
            while sum(len(value) for _, value in kept) > most and len(kept) > least:
                kept.pop(0)
        elif step == "get":
            assert lru.get(key) == found
            kept = rest if found is None else [*rest, (key, found)]
        else:
            assert lru.pop(key) == found
            kept = rest
        assert list(lru) == [k for k, _ in kept]
        assert list(lru.values()) == [value for _, value in kept]
        assert lru.size == sum(len(value) for _, value in kept)
        assert len(lru) == len(kept)
        assert (key in lru) == any(k == key for k, _ in kept)
