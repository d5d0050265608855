"""A rollout on this machine: champion and challenger as two model servers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx

from genrec_model.artifact import Artifact
from genrec_model.errors import EngineError
from genrec_model.registry.models import ResolvedModel, download_artifact
from genrec_model.settings import settings
from genrec_serving.local_server import LocalModelServer
from genrec_serving.rollout.golden import GoldenRequest, read_golden, request_body
from genrec_serving.rollout.local import StepReport, run_local_rollout
from genrec_serving.rollout.plan import RolloutPlan
from genrec_serving.rollout.registry_state import RolloutRegistry
from genrec_serving.rollout.surfaces import check_surfaces

logger = logging.getLogger(__name__)

#: Users for whom recommendations are kept, items of each, and titles of their last events.
SHOWN_USERS, SHOWN_ITEMS, SHOWN_EVENTS = 3, 5, 3


def deploy_local(
    registry: RolloutRegistry, version: str, plan: RolloutPlan, events: Path, log_folder: Path
) -> dict[str, Any]:
    """Serve the champion and a version on this machine and walk the rollout to its end.

    Args:
        registry: names champion and challenger; there may be no champion yet.
        version: the challenger. If it is the champion already, it is only served and checked.
        plan: steps and demands.
        events: event table, so that the servers know their users.
        log_folder: where the servers log.

    Returns:
        ``rollout``, ``endpoint`` and ``recommendations``, see `deploy`.

    Raises:
        EngineError: a server does not start, or a surface of the version fails.
    """
    champion = registry.champion()
    versions = [version, *([champion] if champion not in (None, version) else [])]
    models = [_download(registry.model, str(v)) for v in versions]
    artifacts = [Artifact(model.path) for model in models]
    requests = read_golden(artifacts[0].golden)
    with _servers(models, events, log_folder) as servers:
        endpoint = check_surfaces(servers[0], requests[0])
        logger.info("all surfaces of version %s agree", version)
        if champion == version:
            rollout = _earlier_rollout(registry, version)
        else:
            rollout = run_local_rollout(
                registry=registry,
                plan=plan,
                champion=servers[1] if champion is not None else None,
                challenger=servers[0],
                golden=artifacts[0].golden,
                champion_golden=artifacts[1].golden if champion is not None else (),
                on_step=_log_step,
            ).to_dict()
        logger.info("version %s: %s", version, rollout["reason"])
        shown = [_recommendation(servers[0], artifacts[0], r) for r in requests[:SHOWN_USERS]]
    return {
        "rollout": rollout,
        "endpoint": {
            name: {"status": answer["status"], "top_item": answer["top_item"]}
            for name, answer in endpoint.items()
        },
        "recommendations": shown,
    }


def _earlier_rollout(registry: RolloutRegistry, version: str) -> dict[str, Any]:
    """How a version became champion, from its tags."""
    state = registry.state(version)
    steps = [
        {**asdict(record), "reasons": [record.reason], "canary": None, "stable": None}
        for record in state.history
    ]
    reason = f"version {version} is the champion already"
    return {
        "steps": steps,
        "promoted": True,
        "reason": f"{reason}: {state.reason}" if state.reason else reason,
    }


def _download(name: str, version: str) -> ResolvedModel:
    return download_artifact(f"models:/{name}/{version}", settings().home / "models")


@contextmanager
def _servers(
    models: list[ResolvedModel], events: Path, log_folder: Path
) -> Iterator[list[LocalModelServer]]:
    """One server a model, started side by side; all are stopped at the end."""

    def start(model: ResolvedModel) -> LocalModelServer:
        server = LocalModelServer(
            f"models:/{model.name}/{model.version}",
            log=log_folder / f"version-{model.version}.log",
            model_name=model.name,
            histories=events,
        )
        logger.info("version %s is served at %s", model.version, server.base_url)
        return server

    with ExitStack() as running, ThreadPoolExecutor(len(models)) as pool:
        futures = [pool.submit(start, model) for model in models]
        servers = []
        failure: EngineError | None = None
        for future in futures:
            try:
                servers.append(running.enter_context(future.result()))
            except EngineError as error:
                failure = error
        if failure is not None:
            raise failure
        yield servers


def _log_step(step: StepReport) -> None:
    p95 = "-" if step.p95_ms is None else f"{step.p95_ms:.1f} ms"
    logger.info(
        "canary at %d %%: %d requests, %d errors, p95 %s: %s",
        step.percent,
        step.requests,
        step.errors,
        p95,
        step.decision,
    )


def _recommendation(
    server: LocalModelServer, artifact: Artifact, request: GoldenRequest
) -> dict[str, Any]:
    """What the server recommends to a golden user, with titles."""
    body = {**request_body(request), "k": SHOWN_ITEMS}
    response = httpx.post(f"{server.base_url}/v1/recommend", json=body, timeout=60)
    if response.status_code != httpx.codes.OK:
        raise EngineError(f"/v1/recommend answered {response.status_code}: {response.text[:200]}")
    titles = dict(zip(artifact.vocabulary.item_ids, artifact.vocabulary.titles, strict=True))
    last = [event["item_id"] for event in request.history[-SHOWN_EVENTS:]]
    return {
        "user_id": request.user_id,
        "last_titles": [titles[item] for item in last],
        "items": [
            {key: item[key] for key in ("item_id", "title", "score", "tasks")}
            for item in response.json()["items"]
        ],
    }
