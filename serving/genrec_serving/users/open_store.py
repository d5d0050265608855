"""The store that an option names."""

from __future__ import annotations

from pathlib import Path

from genrec_model.errors import ConfigError
from genrec_serving.users.events import TRIM
from genrec_serving.users.memory_store import MemoryStore
from genrec_serving.users.store import HistoryStore

#: What a model must see, and as much again, is kept of each user at least.
DEFAULT_EVENTS = 4096
DEFAULT_USERS = 100_000


def lives_with_server(address: str) -> bool:
    """Whether a store is one that this machine's server holds itself, unlike Redis."""
    return store_name(address) in {MemoryStore.name, "sqlite"}


def store_name(address: str) -> str:
    """Name of the kind of store."""
    return address.partition(":")[0]


def events_kept(max_history: int, events_per_user: int | None) -> int:
    """Most events that are kept of a user.

    Args:
        max_history: events that the model sees.
        events_per_user: what the operator says; enough for the model where None.

    Raises:
        ConfigError: these are too few.
    """
    needed = max_history + TRIM
    events = max(DEFAULT_EVENTS, needed) if events_per_user is None else events_per_user
    if events < needed:
        raise ConfigError(
            f"{events} events a user are too few: this model sees {max_history}, and old events "
            f"leave {TRIM} at a time; keep {needed} or more"
        )
    return events


def open_store(
    address: str,
    *,
    max_history: int,
    events_per_user: int | None = None,
    max_users: int = DEFAULT_USERS,
    own_process: bool = False,
) -> HistoryStore:
    """Open a store.

    Args:
        address: ``memory``, ``sqlite:PATH``, or the URL of a Redis or Valkey server.
        max_history: events that the model sees.
        events_per_user: most events that are kept of a user; enough for the model where None.
        max_users: most users that ``memory`` keeps.
        own_process: whether this process does nothing but keep the store.

    Raises:
        ConfigError: it is no such address, cannot be opened, or keeps too few events.
    """
    events = events_kept(max_history, events_per_user)
    kind, _, rest = address.partition(":")
    if address == MemoryStore.name:
        return MemoryStore(events_per_user=events, max_users=max_users)
    if kind == "sqlite" and rest:
        from genrec_serving.users.sqlite_store import SqliteStore

        return SqliteStore(Path(rest), events_per_user=events, threads=not own_process)
    if kind in {"redis", "rediss", "unix", "valkey", "valkeys"} and rest:
        from genrec_serving.users.redis_store import RedisStore

        return RedisStore(address.replace("valkey", "redis", 1), events_per_user=events)
    # Not the address itself, which may hold a password.
    raise ConfigError("the user store is none of: memory, sqlite:PATH, redis://HOST:PORT")
