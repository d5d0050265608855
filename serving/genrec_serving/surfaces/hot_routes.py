"""The routes of most requests, answered before FastAPI.

FastAPI finds a route, resolves its dependencies and wraps the answer; for ``/v1/recommend`` and
``/v1/rank`` there is nothing to resolve. The same routes are in `rest`, for the OpenAPI page and
for applications without this layer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from genrec_serving.surfaces.api import RecommendApi
from genrec_serving.surfaces.error_responses import error_answer, retry_after


class HotRoutes:
    """Answers the hot routes and passes all other requests on.

    Args:
        app: the application behind it.
        api: answers bodies.
    """

    def __init__(self, app: ASGIApp, *, api: RecommendApi) -> None:
        self._app = app
        self._routes: dict[str, Callable[[bytes], Awaitable[bytes]]] = {
            "/v1/recommend": api.recommend,
            "/v1/rank": api.rank,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on. `RequestGuard` gives the body whole."""
        answer = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if answer is None or scope["method"] != "POST":
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
