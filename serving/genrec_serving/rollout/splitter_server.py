"""Running an ASGI application on a port of this machine, in a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from genrec_model.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 20.0


@contextmanager
def running(app: ASGIApp, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve an application, such as `Splitter.app`, until the block ends; yields its base URL.

    Args:
        port: 0 takes a free one.

    Raises:
        ConfigError: the port cannot be had.
        EngineError: the server does not come up.
    """
    import uvicorn

    class Server(uvicorn.Server):
        """Leaves the process's signals to the process."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    listener = _listen(host, port)
    address = listener.getsockname()
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5)
    server = Server(config)
    thread = threading.Thread(
        target=server.run, args=([listener],), name="genrec-splitter", daemon=True
    )
    thread.start()
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise EngineError(f"the splitter at {address[0]}:{address[1]} does not come up")
            time.sleep(0.01)
        yield f"http://{address[0]}:{address[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        if thread.is_alive():
            logger.warning("the splitter's thread is still busy; it ends with this process")
        with contextlib.suppress(OSError):
            listener.close()


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise ConfigError(f"the splitter cannot listen at {host}:{port}: {error}") from error
    return listener
