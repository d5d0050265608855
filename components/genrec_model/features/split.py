"""Train, validation and test periods: by time, never by random row."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from genrec_model.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class TimeSplit:
    """Unix seconds at which the validation and the test period start."""

    validation: int
    test: int

    @classmethod
    def by_share(cls, events: pl.DataFrame, *, validation: float, test: float) -> TimeSplit:
        """Split so that the last `test` share of events is the test period, and so on.

        Raises:
            ConfigError: the shares leave nothing to train on.
            DataError: a period would be empty, as when all events have one time.
        """
        if not (validation > 0 and test > 0 and validation + test < 1):
            raise ConfigError(
                f"validation share {validation} and test share {test} must be positive and leave "
                "something to train on"
            )
        times = events["timestamp"].sort()
        split = cls(
            validation=int(times[int(len(times) * (1 - validation - test))]),
            test=int(times[int(len(times) * (1 - test))]),
        )
        if not int(times[0]) < split.validation < split.test:
            raise DataError(
                f"events cannot be split by time: the data starts at {times[0]}, validation at "
                f"{split.validation} and test at {split.test}; give more events, or more spread"
            )
        return split
