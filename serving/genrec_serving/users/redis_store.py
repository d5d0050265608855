"""Events in Redis or Valkey: all replicas of a server see the same.

What is acknowledged is as safe as the Redis server is told to make it: `appendonly yes` with
`appendfsync always` for every append on its disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError, WatchError

from genrec_model.errors import ConfigError, StoreError
from genrec_serving.users.events import UserState
from genrec_serving.users.state_store import Change, Result, StateStore

Value = TypeVar("Value")

PREFIX = "genrec:user:"
#: Tries of a change while others change the same user.
TRIES = 20


class RedisStore(StateStore):
    """A hash a user, with the fields `tag` and `state`.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``; it may hold a password, and is never shown.
        events_per_user: most events that are kept of a user.
        timeout_s: for one answer of the server.

    Raises:
        ConfigError: the URL makes no sense.
    """

    name = "redis"

    def __init__(self, url: str, *, events_per_user: int, timeout_s: float = 2.0) -> None:
        super().__init__(events_per_user=events_per_user)
        try:
            self._redis: Any = Redis.from_url(
                url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
            )
        except (ValueError, RedisError):
            # Without its message, which may show the URL.
            raise ConfigError("user store redis: the URL makes no sense") from None

    async def read(self, user: str) -> UserState | None:
        """As the base class says."""
        found: bytes | None = await _answer(self._redis.hget(PREFIX + user, "state"))
        return None if found is None else self._decode(found)

    async def tag(self, user: str) -> str | None:
        """As the base class says."""
        tag: bytes | None = await _answer(self._redis.hget(PREFIX + user, "tag"))
        return None if tag is None else tag.decode()

    async def update(self, user: str, change: Change[Result]) -> Result:
        """As the base class says; tried again where another replica was faster."""
        for _ in range(TRIES):
            try:
                return await _answer(self._try_update(PREFIX + user, change))
            except WatchError:
                # Another one changed this user between our reading and our writing.
                await asyncio.sleep(0)
        raise StoreError(f"user store redis: a user changed {TRIES} times while it was written")

    async def remove(self, user: str) -> bool:
        """As the base class says."""
        return bool(await _answer(self._redis.delete(PREFIX + user)))

    async def count(self) -> int | None:
        """Not known: the keys would have to be walked through."""
        return None

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _try_update(self, key: str, change: Change[Result]) -> Result:
        async with self._redis.pipeline(transaction=True) as pipeline:
            await pipeline.watch(key)
            found: bytes | None = await pipeline.hget(key, "state")
            before = None if found is None else self._decode(found)
            after, result = change(before)
            if before is None or after.tag != before.tag:
                pipeline.multi()
                state = self._encode(after)
                pipeline.hset(key, mapping={"tag": after.tag, "state": state})
                await pipeline.execute()
        return result


async def _answer(answer: Awaitable[Value]) -> Value:
    try:
        return await answer
    except WatchError:
        raise
    except (RedisError, OSError) as error:
        raise StoreError(f"user store redis: {type(error).__name__}") from error
