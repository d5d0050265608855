"""How far data may stray before the gate refuses it."""

from __future__ import annotations

from dataclasses import dataclass

from genrec_model.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ValidationLimits:
    """Bounds of the suite; shares and rates lie between 0 and 1.

    Args:
        min_events: fewest events.
        min_users: fewest users.
        min_items: fewest items.
        min_timestamp: earliest plausible time, unix seconds; MovieLens began in January 1995.
        max_future_s: how far ahead of this machine's clock a time may be, seconds.
        max_abs_value: largest plausible magnitude of ``value``, in the data set's unit.
        max_duplicate_share: largest share of rows that repeat an earlier row exactly.
        new_item_window: last part of the data's time span that counts as "new".
        max_new_item_share: largest share of that window's events on items first seen in it. A
            model cannot have learned these items.
        min_label_rate: lowest share of positive labels of a task.
        max_label_rate: highest share of positive labels of a task.
        min_known_share: lowest share of events whose label is known.

    Raises:
        ConfigError: a share is outside 0..1 or a lower bound is above its upper bound.
    """

    min_events: int = 1_000
    min_users: int = 50
    min_items: int = 50
    min_timestamp: int = 788_918_400
    max_future_s: int = 86_400
    max_abs_value: float = 1e6
    max_duplicate_share: float = 0.05
    new_item_window: float = 0.1
    max_new_item_share: float = 0.6
    min_label_rate: float = 0.01
    max_label_rate: float = 0.99
    min_known_share: float = 0.3

    def __post_init__(self) -> None:
        shares = (
            "max_duplicate_share",
            "new_item_window",
            "max_new_item_share",
            "min_label_rate",
            "max_label_rate",
            "min_known_share",
        )
        for name in shares:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"validation limits: {name} must lie between 0 and 1")
        if self.min_label_rate > self.max_label_rate:
            raise ConfigError("validation limits: min_label_rate is above max_label_rate")
