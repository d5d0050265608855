"""A socket at which several processes ask one store of users.

With one process that keeps what all of them append, none waits for another one's turn at a file,
and what is appended at the same time is written together.
"""

from __future__ import annotations

import asyncio
import logging
from typing import cast

import msgspec

from genrec_model.errors import StoreError
from genrec_serving.sockets.frames import FrameReader, length_of
from genrec_serving.users.sent_states import SentStates
from genrec_serving.users.store import HistoryStore
from genrec_serving.users.store_wire import Append, Count, Forget, Question, Read, Reply, Tag

logger = logging.getLogger(__name__)


async def open_door(path: str, store: HistoryStore) -> asyncio.Server:
    """Listen, for as long as the loop runs; who may ask is decided by the socket's folder.

    Args:
        path: of the socket; one that a dead process left is replaced.
        store: that is asked.

    Raises:
        OSError: it cannot listen there.
    """
    sent = SentStates()
    loop = asyncio.get_running_loop()
    return await loop.create_unix_server(lambda: _Guest(store, sent), path)


class _Guest(asyncio.Protocol):
    """A process that asks."""

    def __init__(self, store: HistoryStore, sent: SentStates) -> None:
        self._store = store
        self._sent = sent
        self._frames = FrameReader()
        self._decoder = msgspec.msgpack.Decoder(Question)
        self._encoder = msgspec.msgpack.Encoder()
        self._transport: asyncio.WriteTransport | None = None
        self._asked: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        for message in self._frames.feed(data):
            task = asyncio.create_task(self._serve(self._decoder.decode(message)))
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Called by asyncio. What was asked is done all the same."""
        self._transport = None

    async def _serve(self, question: Question) -> None:
        try:
            reply = await self._answer(question)
        except StoreError as error:
            reply = Reply(question.id, error=str(error))
        except Exception:
            logger.exception("a question cannot be answered")
            reply = Reply(question.id, error="user store: it failed; see its log")
        if self._transport is not None:
            encoded = self._encoder.encode(reply)
            self._transport.writelines((length_of(encoded), encoded))

    async def _answer(self, question: Question) -> Reply:
        store = self._store
        match question:
            case Append(number, user, events, has):
                appended, state = await store.append_and_read(user, events)
                known, news = self._sent.news(user, state, has)
                return Reply(number, state=news, known=known, appended=appended)
            case Read(number, user, has):
                found = await store.read(user)
                if found is None:
                    return Reply(number)
                known, news = self._sent.news(user, found, has)
                return Reply(number, state=news, known=known)
            case Tag(number, user):
                return Reply(number, tag=await store.tag(user))
            case Forget(number, user, hide_base):
                forgotten = await store.forget(user, hide_base=hide_base)
                return Reply(number, forgotten=forgotten)
            case Count(number):
                return Reply(number, count=await store.count())
