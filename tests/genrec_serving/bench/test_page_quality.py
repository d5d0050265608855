"""How answers of two engines are compared, and when eight bits cost too much."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from genrec_model.artifact import Artifact
from genrec_model.features.prepare import Features
from genrec_model.features.sequences import UserSequences
from genrec_serving.bench import page_quality as bench
from genrec_serving.bench.page_quality import CHANGES, Answers, Change, questions
from genrec_serving.engines.interface import Scored
from genrec_serving.engines.vllm_options import VllmOptions


def scored(items: list[int], scores: list[float]) -> Scored:
    return Scored(
        items=np.array(items),
        scores=np.array(scores, np.float32),
        task_logits=np.zeros((len(items), 0), np.float32),
    )


def answers(*found: Scored) -> Answers:
    return Answers(scored=list(found), seconds=[0.1] * len(found), wall_s=0.2)


def test_hits_and_differences() -> None:
    plain = answers(scored([5, 6], [1.0, 0.0]), scored([7, 8], [1.0, 0.0]))
    other = answers(scored([6, 5], [0.1, 0.9]), scored([7, 9], [1.2, 0.0]))
    wanted = np.array([6, 8])
    assert (plain.hit_rate(wanted), other.hit_rate(wanted)) == (1.0, 0.5)
    assert plain.spread_from(plain) == 0
    # Differences of .1, .1 and .2 where the deviation is .5.
    assert other.spread_from(plain) == pytest.approx(4 / 15)


def test_a_question_is_of_the_moment_before(served_artifact: Artifact) -> None:
    sequences = UserSequences(
        items=np.array([3, 4, 5, 6, 7]),
        actions=np.full(5, 2),
        timestamps=np.array([10, 20, 30, 10, 40]),
        labels=np.zeros((5, 2), np.int8),
        known_at=np.zeros((5, 2), np.int64),
        users=[1, 2],
        offsets=np.array([0, 3, 5]),
    )
    first, second = questions(served_artifact, sequences, np.array([2, 4]))
    assert first.rows.items[1:].tolist() == [3, 4]
    assert (first.now, first.exclude.tolist()) == (30, [3, 4])
    assert second.rows.items[1:].tolist() == [6]
    assert (second.now, second.k) == (40, 10)


def test_engines_differ_in_what_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[VllmOptions] = []

    def engine(_: object, *, version: str, options: VllmOptions) -> Any:
        started.append(options)
        return SimpleNamespace(close=lambda: None)

    async def answer(_: object, calls: list[object]) -> Answers:
        # Without eight bits both are found, and one of them with.
        item = 6 if len(started) % 2 else 5
        return answers(scored([5, item], [1.0, 0.0]), scored([7, 9], [1.0, 0.0]))

    monkeypatch.setattr(bench, "VllmProcesses", engine)
    monkeypatch.setattr(bench, "answer", answer)
    monkeypatch.setattr(bench, "questions", lambda *_: [None, None])
    monkeypatch.setattr(bench, "retrieval_targets", lambda *_, **__: np.array([0, 1]))
    sequences = SimpleNamespace(items=np.array([6, 7]))
    features: Any = SimpleNamespace(
        sequences=lambda _: sequences,
        dataset=SimpleNamespace(split=SimpleNamespace(test=0)),
    )
    spec = SimpleNamespace(title="toys")
    artifact: Any = SimpleNamespace(vocabulary=None, dataset=SimpleNamespace(spec=spec))
    cases = []
    for change in CHANGES.values():
        started.clear()
        rows, loss = bench.compare(artifact, features, change, targets=2, kv_cache_mb=8)
        assert loss == pytest.approx(0.5)
        plain, narrow = started
        assert (plain.fp8_pages, plain.fp8_linear) == (False, False)
        assert (narrow.fp8_pages, narrow.fp8_linear) == (change.fp8_pages, change.fp8_linear)
        assert {row.case for row in rows} == {change.case}
        assert [row.backend for row in rows] == [
            f"vllm, {plain.dtype} {change.what}",
            f"vllm, fp8 {change.what}",
        ]
        cases.append(change.case)
    assert cases == ["page-quality", "linear-quality", "page-linear-quality"]


@pytest.mark.parametrize(("loss", "status"), [(0.004, 0), (-0.1, 0), (0.006, 2)])
@pytest.mark.parametrize("narrow", CHANGES)
def test_too_much_lost_fails(
    narrow: bench.Narrow, loss: float, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Change] = []

    def compare(_: object, __: object, change: Change, **___: int) -> tuple[list[Any], float]:
        asked.append(change)
        return [], loss

    monkeypatch.setattr(bench, "Artifact", lambda path: path)
    monkeypatch.setattr(Features, "load", lambda path: path)
    monkeypatch.setattr(bench, "compare", compare)
    app = typer.Typer()
    app.command()(bench.main)
    folders = ["--artifact", str(tmp_path), "--features", str(tmp_path)]
    done = CliRunner().invoke(app, [*folders, "--narrow", narrow])
    assert done.exit_code == status
    assert asked == [CHANGES[narrow]]
    assert (f"{CHANGES[narrow].what} in fp8 lose 0.60%" in done.output) == (status == 2)
