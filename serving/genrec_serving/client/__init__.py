"""A typed client of the REST API; it imports nothing heavy.

::

    with Client("http://localhost:8080") as client:
        client.append(42, [Event(item_id=1000, action="view", timestamp=1700000000)])
        for item in client.recommend(user_id=42, k=5).items:
            ...

`AsyncClient` is the same with ``await``. Both raise what `genrec_model.errors` says the server's
answer means: `RequestError` for a mistake in the request, `Overloaded` and `EngineError` where to
try again later is right, which the client does itself as often as it is told to.
"""

from genrec_serving.client.answers import Answer, Appended, Event, Failed, ScoredItem, User
from genrec_serving.client.clients import AsyncClient, Client
from genrec_serving.client.exchange import Connection, Query

__all__ = [
    "Answer",
    "Appended",
    "AsyncClient",
    "Client",
    "Connection",
    "Event",
    "Failed",
    "Query",
    "ScoredItem",
    "User",
]
