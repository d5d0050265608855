"""When attention in eight bits costs too much."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from genrec_serving.bench import fp8_attention_quality as bench
from genrec_serving.bench.fp8_attention_quality import Comparison


def comparison(full: float, fp8: float) -> Comparison:
    rates = (dict.fromkeys(bench.METRICS, rate) | {"targets": 9.0} for rate in (full, fp8))
    return Comparison(full=next(rates), fp8=next(rates), moved=0.25)


def test_what_is_lost() -> None:
    assert comparison(0.2, 0.199).lost == pytest.approx(0.005)
    assert comparison(0.2, 0.21).lost == pytest.approx(-0.05)
    assert comparison(0.0, 0.0).lost == pytest.approx(1.0)


@pytest.mark.parametrize(("fp8", "status"), [(0.1995, 0), (0.22, 0), (0.1985, 2)])
def test_too_much_lost_fails(
    fp8: float, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench, "Artifact", lambda path: path)
    monkeypatch.setattr(bench.Features, "load", lambda path: path)
    monkeypatch.setattr(bench, "compare", lambda *_, **__: comparison(0.2, fp8))
    app = typer.Typer()
    app.command()(bench.main)
    done = CliRunner().invoke(app, ["--artifact", str(tmp_path), "--features", str(tmp_path)])
    assert done.exit_code == status
    assert f"hr_10: {fp8:.4f} in eight bits, 0.2000 without" in done.output
    assert ("loses 0.75%" in done.output) == (status == 2)
