"""The load against the real server, its records, and the curve drawn from them."""

from __future__ import annotations

import asyncio
import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from genrec_model.errors import ConfigError, DataError, EngineError
from genrec_serving.bench.load import load, load_record
from genrec_serving.bench.records import append
from genrec_serving.bench.saturation import curves, write_plot
from genrec_serving.bench.visits import Measured, Visitors, measure_load
from genrec_serving.bench.workload import LoadPlan, SyntheticUser

PLAN = LoadPlan(url="http://x", rate=100.0)


def measured(*visits_ms: float, **outcomes: int) -> Measured:
    seconds = [ms / 1e3 for ms in visits_ms]
    return Measured(
        visit_s=seconds,
        ask_s=list(seconds),
        outcomes=Counter(ok=len(visits_ms), **outcomes),
        history_events=200,
        cached_events=150,
        seconds=2.0,
        model="tiny: 2 layers",
        memory_mb=[100.0] * 8 + [110.0] * 4,
    )


def test_a_record_says_all() -> None:
    total = measured(1, 2, 3, **{"429": 2, "503": 1, "timeout": 1})
    total.add(measured(4))
    assert (total.rate, total.refused, total.errors) == (2.0, 3, 1)
    row = load_record(PLAN, total, machine="CPU", backend="vllm")
    assert (row.case, row.p50_ms, row.rate) == ("load-recommend10-open", 2.5, 2.0)
    for part in (
        "tiny: 2 layers",
        "100/s offered",
        "3 refused",
        "1 errors (1 timeout)",
        "75.0 % of the events cached",
    ):
        assert part in row.note
    closed = replace(PLAN, rate=None, concurrency=32, candidates=100)
    row = load_record(closed, measured(1), machine="CPU", backend="vllm")
    assert row.case == "load-rank100-c32"
    assert "100 MB in the second quarter, 110 in the last" in row.note
    assert "two requests a visit" in row.note
    row = load_record(replace(closed, one_request=True), measured(1), machine="CPU", backend="vllm")
    assert row.case == "load-rank100-one-c32"
    assert "one request a visit" in row.note
    with pytest.raises(ConfigError, match="one request"):
        replace(closed, one_request=True, state="request")


def test_nothing_was_answered() -> None:
    row = load_record(PLAN, Measured(outcomes=Counter(timeout=3)), machine="CPU", backend="vllm")
    assert (row.rate, row.p50_ms == row.p50_ms) == (0.0, False)
    assert "3 errors" in row.note


def test_the_curve_is_drawn_from_records(tmp_path: Path) -> None:
    records = tmp_path / "records.csv"
    with pytest.raises(DataError, match="no records"):
        curves(records)
    for rate in (30.0, 10.0, 20.5):
        row = load_record(replace(PLAN, rate=rate), measured(5), machine="CPU", backend="vllm")
        append(records, [row])
    append(records, [replace(load_record(PLAN, measured(9), machine="C", backend="v"), case="x")])
    rows = curves(records)
    assert rows["offered"].to_list() == [10.0, 20.5, 30.0]
    for kind in ("svg", "png"):
        write_plot(records, tmp_path / f"curve.{kind}")
        assert (tmp_path / f"curve.{kind}").stat().st_size > 5000
    assert b"<svg" in (tmp_path / "curve.svg").read_bytes()


class Watched(Visitors):
    """Sees who visits at the same time; nothing is sent."""

    def __init__(self, plan: LoadPlan) -> None:
        super().__init__(plan, 0, session=None)  # type: ignore[arg-type]
        self._users = [
            SyntheticUser(str(i), self._rng, items=[1], actions=["a"], start=0)
            for i in range(plan.users)
        ]
        self.visits: Counter[str] = Counter()
        self.twice = 0
        self._now: Counter[str] = Counter()

    async def _visit(self, user: SyntheticUser, due: float, new_events: int) -> str:
        self.visits[user.name] += 1
        self._now[user.name] += 1
        self.twice += self._now[user.name] > 1
        await asyncio.sleep(0.001)
        self._now[user.name] -= 1
        return "ok"


@pytest.mark.parametrize("own", [True, False])
async def test_whether_a_user_is_in_two_places_at_once(own: bool) -> None:
    plan = LoadPlan(url="x", concurrency=4, users=6, zipf=1, seconds=0.2, own_users=own)
    watched = Watched(plan)
    await watched.run()
    assert len(watched.visits) == 6
    assert (watched.twice == 0) == own
    assert watched.visits["0"] > watched.visits["4"], "they share a visitor, one comes less often"


def test_a_server_that_is_not_there() -> None:
    plan = LoadPlan(url="http://127.0.0.1:9", concurrency=2, processes=2)
    with pytest.raises(EngineError, match="does not answer"):
        measure_load(plan)


@pytest.mark.slow
def test_the_real_server(server, tmp_path) -> None:
    app = Typer()
    app.command()(load)
    records = tmp_path / "records.csv"

    def run(*options: str) -> dict[str, str]:
        arguments = ["--url", server.base_url, "--seconds", "1", "--users", "6"]
        arguments += ["--history-events", "30", "--records", str(records), *options]
        ran = CliRunner().invoke(app, arguments)
        assert ran.exit_code == 0, ran.output
        with records.open() as file:
            return list(csv.DictReader(file))[-1]

    plot = tmp_path / "curve.svg"
    row = run(
        *("--rate", "20,30", "--processes", "2", "--new-events", "2", "--plot", str(plot)),
        *("--server-pid", str(server.pid)),
    )
    assert (row["case"], row["unit"]) == ("load-recommend10-open", "visits/s")
    assert "0 errors" in row["note"]
    assert "append p50" in row["note"]
    assert row["note"].startswith("tiny: 2 layers, 32 wide, 50 items, 47 events")
    assert plot.exists()
    row = run(
        *("--concurrency", "3", "--candidates", "5", "--one-request", "--new-events", "2"),
        *("--own-users", "--history-spread", "9"),
    )
    assert row["case"] == "load-rank5-one-c3"
    assert "each with one visit at once, 30 to 39 events and 2 new a visit" in row["note"]
    assert "0 errors" in row["note"]
    assert "append p50" not in row["note"]
    row = run("--concurrency", "3", "--candidates", "5", "--state", "request", "--no-warm")
    assert row["case"] == "load-rank5-c3"
    assert "0 errors" in row["note"]
    assert "0 refused" in row["note"]
