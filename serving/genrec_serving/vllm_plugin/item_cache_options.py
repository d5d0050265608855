"""Whether an engine caches its item table, how much of it, and what it starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from genrec_cache.totals import total
from genrec_model.errors import ConfigError

Mode = Literal["auto", "on", "off"]
_KEY = "item_cache"


@dataclass(frozen=True, kw_only=True)
class ItemCacheOptions:
    """When a model's item table is cached, and how much of it.

    Args:
        mode: ``auto``: on a GPU, for a table that is large there.
        slots: rows in the cache as a share of the table's, in (0, 1].
        slot_bytes: memory of the slots; in place of `slots` where it is given.
        above: share of the GPU's memory that a table must exceed to be large.
        artifact: folder with the items' popularity, to start from; None to start cold.
        snapshot: file in which what is learnt is kept, and from which it starts where it fits;
            None to keep nothing.

    Raises:
        ConfigError: a value is out of range.
    """

    mode: Mode = "auto"
    slots: float = 0.1
    slot_bytes: int | None = None
    above: float = 0.25
    artifact: str | None = None
    snapshot: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ConfigError(f"item cache {self.mode}: use one of {', '.join(get_args(Mode))}")
        if not 0 < self.slots <= 1 or not 0 <= self.above <= 1:
            raise ConfigError("item cache: slots must be a share in (0, 1], above one in [0, 1]")
        if self.slot_bytes is not None and self.slot_bytes < 1:
            raise ConfigError("item cache: its memory must be at least 1 byte")

    @classmethod
    def parse(cls, text: str) -> ItemCacheOptions:
        """From ``auto``, ``on``, ``off``, or a share of the table's rows, which is on too.

        Raises:
            ConfigError: it is none of these.
        """
        for mode in get_args(Mode):
            if text == mode:
                return cls(mode=mode)
        try:
            share = float(text)
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            raise ConfigError(
                f"item cache {text}: use auto, on, off, or a share of the rows above 0 and up to 1"
            )
        return cls(mode="on", slots=share)

    def why_not(self, table_bytes: int, memory: int | None) -> str | None:
        """Why a table is not cached; None where it is.

        Args:
            table_bytes: of the whole table.
            memory: bytes of the GPU that it would be on; None on a CPU.
        """
        if self.mode == "off":
            return "it is switched off"
        if self.mode == "on":
            return None
        if memory is None:
            return "on a CPU the table is in the host's memory anyway"
        if table_bytes > self.above * memory:
            return None
        return f"the table takes {table_bytes / memory:.1%} of the GPU's memory only"

    def num_slots(self, rows: int, row_bytes: int) -> int:
        """Slots for a table of so many rows, each of so many bytes; at least 1."""
        wanted = round(self.slots * rows)
        if self.slot_bytes is not None:
            wanted = self.slot_bytes // row_bytes
        return max(1, min(wanted, rows))

    def as_config(self) -> dict[str, Any]:
        """A part of vLLM's ``additional_config``."""
        return {_KEY: asdict(self)}

    @classmethod
    def from_config(cls, given: dict[str, Any]) -> ItemCacheOptions:
        """The reverse; `given` is the plugin's part. The default where there is nothing."""
        return cls(**given.get(_KEY, {}))


def all_item_caches(engines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The item caches of several engines as one, for `/v1/stats` and Prometheus.

    Args:
        engines: statistics of each; what counts is their `item_cache`.

    Returns:
        As `ItemRows.statistics`; the state is ``failed`` where any failed.
    """
    parts = [engine["item_cache"] for engine in engines]
    on = [part for part in parts if part["state"] == "on"]
    failed = [part for part in parts if part["state"] == "failed"]
    if failed:
        problems = "; ".join(part["problem"] for part in failed)
        return {**(total(on) if on else {}), "state": "failed", "problem": problems}
    return {"state": "on", **total(on)} if on else dict(parts[0])
