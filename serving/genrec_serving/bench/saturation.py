"""Latency against load, drawn from the records."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from genrec_model.errors import DataError
from genrec_model.files import replacing

_SUFFIX = "-open"


def curves(records: Path) -> pl.DataFrame:
    """Open-loop rows of the latest run of each case, in order of their rate.

    Raises:
        DataError: there are none.
    """
    try:
        rows = pl.read_csv(records)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{records}: no records ({error})") from error
    rows = rows.filter(pl.col("case").str.ends_with(_SUFFIX))
    if not rows.height:
        raise DataError(f"{records}: no open-loop load was recorded")
    run = ["case", "backend", "gpu"]
    latest = rows.group_by(run, maintain_order=True).agg(pl.last("date"), pl.last("commit"))
    return rows.join(latest, on=[*run, "date", "commit"], how="semi").sort(*run, "rate")


def write_plot(records: Path, path: Path) -> None:
    """Draw p50 and p95 over the answered visits a second.

    Args:
        records: of the load.
        path: SVG or PNG.

    Raises:
        DataError: there is nothing to draw.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for (case, backend, gpu), rows in curves(records).group_by(
        ["case", "backend", "gpu"], maintain_order=True
    ):
        name = f"{case} {backend}, {gpu}"
        (line,) = axes.plot(rows["rate"], rows["p95_ms"], marker="o", label=f"p95 {name}")
        axes.plot(
            rows["rate"],
            rows["p50_ms"],
            marker=".",
            linestyle=":",
            color=line.get_color(),
            label=f"p50 {name}",
        )
    axes.set_xlabel("answered visits a second")
    axes.set_ylabel("milliseconds from when a visit was due")
    axes.set_yscale("log")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(fontsize="small")
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix(".") or "svg")
