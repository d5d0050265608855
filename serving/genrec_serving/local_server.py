"""A model server as a process on this machine, for tests, demonstrations and local rollouts."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from genrec_model.errors import EngineError

LOCALHOST = "127.0.0.1"
_TAIL_LINES = 15


class LocalModelServer:
    """Starts ``python -m genrec_serving.server`` on free ports and waits until it is ready.

    ::

        with LocalModelServer("runs/demo/artifact", log=Path("server.log")) as server:
            httpx.post(f"{server.base_url}/v1/recommend", json={"history": []})

    Args:
        artifact: as the server takes it.
        log: file for what the server writes; replaced.
        model_name: name in the URLs.
        histories: event table of known users.
        strategy: engine of requests that name none.
        kv_cache_mb: memory for cached histories, in MiB.
        threads: CPU threads of an engine.
        options: further arguments of the server.
        timeout_s: most seconds until it is ready.

    Raises:
        EngineError: it ended, or was not ready in time; with the last lines of its log.
    """

    def __init__(
        self,
        artifact: Path | str,
        *,
        log: Path,
        model_name: str = "genrec",
        histories: Path | None = None,
        strategy: str = "auto",
        kv_cache_mb: int = 128,
        threads: int = 1,
        options: Sequence[str] = (),
        timeout_s: float = 180,
    ) -> None:
        http_port, grpc_port = _free_ports(2)
        self.model_name = model_name
        self.log = log
        self.base_url = f"http://{LOCALHOST}:{http_port}"
        self.grpc_url = f"{LOCALHOST}:{grpc_port}"
        command = [sys.executable, "-m", "genrec_serving.server"]
        command += ["--artifact", str(artifact), "--model-name", model_name]
        command += ["--http-port", str(http_port), "--grpc-port", str(grpc_port)]
        command += ["--host", LOCALHOST, "--strategy", strategy]
        command += ["--kv-cache-mb", str(kv_cache_mb), "--threads", str(threads)]
        if histories is not None:
            command += ["--histories", str(histories)]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, *options], stdout=output, stderr=subprocess.STDOUT
            )
        try:
            self._wait(timeout_s)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process.poll() is None

    def stop(self, timeout_s: float = 30) -> None:
        """End the process, gracefully at first. Stopping it again does nothing."""
        if not self.running:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _wait(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self.running:
                raise EngineError(
                    f"the model server ended with exit code {self._process.returncode}; "
                    f"{self._tail()}"
                )
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.base_url}/readyz", timeout=5).status_code == 200:
                    return
            time.sleep(0.2)
        raise EngineError(f"the model server was not ready in {timeout_s:g} s; {self._tail()}")

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join([f"the end of {self.log}:", *lines])


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((LOCALHOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]
