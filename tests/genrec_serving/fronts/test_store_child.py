"""The process that has the users' events, when it hangs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from genrec_serving.fronts.control import BeginStore, options_to_dict
from genrec_serving.fronts.store_child import StoreChild
from genrec_serving.fronts.supervisor import Supervisor
from genrec_serving.server_options import ServerOptions
from genrec_serving.users.connected_store import ConnectedStore
from genrec_serving.users.user_event import UserEvent

pytestmark = pytest.mark.slow


async def _until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not what():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("hang_s", [1.0, 0.0])
async def test_one_that_hangs_is_ended(tmp_path: Path, hang_s: float) -> None:
    address = f"sqlite:{tmp_path}/users.db"
    options = ServerOptions(
        artifact=str(tmp_path), user_store=address, http_processes=2, hang_s=hang_s
    )
    path = str(tmp_path / "door")
    child = StoreChild(BeginStore(options_to_dict(options), 100, path))
    supervisor = Supervisor(replace(options, engine_processes=1), tmp_path)
    supervisor._store = child
    await child.start()
    await _until(lambda: child.was_up)
    store = ConnectedStore(path, name="sqlite", events_per_user=1000)
    await store.wait_until_up()
    event = UserEvent("e1", 1003, "view", 5)
    assert (await store.append("1", [event])).accepted == 1
    for _ in range(15):
        supervisor._end_hung()
        await asyncio.sleep(0.1)
    assert not child.ended.is_set(), "it says all the time that it can be asked"

    (process,) = (
        one
        for one in psutil.Process().children()
        if "genrec_serving.fronts.store_process" in one.cmdline()
    )
    process.send_signal(signal.SIGSTOP)
    await _until(lambda: child.silent_s > 1.5)
    supervisor._end_hung()
    if hang_s:
        await _until(child.ended.is_set)
        assert child.silent_s == 0
    else:  # never
        await asyncio.sleep(0.2)
        assert not child.ended.is_set()
        process.send_signal(signal.SIGCONT)
        await _until(lambda: child.silent_s < 0.5)
    await store.close()
    await child.end(5)
