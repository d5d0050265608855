"""Memory of this process."""

from __future__ import annotations

import psutil


def resident_mb(pid: int | None = None) -> float:
    """Resident memory in MB, of this process where no other is named."""
    return float(psutil.Process(pid).memory_info().rss) / 1e6
