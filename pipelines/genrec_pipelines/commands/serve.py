"""`genrec serve`: a model server on this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer


def serve(
    model: Annotated[
        str, typer.Option("--model", help="models:/NAME@ALIAS, models:/NAME/VERSION or a folder.")
    ] = "models:/hstu@champion",
    model_name: Annotated[
        str | None, typer.Option("--model-name", help="In the URLs; the registered name.")
    ] = None,
    http_port: Annotated[int, typer.Option(help="REST port.")] = 8080,
    grpc_port: Annotated[int, typer.Option(help="gRPC port.")] = 8081,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    histories: Annotated[
        Path | None, typer.Option(help="events.parquet, so that requests may name a user.")
    ] = None,
    user_store: Annotated[
        str | None,
        typer.Option(help="Appended events: memory, sqlite:PATH or redis://HOST:PORT."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="Tokens of which a request must show one, one a line.")
    ] = None,
    strategy: Annotated[str, typer.Option(help="auto, vllm, onnxruntime, torch.")] = "auto",
    item_cache: Annotated[
        str,
        typer.Option(help="Hot rows of the item table: auto, on, off, or a share of the rows."),
    ] = "auto",
    further: Annotated[
        list[str] | None,
        typer.Argument(
            help="After --: options of python -m genrec_serving.server, see its --help."
        ),
    ] = None,
) -> None:
    """Serve a model over KServe V1, V2, gRPC and REST until it is stopped (Ctrl-C)."""
    command = [
        *(sys.executable, "-m", "genrec_serving.server", "--artifact", model),
        *("--model-name", model_name or _registered_name(model)),
        *("--http-port", str(http_port), "--grpc-port", str(grpc_port), "--host", host),
        *("--strategy", strategy, "--item-cache", item_cache),
    ]
    for option, value in (
        ("--histories", histories),
        ("--user-store", user_store),
        ("--token-file", token_file),
    ):
        if value is not None:
            command += [option, str(value)]
    command += further or []
    try:
        code = subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:  # the server got the signal too and has ended by itself
        code = 0
    raise typer.Exit(code)


def _registered_name(model: str) -> str:
    """NAME of models:/NAME@ALIAS or models:/NAME/VERSION; a folder has none."""
    if not model.startswith("models:/"):
        return "genrec"
    return model.removeprefix("models:/").split("@")[0].split("/")[0]
