"""`genrec recommend`: ask a running endpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from genrec_model.errors import ConfigError, EngineError, RequestError


def recommend(
    url: Annotated[str, typer.Option("--url", help="The endpoint.")] = "http://127.0.0.1:8080",
    user: Annotated[
        str | None, typer.Option("--user", help="User id, where the endpoint knows histories.")
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option("--history", help="JSON list of {item_id, action, timestamp}, oldest first."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many items.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as it came.")] = False,
) -> None:
    """Print what the endpoint recommends to a user or after a history."""
    if (user is None) == (history is None):
        raise ConfigError("give --user or --history")
    body: dict[str, Any] = {"k": k}
    if history is not None:
        try:
            body["history"] = json.loads(history.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{history}: cannot be read as JSON ({error})") from error
    else:
        body["user_id"] = int(str(user)) if str(user).isdigit() else user
    try:
        response = httpx.post(f"{url}/v1/recommend", json=body, timeout=30)
    except httpx.HTTPError as error:
        raise EngineError(f"{url} does not answer: {error}") from error
    if response.status_code != httpx.codes.OK:
        problem = response.json().get("error", {})
        raise RequestError(
            problem.get("message", response.text),
            field=problem.get("field", "request"),
            status=response.status_code,
        )
    answer = response.json()
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    tasks = list(answer["items"][0]["tasks"]) if answer["items"] else []
    model = answer["model"]
    table = Table(
        "#",
        "item",
        "title",
        "score",
        *tasks,
        title=f"{model['name']} version {model['version']}, {answer['strategy']}",
    )
    for rank, item in enumerate(answer["items"], start=1):
        probabilities = (f"{item['tasks'][task]:.3f}" for task in tasks)
        table.add_row(
            str(rank), str(item["item_id"]), item["title"], f"{item['score']:.3f}", *probabilities
        )
    Console().print(table)
