"""Who gets a place, who waits, and who is refused. No test waits for a clock."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from prometheus_client import CollectorRegistry

from genrec_model.errors import ConfigError, Overloaded
from genrec_serving.surfaces.admission import Admission, AdmissionLimits
from genrec_serving.surfaces.request_context import CONTEXT, RequestContext


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """An admission, and requests that stay as long as the test wants."""

    def __init__(self, **limits: float) -> None:
        self.registry = CollectorRegistry()
        self.clock = Clock()
        self.admission = Admission(
            AdmissionLimits(**limits), clock=self.clock, registry=self.registry
        )
        self.entered: list[str] = []

    async def _stay(self, name: str, users: int, done: asyncio.Event) -> float:
        async with self.admission.place(users) as waited_s:
            self.entered.append(name)
            await done.wait()
        return waited_s

    async def come(self, name: str, users: int = 1) -> tuple[asyncio.Task[float], asyncio.Event]:
        done = asyncio.Event()
        task = asyncio.create_task(self._stay(name, users, done))
        await settle()
        return task, done

    def counted(self, reason: str) -> float:
        labels = {"reason": reason}
        return self.registry.get_sample_value("genrec_requests_refused_total", labels) or 0


async def settle() -> None:
    """Let every task go as far as it gets."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_first_come_first_served() -> None:
    desk = Desk(running=2)
    first, first_done = await desk.come("a")
    _, b_done = await desk.come("b")
    third, c_done = await desk.come("c")
    fourth, d_done = await desk.come("d")
    assert (desk.entered, desk.admission.running, desk.admission.waiting) == (["a", "b"], 2, 2)
    assert desk.registry.get_sample_value("genrec_queue_users") == 2
    assert desk.registry.get_sample_value("genrec_running_users") == 2
    desk.clock.now = 0.25
    first_done.set()
    assert await first == 0
    await settle()
    assert desk.entered == ["a", "b", "c"]
    for done in (b_done, c_done, d_done):
        done.set()
    assert (await third, await fourth) == (0.25, 0.25)
    assert (desk.admission.running, desk.admission.waiting) == (0, 0)


async def test_a_full_queue_is_a_429_at_once() -> None:
    desk = Desk(running=1, waiting=1)
    _, done = await desk.come("a")
    waiting, waiting_done = await desk.come("b")
    refused, _ = await desk.come("c")
    with pytest.raises(Overloaded, match="1 users wait already") as caught:
        await refused
    assert (caught.value.status, desk.counted("queue_full")) == (429, 1)
    done.set()
    waiting_done.set()
    await waiting


async def test_no_queue_at_all() -> None:
    desk = Desk(running=1, waiting=0)
    _, done = await desk.come("a")
    refused, _ = await desk.come("b")
    with pytest.raises(Overloaded):
        await refused
    done.set()


async def test_who_would_wait_too_long_is_refused_before_the_queue_is_full() -> None:
    desk = Desk(running=2, waiting=100, wait_s=1.0, hold_s=9)
    task, done = await desk.come("a")
    desk.clock.now = 0.8  # that is how long one holds its place
    done.set()
    await task
    ends = [(await desk.come(name))[1] for name in "bcde"]
    assert desk.admission.waiting == 2  # the second of them waits about .8 s
    refused, _ = await desk.come("f")
    with pytest.raises(Overloaded, match=r"about 1\.2 s") as caught:
        await refused
    assert (caught.value.status, caught.value.retry_after_s) == (429, pytest.approx(0.8))
    assert desk.counted("too_slow") == 1
    for end in ends:
        end.set()


async def test_one_whose_turn_is_later_is_refused_unless_it_is_quiet() -> None:
    desk = Desk(running=8, waiting=1)
    desk.admission._shedding._share = 0.5
    users = [str(user).encode() for user in range(100)]
    desk.admission._shedding._window_ends = 1e9
    later = next(user for user in users if desk.admission._shedding.turn_in_s(user) > 9)
    now = next(user for user in users if not desk.admission._shedding.turn_in_s(user))
    async with AsyncExitStack() as stack:
        for _ in range(2):  # a quarter of the places
            await stack.enter_async_context(desk.admission.place(who=later))
        with pytest.raises(Overloaded, match="others have their turn") as caught:
            async with desk.admission.place(who=later):
                pass
        assert (caught.value.status, caught.value.retry_after_s) == (429, 5)
        assert desk.counted("not_your_turn") == 1
        await stack.enter_async_context(desk.admission.place(who=now))
    assert desk.admission.snapshot()["share"] == 0.5


