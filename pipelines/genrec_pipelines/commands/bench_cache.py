"""`genrec bench cache`: hit rates of cache policies on a data set's own accesses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from genrec_cache.replay import BATCH_POLICIES, POLICIES, ReplayRow, replay
from genrec_cache.requests import RequestRule, request_batches
from genrec_model.data.catalog import load_dataset
from genrec_model.errors import ConfigError
from genrec_pipelines.commands.csv_records import append_rows

Ints = NDArray[np.int64]

# Bounds the time of a replay: 780 batches.
_MOST_REQUESTS = 100_000

_COLUMNS = (
    *("dataset", "policy", "size"),
    *("hit_rate", "unique_hit_rate", "copies_per_batch", "seconds"),
)


@dataclass(frozen=True, kw_only=True)
class Accesses:
    """A data set as a cache sees it.

    Args:
        stream: item of each event in order of time, from 0.
        batches: unique items of each batch of requests.
        num_ids: items of the data set.
    """

    stream: Ints
    batches: list[Ints]
    num_ids: int


def cache(
    dataset: Annotated[str, typer.Option("--dataset", help="Name of the data set.")],
    path: Annotated[Path | None, typer.Option("--path", help="Its files: folder or zip.")] = None,
    sizes: Annotated[str, typer.Option("--sizes", help="Slots as shares of the items.")] = (
        "0.01,0.05,0.1"
    ),
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the rows.")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", "--html", help="Curves: an .svg, .png or .html file.")
    ] = None,
    records: Annotated[Path, typer.Option("--records", help="CSV file to append to.")] = Path(
        "cache/bench/hit_rates.csv"
    ),
) -> None:
    """Replay a data set's accesses through cache policies: hit rates by access and by batch."""
    shares = parse_sizes(sizes)
    if plot is not None and plot.suffix not in (".svg", ".png", ".html"):
        raise ConfigError(f"--plot {plot}: name a file that ends in .svg, .png or .html")
    console = Console()
    accesses = load_accesses(dataset, path)
    rows = []
    for share in shares:
        for policy in BATCH_POLICIES:
            with console.status(f"{policy} at {share:.0%} of the items"):
                rows.append(
                    replay(
                        accesses.stream,
                        accesses.batches,
                        accesses.num_ids,
                        policy=policy,
                        size=share,
                    )
                )
    if json_file is not None:
        _write(json_file, json.dumps(as_json(rows), indent=2) + "\n")
    if plot is not None:
        draw(plot, rows, title=dataset)
    append_records(records, rows, dataset=dataset)
    console.print(_table(rows))
    console.print(f"appended to {records}")


def parse_sizes(text: str) -> list[float]:
    """Shares from ``0.01,0.05``.

    Raises:
        ConfigError: one is no number in (0, 1].
    """
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ConfigError(f"--sizes {text}: give shares above 0 and up to 1, for example 0.05,0.1")
    return shares


def load_accesses(dataset: str, path: Path | None) -> Accesses:
    """Events of a data set in order of time, and the requests that they stand for.

    Raises:
        ConfigError, DataError: as :func:`load_dataset`.
    """
    events = load_dataset(dataset, path=path).events.sort("timestamp", maintain_order=True)
    items, stream = np.unique(events["item_id"].to_numpy(), return_inverse=True)
    users = np.unique(events["user_id"].to_numpy(), return_inverse=True)[1]
    rule = RequestRule(
        # The lines of an order come at one time and are asked about once.
        once_per_moment=dataset == "online-retail",
        share=1.0 if dataset == "online-retail" else min(1.0, _MOST_REQUESTS / len(stream)),
    )
    batches = request_batches(
        users.astype(np.int64), stream.astype(np.int64), events["timestamp"].to_numpy(), rule
    )
    return Accesses(stream=stream.astype(np.int64), batches=batches, num_ids=len(items))


def as_json(rows: Sequence[ReplayRow]) -> dict[str, list[dict[str, str | float | None]]]:
    """Rows as the command writes them.

    Policies that only exist by batch are apart, without `hit_rate`. Figures by batch are null
    where the data set has too few events for one batch.
    """
    out: dict[str, list[dict[str, str | float | None]]] = {"rows": [], "batch_rows": []}
    for row in rows:
        entry: dict[str, str | float | None] = {"policy": row.policy, "size": row.size}
        if row.policy in POLICIES:
            entry["hit_rate"] = row.hit_rate
        entry["unique_hit_rate"] = row.unique_hit_rate
        entry["copies_per_batch"] = row.copies_per_batch
        out["rows" if row.policy in POLICIES else "batch_rows"].append(entry)
    return out


def append_records(path: Path, rows: Sequence[ReplayRow], *, dataset: str) -> None:
    """Append rows to the CSV file, which gets its header first."""
    table = []
    for row in rows:
        figures = (row.hit_rate, row.unique_hit_rate, row.copies_per_batch)
        texts = ["" if value is None else f"{value:.4f}" for value in figures]
        table.append([dataset, row.policy, row.size, *texts, f"{row.seconds:.2f}"])
    append_rows(path, _COLUMNS, table)


def draw(path: Path, rows: Sequence[ReplayRow], *, title: str) -> None:
    """Hit rate over size, a line a policy, by access on the left and by batch on the right.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("--plot needs matplotlib: install genrec[registry]") from None
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, 2)
    figure.suptitle(title)
    for panel, name, label in zip(
        panels,
        ("hit_rate", "unique_hit_rate"),
        ("hits of all accesses, %", "resident of a batch's unique ids, %"),
        strict=True,
    ):
        for policy in dict.fromkeys(row.policy for row in rows):
            points = sorted(
                (100 * row.size, 100 * getattr(row, name))
                for row in rows
                if row.policy == policy and getattr(row, name) is not None
            )
            if points:
                wide = policy.startswith("genrec")
                panel.plot(*zip(*points, strict=True), "o-", label=policy, lw=2.5 if wide else 1)
        panel.set_xlabel("slots, % of the items")
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".html":
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        return
    from io import StringIO

    buffer = StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    # Only the element: what comes before it is no HTML.
    svg = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    _write(path, f'<!doctype html><meta charset="utf-8"><title>Cache policies</title>{svg}')


def _table(rows: Sequence[ReplayRow]) -> Table:
    table = Table("policy", "size", "hits", "unique hits", "copies/batch", "seconds")
    for row in rows:
        table.add_row(
            row.policy,
            f"{row.size:.0%}",
            "" if row.hit_rate is None else f"{row.hit_rate:.1%}",
            "" if row.unique_hit_rate is None else f"{row.unique_hit_rate:.1%}",
            "" if row.copies_per_batch is None else f"{row.copies_per_batch:.1f}",
            f"{row.seconds:.1f}",
        )
    return table


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
