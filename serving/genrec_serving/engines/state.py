"""How engines do that another process started."""

from __future__ import annotations

import msgspec


class EngineState(msgspec.Struct, frozen=True):
    """As `SupervisedEngine.describe` says; ``starting`` before the first start."""

    state: str = "starting"
    restarts: int = 0
    cause: str | None = None
