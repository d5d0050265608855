"""`genrec bench pages`: pages of users' histories that are found again, on a data set's visits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from genrec_cache.page_replay import PAGE_POLICIES, HistoryRule, page_hits, visits_of
from genrec_model.data.catalog import load_dataset
from genrec_model.errors import ConfigError
from genrec_pipelines.commands.bench_cache import parse_sizes
from genrec_pipelines.commands.csv_records import append_rows

#: A visit at every moment with events, and one after half an hour without.
GAPS_S = (0, 1800)
PAGE_ROWS = (16, 64)
_COLUMNS = (
    *("dataset", "gap_s", "page_rows", "events", "chunk", "policy"),
    *("size", "pages", "visits", "page_hit_rate"),
)


def pages(
    dataset: Annotated[str, typer.Option("--dataset", help="Name of the data set.")],
    path: Annotated[Path | None, typer.Option("--path", help="Its files: folder or zip.")] = None,
    sizes: Annotated[
        str, typer.Option("--sizes", help="Pools as shares of the pages of all users at the end.")
    ] = "0.05,0.1,0.2",
    records: Annotated[Path, typer.Option("--records", help="CSV file to append to.")] = Path(
        "cache/bench/page_hits.csv"
    ),
) -> None:
    """Replay users' visits through pools of pages: who leaves first, by prediction or by age."""
    shares = parse_sizes(sizes)
    events = load_dataset(dataset, path=path).events.sort("timestamp", maintain_order=True)
    users = np.unique(events["user_id"].to_numpy(), return_inverse=True)[1].astype(np.int64)
    times = events["timestamp"].to_numpy().astype(np.int64)
    table = Table("gap, s", "page, rows", "pool", *PAGE_POLICIES)
    rows: list[tuple[object, ...]] = []
    for gap in GAPS_S:
        for page_rows in PAGE_ROWS:
            rule = HistoryRule(gap_s=gap, page_rows=page_rows)
            visits = visits_of(users, times, rule)
            if not visits.pages.sum():
                raise ConfigError(f"{dataset}: no history fills a page of {page_rows} rows")
            for share in shares:
                pool = max(1, round(share * visits.most))
                found = {policy: page_hits(visits, pool, policy=policy) for policy in PAGE_POLICIES}
                rule_is = (gap, page_rows, rule.events, rule.chunk)
                for policy, rate in found.items():
                    row = (dataset, *rule_is, policy, share, pool, len(visits.users))
                    rows.append((*row, f"{rate:.4f}"))
                shown = [f"{rate:.1%}" for rate in found.values()]
                table.add_row(str(gap), str(page_rows), f"{share:.0%}", *shown)
    append_rows(records, _COLUMNS, rows)
    console = Console()
    console.print(table)
    console.print(f"appended to {records}")
