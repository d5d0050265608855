"""How `/metrics` and `/v1/stats` come to the numbers of other processes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from genrec_serving.surfaces.front import Front
from genrec_serving.telemetry.numbers import Numbers, collect

#: Gives the numbers of all processes, of this one too; raises `EngineError` where they cannot be
#: had in time.
Gather = Callable[[], Awaitable[list[Numbers]]]


def own_numbers(front: Front) -> Numbers:
    """What this process counts."""
    return Numbers(
        families=collect(),
        requests=front.metrics.numbers(),
        admission=front.admission.snapshot(),
    )