async def test_a_client_in_a_hurry_is_refused_earlier() -> None:
    desk = Desk(running=1, waiting=100, wait_s=1.0, hold_s=9)
    task, done = await desk.come("a")
    desk.clock.now = 0.8
    done.set()
    await task
    _, end = await desk.come("b")
    CONTEXT.set(RequestContext(request_id="1", timeout_s=0.5))
    refused, _ = await desk.come("c")
    with pytest.raises(Overloaded, match=r"about 0\.8 s"):
        await refused
    end.set()


async def test_a_slow_engine_is_asked_less_and_a_fast_one_more() -> None:
    desk = Desk(running=16, hold_s=0.25)

    async def round_of(seconds: float, visitors: int) -> None:
        stays = [await desk.come(str(i)) for i in range(visitors)]
        desk.clock.now += seconds
        for task, done in stays:
            done.set()
            await task

    assert desk.admission.places == 16
    for _ in range(3):
        await round_of(0.3, visitors=16)
    assert desk.admission.places == 11  # a tenth of a place for each of 48 requests
    await round_of(0.1, visitors=1)
    assert desk.admission.places == 11  # it is fast, but nobody waits
    for _ in range(70):
        await round_of(0.0, visitors=17)
    assert desk.admission.places == 16
    for _ in range(99):
        await round_of(1.0, visitors=1)
    assert desk.admission.places == 8
    assert desk.registry.get_sample_value("genrec_places") == pytest.approx(8)


@pytest.mark.parametrize("inside", [True, False])
async def test_a_passed_deadline_is_a_503_and_frees_the_place(inside: bool) -> None:
    desk = Desk(running=1)
    end = None if inside else (await desk.come("a"))[1]
    CONTEXT.set(RequestContext(request_id="1", timeout_s=0.001))
    with pytest.raises(Overloaded, match=r"within 0\.001 s") as caught:
        async with desk.admission.place():
            await asyncio.Event().wait()  # an engine that hangs
    assert (caught.value.status, desk.counted("expired")) == (503, 1)
    assert desk.admission.waiting == 0
    assert desk.admission.running == (0 if inside else 1)
    if end is not None:
        end.set()


@pytest.mark.parametrize("inside", [True, False])
async def test_a_client_that_hangs_up_releases_its_place(inside: bool) -> None:
    desk = Desk(running=1)
    first, first_done = await desk.come("a")
    second, second_done = await desk.come("b")
    third, third_done = await desk.come("c")
    (first if inside else second).cancel()
    await settle()
    assert desk.admission.waiting == 1
    assert desk.counted("cancelled") == 1
    for done in (first_done, second_done, third_done):
        done.set()
    await third
    assert (desk.admission.running, desk.admission.waiting) == (0, 0)


async def test_one_who_hangs_up_as_its_place_comes_passes_it_on() -> None:
    desk = Desk(running=1)
    _, first_done = await desk.come("a")
    second, _ = await desk.come("b")
    third, third_done = await desk.come("c")
    first_done.set()
    while desk.admission.waiting == 2:
        await asyncio.sleep(0)
    second.cancel()  # its place is given, but it did not wake up yet
    third_done.set()
    await third
    assert desk.entered == ["a", "c"]
    assert (desk.admission.running, desk.admission.waiting) == (0, 0)


async def test_one_who_hung_up_is_not_called() -> None:
    desk = Desk(running=1)
    first, first_done = await desk.come("a")
    second, _ = await desk.come("b")
    first_done.set()
    second.cancel()  # both at once: the place is free before the queue knows
    await first
    await settle()
    assert desk.entered == ["a"]
    assert (desk.admission.running, desk.admission.waiting) == (0, 0)


async def test_a_batch_counts_for_its_users() -> None:
    desk = Desk(running=4, waiting=4)
    _, three_done = await desk.come("three", 3)
    _, large_done = await desk.come("large", 9)  # more than all places, and than the queue
    small, small_done = await desk.come("small", 1)
    assert desk.entered == ["three"]
    with pytest.raises(Overloaded):
        await small
    three_done.set()
    await settle()
    assert desk.entered == ["three", "large"]
    assert desk.admission.running == 9
    _, small_done = await desk.come("small", 1)
    large_done.set()
    await settle()
    assert desk.entered == ["three", "large", "small"]
    small_done.set()


async def test_places_are_given_back_by_failures() -> None:
    desk = Desk(running=1)
    for _ in range(3):
        async with AsyncExitStack() as stack:
            with pytest.raises(ZeroDivisionError):
                async with desk.admission.place():
                    raise ZeroDivisionError
            await stack.aclose()
    assert desk.admission.running == 0
    assert desk.admission.snapshot()["mean_ms"] is None  # failures are fast, and teach nothing


@pytest.mark.parametrize(
    "limits", [{"running": 0}, {"waiting": -1}, {"wait_s": 0}, {"hold_s": 0}, {"deadline_s": -1}]
)
def test_limits(limits) -> None:
    with pytest.raises(ConfigError, match="makes no sense"):
        AdmissionLimits(**limits)
