"""What processes counted that have ended: a sum must not fall because one of its parts is gone."""

from __future__ import annotations

from genrec_serving.telemetry.numbers import (
    Numbers,
    counters_of,
    sum_families,
    sum_requests,
)


class Retired:
    """The counts of all processes that ended, as they were when these were last asked."""

    def __init__(self) -> None:
        self.numbers: Numbers | None = None

    def add(self, numbers: Numbers | None) -> None:
        """Count in a process that ended; None where it never said what it counted."""
        if numbers is None:
            return
        parts = [part for part in (self.numbers, numbers) if part is not None]
        requests = [part.requests for part in parts if part.requests is not None]
        self.numbers = Numbers(
            families=sum_families(counters_of(part.families) for part in parts),
            requests=sum_requests(requests).without_latencies() if requests else None,
        )
