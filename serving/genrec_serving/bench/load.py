"""Load on a server, and its records: ``python -m genrec_serving.bench.load --help``."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from genrec_model.errors import GenrecError, UserError
from genrec_serving.bench.records import Record, append
from genrec_serving.bench.saturation import write_plot
from genrec_serving.bench.visits import Measured, measure_load
from genrec_serving.bench.workload import LoadPlan


def load_record(
    plan: LoadPlan, measured: Measured, *, machine: str, backend: str, dtype: str = "fp32"
) -> Record:
    """The figures of one run; the reference is the question alone, without queueing here."""
    kind = f"rank{plan.candidates}" if plan.candidates else f"recommend{plan.k}"
    loop = "open" if plan.rate is not None else f"c{plan.concurrency}"
    offered = f"{plan.rate:g}/s offered" if plan.rate is not None else f"{plan.concurrency} at once"
    share = measured.cached_events / max(measured.history_events, 1)
    visit = "one request a visit" if plan.one_request else "two requests a visit"
    lengths = f"{plan.history_events}"
    if plan.history_spread:
        lengths += f" to {plan.history_events + plan.history_spread}"
    notes = [
        measured.model,
        offered,
        f"{plan.seconds:g} s",
        f"{plan.users} users, Zipf {plan.zipf:g}"
        + (", each with one visit at once" if plan.own_users else ""),
        f"{lengths} events and {plan.new_events} new a visit",
        *(
            ("histories kept by the server", visit)
            if plan.state == "server"
            else ("histories in the requests",)
        ),
        f"p99 {measured.percentile_ms(99):.1f} ms",
        f"{measured.refused} refused",
        f"{measured.errors} errors" + _kinds(measured),
        f"{100 * share:.1f} % of the events cached",
    ]
    if measured.append_s:
        notes.append(f"append p50 {float(np.median(measured.append_s)) * 1e3:.1f} ms")
    if len(measured.memory_mb) >= 8:
        quarter = len(measured.memory_mb) // 4
        first = float(np.mean(measured.memory_mb[quarter : 2 * quarter]))
        last = float(np.mean(measured.memory_mb[-quarter:]))
        notes.append(f"server memory {first:.0f} MB in the second quarter, {last:.0f} in the last")
    return Record(
        case=f"load-{kind}-one-{loop}" if plan.one_request else f"load-{kind}-{loop}",
        backend=backend,
        dtype=dtype,
        p50_ms=measured.percentile_ms(50),
        p95_ms=measured.percentile_ms(95),
        rate=measured.rate,
        unit="visits/s",
        reference="question",
        reference_ms=float(np.median(measured.ask_s)) * 1e3 if measured.ask_s else float("nan"),
        error=float("nan"),
        gpu=machine,
        note=", ".join(notes),
    )


def _kinds(measured: Measured) -> str:
    """What went wrong, by HTTP status or kind of failure."""
    fine = {"ok", "429", "503"}
    kinds = [f"{n} {kind}" for kind, n in measured.outcomes.items() if kind not in fine]
    return f" ({' '.join(sorted(kinds))})" if kinds else ""


def load(
    url: Annotated[str, typer.Option(help="Of the server: http://HOST:PORT.")],
    rate: Annotated[
        str | None, typer.Option(help="Visits a second, Poisson; several, 50,100,200: a curve.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="In place of a rate: visitors who come again.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="For each rate.")] = 20.0,
    users: Annotated[int, typer.Option(min=1, help="Who visit.")] = 200,
    zipf: Annotated[float, typer.Option(help="How uneven; 0: all alike.")] = 1.0,
    own_users: Annotated[
        bool, typer.Option("--own-users", help="Nobody makes two visits at once.")
    ] = False,
    history_events: Annotated[int, typer.Option(min=0, help="Of a user at first.")] = 200,
    history_spread: Annotated[
        int, typer.Option(min=0, help="Of a user at first, up to as many more.")
    ] = 0,
    new_events: Annotated[int, typer.Option(min=0, help="That a visit brings.")] = 8,
    one_request: Annotated[
        bool, typer.Option("--one-request", help="A visit's events come with its question.")
    ] = False,
    candidates: Annotated[int, typer.Option(min=0, help="To rank; 0: recommend.")] = 0,
    k: Annotated[int, typer.Option(min=1, help="Items of a recommendation.")] = 10,
    state: Annotated[
        Literal["server", "request"], typer.Option(help="Who keeps the histories.")
    ] = "server",
    strategy: Annotated[str | None, typer.Option(help="Force an engine.")] = None,
    warm: Annotated[bool, typer.Option(help="Every user visits once before.")] = True,
    processes: Annotated[int, typer.Option(min=1, help="That make the load.")] = 1,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    token_file: Annotated[Path | None, typer.Option(help="File with the server's token.")] = None,
    server_pid: Annotated[
        int | None, typer.Option(help="Of a server on this machine: watch its memory.")
    ] = None,
    machine: Annotated[
        str, typer.Option(help="GPU of the server, or its CPU.")
    ] = f"CPU, {os.cpu_count()} cores",
    backend: Annotated[str, typer.Option(help="What answers, for the record.")] = "vllm",
    dtype: Annotated[str, typer.Option(help="What it computes in, for the record.")] = "fp32",
    records: Annotated[Path | None, typer.Option(help="CSV file to append to.")] = None,
    plot: Annotated[Path | None, typer.Option(help="SVG or PNG of all open-loop records.")] = None,
) -> None:
    """Put load on a server: Poisson arrivals, Zipf users who return with new events."""
    token = None if token_file is None else token_file.read_text().split()[0]
    plan = LoadPlan(
        url=url,
        token=token,
        rate=None if rate is None else 1.0,
        concurrency=concurrency,
        seconds=seconds,
        users=users,
        zipf=zipf,
        own_users=own_users,
        history_events=history_events,
        history_spread=history_spread,
        new_events=new_events,
        one_request=one_request,
        candidates=candidates,
        k=k,
        state=state,
        strategy=strategy,
        warm=warm,
        processes=processes,
        seed=seed,
    )
    plans = [plan]
    if rate is not None:
        try:
            plans = [replace(plan, rate=float(value)) for value in rate.split(",")]
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--rate") from error
    for one in plans:
        measured = measure_load(one, server_pid=server_pid)
        row = load_record(one, measured, machine=machine, backend=backend, dtype=dtype)
        typer.echo(
            f"{row.rate:8.1f} {row.unit}  p50 {row.p50_ms:.1f} ms  p95 {row.p95_ms:.1f} ms  "
            f"{row.note}"
        )
        if records is not None:
            append(records, [row])
    if records is not None and plot is not None:
        write_plot(records, plot)
        typer.echo(f"plotted {plot}")


def main() -> None:
    """As a program of its own, where the rest of the project is not installed."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(load)
    try:
        app()
    except GenrecError as error:
        typer.echo(str(error), err=True)
        raise SystemExit(2 if isinstance(error, UserError) else 1) from error


if __name__ == "__main__":
    main()
