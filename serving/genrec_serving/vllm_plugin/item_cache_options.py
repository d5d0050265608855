"""Whether an engine caches its item table, how much of it, and what it starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from genrec_cache.totals import total
from genrec_model.errors import ConfigError

Mode = Literal["auto", "on", "off"]
Search = Literal["auto", "compact", "stream"]
_KEY = "item_cache"
_SEARCH_COUNTS = (
    *("searches", "search_streams", "search_fallbacks"),
    *("search_rows", "search_bytes"),
)


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
        search: how retrieval reads a cached table. ``stream``: the whole of it crosses the link
            once a search. ``compact``: by a copy of its unit vectors in eight bits on the device,
            and the rows that may be among the best. ``auto``: the latter on a GPU, where the copy
            takes no more than `search_share`.
        search_share: of the GPU's memory, for that copy.

    Raises:
        ConfigError: a value is out of range.
    """

    mode: Mode = "auto"
    slots: float = 0.1
    slot_bytes: int | None = None
    above: float = 0.25
    artifact: str | None = None
    snapshot: str | None = None
    search: Search = "auto"
    search_share: float = 0.25

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ConfigError(f"item cache {self.mode}: use one of {', '.join(get_args(Mode))}")
        if not 0 < self.slots <= 1 or not 0 <= self.above <= 1:
            raise ConfigError("item cache: slots must be a share in (0, 1], above one in [0, 1]")
        if self.search not in get_args(Search):
            raise ConfigError(
                f"item cache, search {self.search}: use one of {', '.join(get_args(Search))}"
            )
        if not 0 <= self.search_share <= 1:
            raise ConfigError("item cache: search_share must be a share in [0, 1]")
        if self.slot_bytes is not None and self.slot_bytes < 1:
            raise ConfigError("item cache: its memory must be at least 1 byte")

    @classmethod
    def parse(cls, text: str) -> ItemCacheOptions:
        """From ``auto``, ``on``, ``off``, or a share of the table's rows, which is on too.

        After a comma may come how retrieval searches: ``0.1,stream``.

        Raises:
            ConfigError: it is none of these.
        """
        first, comma, second = text.partition(",")
        search: Search = "auto"
        for known in get_args(Search):
            if second == known:
                search = known
        if comma and second not in get_args(Search):
            raise ConfigError(
                f"item cache {text}: after the comma use one of {', '.join(get_args(Search))}"
            )
        for mode in get_args(Mode):
            if first == mode:
                return cls(mode=mode, search=search)
        try:
            share = float(first)
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            raise ConfigError(
                f"item cache {text}: use auto, on, off, or a share of the rows above 0 and up to 1"
            )
        return cls(mode="on", slots=share, search=search)

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

    def why_no_copy(self, copy_bytes: int, memory: int | None) -> str | None:
        """Why retrieval has no copy of the table in eight bits; None where it has one.

        Args:
            copy_bytes: of the copy.
            memory: bytes of the GPU that it would be on; None on a CPU.
        """
        if self.search == "stream":
            return "the whole table is asked for"
        if self.search == "compact":
            return None
        if memory is None:
            return "on a CPU no row crosses a link"
        if copy_bytes <= self.search_share * memory:
            return None
        return (
            f"the copy would take {copy_bytes / memory:.1%} of the GPU's memory, more than "
            f"{self.search_share:.1%}"
        )

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
    if not on:
        return dict(parts[0])
    return {"state": "on", **total(on), **_all_searches(on)}


def _all_searches(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums of what searches count, where they do; how they search is the first one's."""
    names = [name for name in _SEARCH_COUNTS if all(name in part for part in parts)]
    same = [name for name in ("search", "search_why") if name in parts[0]]
    return {
        **{name: parts[0][name] for name in same},
        **{name: sum(part[name] for part in parts) for name in names},
    }
