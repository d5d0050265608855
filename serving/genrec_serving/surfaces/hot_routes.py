"""The routes of most requests, answered before FastAPI.

FastAPI finds a route, resolves its dependencies and wraps the answer; for ``/v1/recommend``,
``/v1/rank`` and appended events there is little to resolve. The same routes are in `rest` and
`rest_users`, for the OpenAPI page and for applications without this layer.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from functools import partial

from starlette.types import ASGIApp, Receive, Scope, Send

from genrec_serving.surfaces.api import RecommendApi
from genrec_serving.surfaces.error_responses import error_answer, retry_after
from genrec_serving.surfaces.front import GetRecommender
from genrec_serving.surfaces.rest_users import append_events
from genrec_serving.users.events import MAX_ID_LENGTH

#: Appended events of a user; ids that the route of FastAPI refuses are left to it.
_APPEND = re.compile(rf"/v1/users/([^/]{{1,{MAX_ID_LENGTH}}})/events")


class HotRoutes:
    """Answers the hot routes and passes all other requests on.

    Args:
        app: the application behind it.
        api: answers bodies.
        recommender: whose users events are of.
    """

    def __init__(self, app: ASGIApp, *, api: RecommendApi, recommender: GetRecommender) -> None:
        self._app = app
        self._recommender = recommender
        self._routes: dict[str, Callable[[bytes], Awaitable[bytes]]] = {
            "/v1/recommend": api.recommend,
            "/v1/rank": api.rank,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on. `RequestGuard` gives the body whole."""
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        answer = self._answer_of(scope["path"]) if is_post else None
        if answer is None:
            await self._app(scope, receive, send)
            return
        body = (await receive())["body"]
        status, headers = 200, [(b"content-type", b"application/json")]
        try:
            content = await answer(body)
        except Exception as error:
            # As the application's handlers would: every error has its answer.
            status, content, again_s = error_answer(scope["path"], error)
            if again_s is not None:
                headers.append((b"retry-after", retry_after(again_s).encode()))
        headers.append((b"content-length", str(len(content)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _answer_of(self, path: str) -> Callable[[bytes], Awaitable[bytes]] | None:
        answer = self._routes.get(path)
        if answer is None and (append := _APPEND.fullmatch(path)) is not None:
            return partial(append_events, self._recommender, append[1], now=int(time.time()))
        return answer
