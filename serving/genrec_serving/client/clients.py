"""The two clients: they differ in how they wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self, TypeVar

import httpx

from genrec_serving.client import exchange
from genrec_serving.client.answers import Answer, Appended, Event, Failed, ItemId, User
from genrec_serving.client.exchange import Connection, Exchange, Query

Reply = TypeVar("Reply")


class Client:
    """Asks a server, and waits for it.

    All methods raise `RequestError`, `Overloaded` and `EngineError`.

    Args:
        base_url: ``http://host:port``.
        connection: how to talk to it.
        transport: of httpx, for tests.
        sleep: waits for seconds.
    """

    def __init__(
        self,
        base_url: str,
        connection: Connection | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._connection = connection or Connection()
        self._sleep = sleep
        self._http = httpx.Client(
            base_url=base_url,
            headers=self._connection.headers,
            timeout=self._connection.timeout_s,
            transport=transport,
        )

    def recommend(self, **query: Any) -> Answer:
        """The best items for a user; arguments are those of `Query`."""
        return self.ask(Query(**query))

    def rank(self, candidates: Sequence[ItemId], **query: Any) -> Answer:
        """Items with their scores, best first; further arguments are those of `Query`."""
        return self.ask(Query(candidates=candidates, **query))

    def ask(self, query: Query) -> Answer:
        """Either."""
        return self._send(exchange.ask(query))

    def ask_all(self, queries: Sequence[Query]) -> list[Answer | Failed]:
        """Several users in one request: an answer for each, or what is wrong."""
        return self._send(exchange.ask_all(queries)).parts()

    def append(self, user_id: ItemId, events: Sequence[Event]) -> Appended:
        """Keep what a user did."""
        return self._send(exchange.append(user_id, events))

    def user(self, user_id: ItemId) -> User:
        """What is held of a user."""
        return self._send(exchange.view(user_id))

    def forget(self, user_id: ItemId) -> bool:
        """Forget a user; whether something was held."""
        return bool(self._send(exchange.forget(user_id))["forgotten"])

    def stats(self) -> dict[str, Any]:
        """The model, its engines, and what was answered so far."""
        return self._send(exchange.stats())

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, what: Exchange[Reply]) -> Reply:
        content, tries = what.content, 0
        while True:
            response, failure = None, None
            try:
                response = self._http.request(
                    what.method, what.path, content=content, headers=what.headers
                )
            except httpx.TransportError as error:
                failure = error
            tries += 1
            wait_s = None
            if response is None or not response.is_success:
                wait_s = exchange.wait_s(self._connection, tries, response)
            if wait_s is not None:
                self._sleep(wait_s)
            elif response is not None:
                return what.read(response)
            elif failure is not None:
                raise exchange.no_answer(failure) from failure


class AsyncClient:
    """As `Client`, for coroutines."""

    def __init__(
        self,
        base_url: str,
        connection: Connection | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._connection = connection or Connection()
        self._sleep = sleep
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers=self._connection.headers,
            timeout=self._connection.timeout_s,
            transport=transport,
        )

    async def recommend(self, **query: Any) -> Answer:
        """The best items for a user; arguments are those of `Query`."""
        return await self.ask(Query(**query))

    async def rank(self, candidates: Sequence[ItemId], **query: Any) -> Answer:
        """Items with their scores, best first; further arguments are those of `Query`."""
        return await self.ask(Query(candidates=candidates, **query))

    async def ask(self, query: Query) -> Answer:
        """Either."""
        return await self._send(exchange.ask(query))

    async def ask_all(self, queries: Sequence[Query]) -> list[Answer | Failed]:
        """Several users in one request: an answer for each, or what is wrong."""
        return (await self._send(exchange.ask_all(queries))).parts()

    async def append(self, user_id: ItemId, events: Sequence[Event]) -> Appended:
        """Keep what a user did."""
        return await self._send(exchange.append(user_id, events))

    async def user(self, user_id: ItemId) -> User:
        """What is held of a user."""
        return await self._send(exchange.view(user_id))

    async def forget(self, user_id: ItemId) -> bool:
        """Forget a user; whether something was held."""
        return bool((await self._send(exchange.forget(user_id)))["forgotten"])

    async def stats(self) -> dict[str, Any]:
        """The model, its engines, and what was answered so far."""
        return await self._send(exchange.stats())

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _send(self, what: Exchange[Reply]) -> Reply:
        content, tries = what.content, 0
        while True:
            response, failure = None, None
            try:
                response = await self._http.request(
                    what.method, what.path, content=content, headers=what.headers
                )
            except httpx.TransportError as error:
                failure = error
            tries += 1
            wait_s = None
            if response is None or not response.is_success:
                wait_s = exchange.wait_s(self._connection, tries, response)
            if wait_s is not None:
                await self._sleep(wait_s)
            elif response is not None:
                return what.read(response)
            elif failure is not None:
                raise exchange.no_answer(failure) from failure
