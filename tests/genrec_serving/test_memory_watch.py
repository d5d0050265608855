"""Memory for pages and for hot rows: what is in force, what comes next, and why."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from genrec_cache.embedding_cache import CachedTable
from genrec_cache.memory_split import Split, SplitTuner
from genrec_cache.split_file import load_split, save_split
from genrec_model.errors import ConfigError
from genrec_serving.engines.vllm_options import VllmOptions
from genrec_serving.vllm_plugin.memory_plan import MemoryPlan, all_splits, plan_memory
from genrec_serving.vllm_plugin.memory_watch import INTERVAL_S, DroppedPages, MemoryWatch

PAGE_ROWS = 16


def test_the_first_split_is_what_was_asked_for(tmp_path: Path) -> None:
    plan = plan_memory(budget=1000, kv=700, table_bytes=10_000, file=tmp_path / "a")
    assert plan.in_force == Split(kv=700, rows=300)
    assert (plan.budget, plan.step) == (1000, 100)


def test_later_ones_go_by_the_file(tmp_path: Path) -> None:
    save_split(tmp_path / "a", Split(kv=600, rows=400))
    for kv in (700, 10):
        plan = plan_memory(budget=1000, kv=kv, table_bytes=10_000, file=tmp_path / "a")
        assert plan.in_force == Split(kv=600, rows=400)
    # Of another budget.
    plan = plan_memory(budget=2000, kv=700, table_bytes=10_000, file=tmp_path / "a")
    assert plan.in_force == Split(kv=700, rows=1300)


def test_what_slots_cannot_use_goes_to_pages(tmp_path: Path) -> None:
    plan = plan_memory(budget=1000, kv=700, table_bytes=50, file=tmp_path / "a")
    assert plan.in_force == Split(kv=950, rows=50)


@example(budget=10, share=0.5, table=1, history=0, savings=[(1.0, 0.0)] * 3)
@given(
    budget=st.integers(10, 10**6),
    share=st.floats(0.01, 0.99),
    table=st.integers(1, 10**6),
    history=st.integers(0, 10**6),
    savings=st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), max_size=30),
)
def test_the_next_split_is_one_step_away_at_most(
    budget: int,
    share: float,
    table: int,
    history: int,
    savings: list[tuple[float, float]],
) -> None:
    kv = min(max(1, round(share * budget)), budget - 1)
    plan = plan_memory(budget=budget, kv=kv, table_bytes=table, file=Path("none"))
    tuner = SplitTuner(plan.in_force, plan.settings(history_bytes=history))
    for pages, rows in savings:
        after = tuner.update(kv_saves=pages, rows_save=rows)
        assert after.kv + after.rows == budget
        assert abs(after.kv - plan.in_force.kv) <= plan.step
        assert 0 < after.rows <= max(table, plan.in_force.rows)
        assert after.kv >= min(plan.in_force.kv, 2 * history)


class Watched:
    """A watch, and what it watches."""

    def __init__(self, tmp_path: Path, *, miss_ms: float = 0.0) -> None:
        self.now = 0.0
        self.file = tmp_path / "state" / "split.json"
        self.pages = DroppedPages(4)
        self.pool = SimpleNamespace(metrics_collector=None)
        assert self.pages.watch(self.pool)
        table = CachedTable(torch.rand(100, 2), 10)
        table.watch_dropped(20)
        self.table = table
        plan = MemoryPlan(
            in_force=Split(kv=500, rows=500), step=100, table_bytes=10**6, file=self.file
        )
        self.watch = MemoryWatch(
            plan,
            pages=self.pages,
            table=table,
            page_rows=PAGE_ROWS,
            history_bytes=10,
            clock=lambda: self.now,
            miss_ms=lambda _: miss_ms,
        )

    def interval(self, *, missed_pages: int = 0, missed_rows: int = 0) -> None:
        """A minute of steps of 2 ms a row, in which so much was missed."""
        hashes = [bytes([page]) * 32 for page in range(missed_pages)]
        for page in hashes:
            block = SimpleNamespace(block_hash=page + b"\0\0\0\0")
            self.pool.metrics_collector.on_block_evicted(block)
        self.pages.ask(hashes)
        ids = torch.arange(50, 50 + missed_rows)
        if missed_rows:
            self.table.lookup(torch.arange(10))
            self.table.lookup(ids)
            self.table.lookup(ids)
        for rows in (10, 20, 30):
            self.watch.step(computed_rows=rows, seconds=0.005 + 0.002 * rows)
        self.now += INTERVAL_S
        self.watch.step(computed_rows=10, seconds=0.025)


def test_pages_that_are_missed_get_more(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    for _ in range(2):
        watched.interval(missed_pages=3)
        assert not watched.file.exists()
    watched.interval(missed_pages=3)
    shown = watched.watch.statistics()
    assert shown["step_would_have_saved"]["kv_ms"] == pytest.approx(3 * PAGE_ROWS * 2.0)
    assert shown["in_force"] == {"kv": 500, "rows": 500}
    assert shown["next"] == {"kv": 600, "rows": 400}
    assert shown["pages_dropped"] == 9
    assert load_split(watched.file, budget=1000) == Split(kv=600, rows=400)
    for _ in range(9):  # nothing is known of a second step until the first is taken
        watched.interval(missed_pages=3)
    assert watched.watch.statistics()["next"] == {"kv": 600, "rows": 400}


def test_rows_that_are_missed_get_more(tmp_path: Path) -> None:
    watched = Watched(tmp_path, miss_ms=50.0)
    for _ in range(3):
        watched.interval(missed_pages=1, missed_rows=10)
    shown = watched.watch.statistics()
    assert shown["step_would_have_saved"]["rows_ms"] > 0
    assert load_split(watched.file, budget=1000) == Split(kv=400, rows=600)


def test_a_step_that_compiled_is_no_measure(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.watch.step(computed_rows=10, seconds=60.0)
    watched.interval(missed_pages=2)
    saved = watched.watch.statistics()["step_would_have_saved"]["kv_ms"]
    assert saved == pytest.approx(2 * PAGE_ROWS * 2.0)


def test_a_split_that_cannot_be_kept_is_said_so(tmp_path: Path, caplog) -> None:
    watched = Watched(tmp_path)
    watched.file.parent.write_text("no folder")
    for _ in range(3):
        watched.interval(missed_pages=3)
    assert "the split is not kept" in watched.watch.statistics()["problem"]
    assert "the split is not kept" in caplog.text


def test_a_pool_that_says_nothing_is_not_watched() -> None:
    assert not DroppedPages(1).watch(SimpleNamespace())
    assert not DroppedPages(1).watch(SimpleNamespace(metrics_collector=object()))


def test_several_engines() -> None:
    split = {"in_force": {"kv": 5, "rows": 3}, "next": {"kv": 6, "rows": 2}, "problem": ""}
    assert all_splits([{"memory_split": split}, {"memory_split": split}]) == {
        "in_force": {"kv": 10, "rows": 6},
        "next": {"kv": 12, "rows": 4},
    }
    assert all_splits([{}, {}]) is None


def test_budgets_that_make_no_sense() -> None:
    good = {"kv_cache_mb": 5, "cache_budget_mb": 10, "cache_state": "x"}
    parts = [VllmOptions(**good, processes=2).of_process(i) for i in range(2)]
    assert [part.cache_state for part in parts] == ["x/engine-0", "x/engine-1"]
    assert all((part.kv_cache_mb, part.cache_budget_mb) == (2, 5) for part in parts)
    for change, says in (
        ({"cache_state": None}, "needs a folder"),
        ({"kv_cache_mb": 10}, "leaves nothing for item rows"),
        ({"item_cache": "off"}, "goes with item cache on"),
        ({"item_cache": "0.5"}, "goes with item cache on"),
    ):
        with pytest.raises(ConfigError, match=says):
            VllmOptions(**(good | change))
