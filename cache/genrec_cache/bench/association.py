"""What rows that are brought in by association bring, and how many more are copied.

python -m genrec_cache.bench.association --dataset movielens --events ratings.parquet \
    --item movie --sort user,pos --sort timestamp --commit $(git rev-parse --short HEAD)

The stream of accesses is the events' items, sorted by each `--sort` in turn, equal ones as they
were. A row of the records is one setting of the by-access policy at one size; `followers` 0 brings
in what is asked for alone.
"""

from __future__ import annotations

import argparse
import csv
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec_cache.access_policy import AccessSettings, access_counts
from genrec_cache.optimum import optimum_hits
from genrec_cache.replay import hit_rate

Ints = NDArray[np.int64]

RECORDS = Path(__file__).parents[2] / "bench" / "association.csv"
#: Chances that a follower must have.
LEAST_CHANCES = (0.05, 0.1, 0.2, 0.3)

log = logging.getLogger("bench")


@dataclass(frozen=True, kw_only=True)
class AssociationRow:
    """One setting on one stream.

    Args:
        dataset: its name.
        size: slots as a share of the items.
        followers, window, least_chance: see :class:`AccessSettings`.
        lru, hit_rate, optimum: hits of all accesses, those of LRU and Belady's optimum for
            comparison; neither of the two prefetches.
        gap_closed: share of the way from LRU to the optimum.
        copies, prefetched: rows brought in, and those of them that nobody had asked for, an access.
        in_time: share of the latter that were used within the window.
    """

    dataset: str
    size: float
    followers: int
    window: int
    least_chance: float
    lru: float
    hit_rate: float
    optimum: float
    gap_closed: float
    copies: float
    prefetched: float
    in_time: float


def read_stream(path: Path, item: str, sorts: Sequence[Sequence[str]]) -> Ints:
    """Items of a file's events as ids from 0, [N].

    Args:
        path: a parquet file, or else text with tabs.
        item: name of its column.
        sorts: columns to sort by, each in turn.
    """
    table = (
        pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, separator="\t")
    )
    for columns in sorts:
        table = table.sort(*columns, maintain_order=True)
    ids: Ints = np.unique(table[item].to_numpy(), return_inverse=True)[1].astype(np.int64)
    return ids


def measure(
    stream: Ints, dataset: str, size: float, settings: Sequence[AccessSettings]
) -> list[AssociationRow]:
    """A row for each setting.

    Args:
        stream: ids from 0, [N], N at least 1.
        dataset: name for the rows.
        size: slots as a share of the items.
        settings: of the policy.
    """
    num_ids = int(stream.max()) + 1
    capacity = max(1, round(size * num_ids))
    lru = hit_rate(stream, num_ids, capacity, policy="lru")
    best = optimum_hits(stream, capacity) / len(stream)
    rows = []
    for chosen in settings:
        found = access_counts(stream, num_ids, capacity, chosen)
        ours = found.hits / len(stream)
        rows.append(
            AssociationRow(
                dataset=dataset,
                size=size,
                followers=chosen.followers,
                window=chosen.window,
                least_chance=chosen.least_chance,
                lru=lru,
                hit_rate=ours,
                optimum=best,
                gap_closed=(ours - lru) / max(best - lru, 1e-9),
                copies=found.copies / len(stream),
                prefetched=found.prefetched / len(stream),
                in_time=found.in_time / max(1, found.prefetched),
            )
        )
        log.info("%s", rows[-1])
    return rows


def append(path: Path, rows: Sequence[AssociationRow], commit: str) -> None:
    """Append rows to a CSV file, which gets its header first."""
    fresh = not path.exists()
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if fresh:
            writer.writerow(("date", "commit", *(field.name for field in fields(AssociationRow))))
        for row in rows:
            figures = (f"{v:.4f}" if isinstance(v, float) else v for v in asdict(row).values())
            writer.writerow((when, commit, *figures))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--item", required=True, help="column of the items")
    parser.add_argument("--sort", action="append", default=[], help="columns, with commas")
    parser.add_argument("--size", type=float, default=0.1)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--records", type=Path, default=RECORDS)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    stream = read_stream(options.events, options.item, [s.split(",") for s in options.sort])
    base = AccessSettings()
    settings = [replace(base, followers=0)]
    settings += [replace(base, least_chance=chance) for chance in LEAST_CHANCES]
    append(
        options.records, measure(stream, options.dataset, options.size, settings), options.commit
    )


if __name__ == "__main__":
    main()
