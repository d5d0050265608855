"""Which artifact a server loads, and what it is told on the command line."""

from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from genrec_model.errors import ArtifactError
from genrec_model.registry import models
from genrec_model.registry.models import ResolvedModel
from genrec_serving import server
from genrec_serving.engines.vllm_options import VllmOptions
from genrec_serving.server_artifact import resolve, weights_version
from genrec_serving.server_options import ServerOptions, vllm_options


def test_a_folder_has_the_version_of_its_weights(tiny_artifact, served_artifact) -> None:
    path, version = resolve(ServerOptions(artifact=str(tiny_artifact.path)))
    assert path == tiny_artifact.path
    assert len(version) == 12
    assert version == weights_version(served_artifact.path)


def test_a_version_may_be_given(tiny_artifact) -> None:
    options = ServerOptions(artifact=str(tiny_artifact.path), model_version="12")
    assert resolve(options)[1] == "12"


def test_a_registered_model_is_downloaded(monkeypatch, tmp_path) -> None:
    asked = []

    def download(uri: str, destination: Path) -> ResolvedModel:
        asked.append((uri, destination))
        return ResolvedModel(path=tmp_path / "x", name="hstu", version="4")

    monkeypatch.setattr(models, "download_artifact", download)
    options = ServerOptions(artifact="models:/hstu@champion", downloads=tmp_path)
    assert resolve(options) == (tmp_path / "x", "4")
    assert asked == [("models:/hstu@champion", tmp_path)]


def test_no_artifact(tmp_path) -> None:
    with pytest.raises(ArtifactError, match="no model artifact"):
        resolve(ServerOptions(artifact=str(tmp_path)))
    with pytest.raises(ArtifactError, match="cannot be read"):
        weights_version(tmp_path)


def run(monkeypatch, error: Exception | None, *arguments: str) -> tuple[int, list[ServerOptions]]:
    seen: list[ServerOptions] = []

    def serve(options: ServerOptions) -> None:
        seen.append(options)
        if error:
            raise error

    monkeypatch.setattr(server, "run_server", serve)
    monkeypatch.setattr(server, "prepare_process", lambda _: None)
    app = Typer()
    app.command()(server.main)
    return CliRunner().invoke(app, list(arguments)).exit_code, seen


def test_the_command_line(monkeypatch) -> None:
    code, seen = run(monkeypatch, None, "--artifact", "x", "--strategy", "torch", "--threads", "2")
    assert code == 0
    assert seen == [ServerOptions(artifact="x", strategy="torch", threads=2)]
    assert seen[0].host == "127.0.0.1"


def test_what_vllm_is_told(monkeypatch) -> None:
    arguments = "--artifact x --dtype bfloat16 --page-rows 32 --engine-requests 128 --threads 2"
    arguments += " --host-cache-mb 512 --model-runner v2 --fp8-pages --fp8-linear"
    more = "--step-rows 9000 --engine-processes 2 --kv-cache-mb 7 --item-cache 0.2 --cache-state s"
    (options,) = run(monkeypatch, None, *arguments.split(), *more.split())[1]
    assert vllm_options(options) == VllmOptions(
        kv_cache_mb=7,
        page_rows=32,
        host_cache_mb=512,
        model_runner="v2",
        fp8_pages=True,
        fp8_linear=True,
        max_requests=128,
        max_step_rows=9000,
        threads=2,
        dtype="bfloat16",
        processes=2,
        item_cache="0.2",
        cache_state="s/genrec",
    )
    budget = "--artifact x --cache-budget-mb 200 --cache-state s"
    (options,) = run(monkeypatch, None, *budget.split())[1]
    assert vllm_options(options).cache_budget_mb == 200
    assert vllm_options(ServerOptions(artifact="x")) == VllmOptions()
    assert run(monkeypatch, None, "--artifact", "x", "--dtype", "int4")[0] == 2


def test_what_the_front_is_told(monkeypatch, tmp_path) -> None:
    arguments = "--artifact x --max-running 3 --max-waiting 4 --max-wait-s 0.1 --target-s 0.2"
    more = f"--deadline-s 5 --max-body-mb 6 --token-file {tmp_path}/t --drain-s 7 --access-log"
    last = "--log-format json --user-store sqlite:u.db --events-per-user 9999 --max-users 8 "
    last += "--hang-s 9"
    code, (options,) = run(monkeypatch, None, *f"{arguments} {more} {last}".split())
    assert code == 0
    assert options == ServerOptions(
        artifact="x",
        max_running=3,
        max_waiting=4,
        max_wait_s=0.1,
        target_s=0.2,
        deadline_s=5.0,
        max_body_mb=6,
        token_file=tmp_path / "t",
        drain_s=7.0,
        access_log=True,
        log_format="json",
        user_store="sqlite:u.db",
        events_per_user=9999,
        max_users=8,
        hang_s=9.0,
    )


def test_exit_codes(monkeypatch) -> None:
    assert run(monkeypatch, ArtifactError("x"), "--artifact", "x")[0] == 2
    assert run(monkeypatch, server.GenrecError("x"), "--artifact", "x")[0] == 1
    assert run(monkeypatch, None)[0] == 2
