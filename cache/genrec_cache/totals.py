"""Statistics of several caches as of one: of engines that share the work of a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Statistics = dict[str, float | str]

_SUMMED = (
    *("lookups", "accesses", "hits", "unique", "unique_hits", "copies", "evictions"),
    *("out_of_range", "copies_under_way", "copy_failures", "batches_not_counted"),
    *("decisions_failed", "capacity", "residents", "slot_bytes", "host_bytes"),
)
_SAME = ("rows", "version", "host_path")


def total(parts: Sequence[Mapping[str, Any]]) -> Statistics:
    """Sums of what is counted, and rates over all.

    Args:
        parts: from `CachedTable.statistics`, at least one.

    Returns:
        The same names. The overlap is the mean by unique ids, `problem` names every cache that has
        one; what all share (rows, version) is the first one's.
    """
    sums = {name: sum(part[name] for part in parts) for name in _SUMMED}
    weights = [max(1, part["unique"]) for part in parts]
    overlap = sum(
        weight * part["hot_set_overlap"] for weight, part in zip(weights, parts, strict=True)
    ) / sum(weights)
    starts = {part["start"] for part in parts}
    problems = [f"{i}: {part['problem']}" for i, part in enumerate(parts) if part["problem"]]
    return {
        **{name: parts[0][name] for name in _SAME},
        **sums,
        "hit_rate": sums["hits"] / max(1, sums["accesses"]),
        "unique_hit_rate": sums["unique_hits"] / max(1, sums["unique"]),
        "hot_set_overlap": overlap,
        "start": starts.pop() if len(starts) == 1 else "mixed",
        "problem": "; ".join(problems),
    }
