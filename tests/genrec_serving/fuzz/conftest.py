"""What all fuzzing has in common: it is bounded, repeatable, and the server survives it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from hypothesis import HealthCheck, settings

#: Examples of each test; the same in every run.
settings.register_profile(
    "fuzz",
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
FUZZ = settings.get_profile("fuzz")
#: Seconds after which a request counts as stuck.
STUCK_S = 20


@pytest.fixture(scope="module", autouse=True)
def survives(server) -> Iterator[None]:
    """After all that the server is ready and nothing is in flight."""
    yield
    with httpx.Client(base_url=server.base_url, timeout=STUCK_S) as client:
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/recommend", json={"history": []}).status_code == 200
        admission = client.get("/v1/stats").json()["admission"]
        assert (admission["running"], admission["waiting"]) == (0, 0)


def assert_no_fault(status: int, text: str) -> None:
    """No 5xx but the 503 of an engine that this server does not have."""
    assert status < 500 or (status == 503 and "engine" in text), f"{status}: {text[:500]}"
