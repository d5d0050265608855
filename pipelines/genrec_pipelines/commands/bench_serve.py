"""`genrec bench serve`: the served champion, engine by engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from genrec_model.artifact import Artifact
from genrec_model.registry.models import download_artifact
from genrec_model.settings import settings
from genrec_serving.bench.endpoint import measure_endpoint
from genrec_serving.bench.records import append
from genrec_serving.local_server import LocalModelServer
from genrec_serving.rollout.golden import read_golden


def serve(
    model: Annotated[str, typer.Option("--model", help="Registered model.")] = (
        "models:/hstu@champion"
    ),
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at once.")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Passes over the users.")] = 5,
    records: Annotated[Path, typer.Option(help="CSV file to append to.")] = Path(
        "serving/bench/records.csv"
    ),
) -> None:
    """Measure latency and throughput of /v1/recommend on this machine, and record them."""
    console = Console()
    found = download_artifact(model, settings().home / "models")
    requests = read_golden(Artifact(found.path).golden)
    with (
        console.status(f"serving {found.name} version {found.version}"),
        LocalModelServer(found.path, log=settings().home / "bench-server.log") as server,
    ):
        rows = measure_endpoint(server, requests, concurrency=concurrency, repeats=repeats)
    append(records, rows)
    table = Table("engine", "p50", "p95", "requests/s", "against torch", "score error")
    for row in rows:
        assert row.reference_ms is not None, "every engine is compared with PyTorch"
        table.add_row(
            row.backend,
            f"{row.p50_ms:.1f} ms",
            f"{row.p95_ms:.1f} ms",
            f"{row.rate:.0f}",
            f"{row.reference_ms / row.p50_ms:.2f} x",
            f"{row.error:.1e}",
        )
    console.print(table)
    console.print(f"appended to {records}")
