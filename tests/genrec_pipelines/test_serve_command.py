"""What `genrec serve` starts."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from genrec_pipelines.commands import serve as command


def test_the_server_is_told_all_options(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def run(arguments: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        started.append(arguments)
        return subprocess.CompletedProcess(arguments, 3)

    monkeypatch.setattr(command.subprocess, "run", run)
    app = typer.Typer()
    app.command()(command.serve)
    given = "--model models:/shop@champion --item-cache 0.2 -- --page-order lru"
    assert CliRunner().invoke(app, given.split()).exit_code == 3
    assert CliRunner().invoke(app, []).exit_code == 3
    first, second = (" ".join(arguments) for arguments in started)
    assert "--artifact models:/shop@champion --model-name shop" in first
    assert "--item-cache 0.2" in first
    assert first.endswith("--page-order lru")
    assert "--item-cache auto" in second
