"""One budget of memory for the pages of users' histories and the slots of hot item rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec_cache.memory_split import Split, SplitSettings
from genrec_cache.split_file import load_split

#: Of the budget: what each side keeps at least, and what moves at a restart.
LEAST_SHARE = 0.05
STEP_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What an engine starts with, and what the next one may start with.

    vLLM's pool of pages has the size that it was started with, so a split holds for an engine's
    life. What is measured meanwhile tells what one step more would bring, and so the next engine's
    split is one step away at most.

    Args:
        in_force: bytes of this engine's sides.
        step: bytes that move at most.
        table_bytes: of the whole item table: more slots than that are of no use.
        file: in which the next split is kept.
    """

    in_force: Split
    step: int
    table_bytes: int
    file: Path

    @property
    def budget(self) -> int:
        """Bytes of both sides."""
        return self.in_force.kv + self.in_force.rows

    def settings(self, *, history_bytes: int) -> SplitSettings:
        """Bounds of the tuner.

        Args:
            history_bytes: pages of the longest history; two of them stay.
        """
        now, least = self.in_force, max(1, round(LEAST_SHARE * self.budget))
        least_kv = max(
            *(least, 2 * history_bytes, now.kv - self.step, self.budget - self.table_bytes)
        )
        return SplitSettings(
            step=self.step,
            least_kv=min(least_kv, now.kv),
            least_rows=min(max(least, now.rows - self.step), now.rows),
        )


def plan_memory(*, budget: int, kv: int, table_bytes: int, file: Path) -> MemoryPlan:
    """The split that an engine starts with.

    Args:
        budget: bytes of both sides.
        kv: bytes of pages at the first start; later ones go by the file.
        table_bytes: of the whole item table. What the slots could not use goes to the pages.
        file: with the split that the last engine left.
    """
    split = load_split(file, budget=budget) or Split(kv=kv, rows=budget - kv)
    rows = min(split.rows, table_bytes)
    return MemoryPlan(
        in_force=Split(kv=budget - rows, rows=rows),
        step=max(1, round(STEP_SHARE * budget)),
        table_bytes=table_bytes,
        file=file,
    )


def all_splits(engines: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Bytes of several engines together; None where they have no common budget.

    Args:
        engines: statistics of each; what counts is their `memory_split`.
    """
    parts = [engine.get("memory_split") for engine in engines]
    known = [part for part in parts if part is not None]
    if not known:
        return None
    return {
        when: {side: sum(part[when][side] for part in known) for side in ("kv", "rows")}
        for when in ("in_force", "next")
    }
