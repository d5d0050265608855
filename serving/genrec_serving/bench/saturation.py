"""Latency against load, drawn from the records."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from genrec_model.errors import DataError
from genrec_model.files import replacing

_SUFFIX = "-open"
#: In the note of a record, as `load` writes it.
_OFFERED = r"([0-9.e+]+)/s offered"


def curves(records: Path) -> pl.DataFrame:
    """Open-loop rows of the latest run of each case, in order of `offered`, visits a second.

    Raises:
        DataError: there are none.
    """
    try:
        rows = pl.read_csv(records)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{records}: no records ({error})") from error
    rows = rows.filter(pl.col("case").str.ends_with(_SUFFIX)).with_columns(
        pl.col("note").str.extract(_OFFERED).cast(pl.Float64).alias("offered")
    )
    if not rows.height:
        raise DataError(f"{records}: no open-loop load was recorded")
    run = ["case", "backend", "gpu"]
    latest = rows.group_by(run, maintain_order=True).agg(pl.last("date"), pl.last("commit"))
    return rows.join(latest, on=[*run, "date", "commit"], how="semi").sort(*run, "offered")


def write_plot(records: Path, path: Path) -> None:
    """Draw latency and answered visits over the offered visits a second.

    Args:
        records: of the load.
        path: SVG or PNG.

    Raises:
        DataError: there is nothing to draw.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    for (case, backend, gpu), rows in curves(records).group_by(
        ["case", "backend", "gpu"], maintain_order=True
    ):
        name = f"{case} {backend}, {gpu}"
        offered = rows["offered"]
        (line,) = above.plot(offered, rows["p95_ms"], marker="o", label=f"p95 {name}")
        color = line.get_color()
        above.plot(offered, rows["p50_ms"], ".:", color=color, label=f"p50 {name}")
        below.plot(offered, rows["rate"], marker="o", color=color)
    above.set_ylabel("ms from when a visit was due")
    above.set_yscale("log")
    above.legend(fontsize="small")
    below.set_ylabel("answered visits/s")
    below.set_xlabel("offered visits/s")
    for axes in (above, below):
        axes.grid(visible=True, which="both", alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix(".") or "svg")
