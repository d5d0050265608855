"""What eight bits cost a trained model: ``python -m genrec_serving.bench.page_quality``.

Pages, linear layers, or both (``--narrow``): the engine that serves answers the same questions with
and without, the next item of users of the test period.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import typer

from genrec_model.artifact import Artifact
from genrec_model.evaluation.retrieval import retrieval_targets
from genrec_model.features.prepare import Features
from genrec_model.features.rows import Ints
from genrec_model.features.sequences import UserSequences
from genrec_serving.bench.records import Record, append
from genrec_serving.encoding import user_rows
from genrec_serving.engines.interface import RecommendCall, Scored, ScoringEngine
from genrec_serving.engines.vllm_options import VllmOptions
from genrec_serving.engines.vllm_processes import VllmProcesses
from genrec_serving.histories import IndexedHistory

K = 10
#: Requests under way at once.
_AT_ONCE = 32
#: What may be in eight bits.
Narrow = Literal["pages", "linear", "both"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """Of the engine that is judged.

    Args:
        case: as in the column of the records.
        what: is in eight bits.
        fp8_pages, fp8_linear: see `VllmOptions`.
    """

    case: str
    what: str
    fp8_pages: bool = False
    fp8_linear: bool = False


CHANGES: dict[Narrow, Change] = {
    "pages": Change(case="page-quality", what="pages", fp8_pages=True),
    "linear": Change(case="linear-quality", what="linear layers", fp8_linear=True),
    "both": Change(
        case="page-linear-quality",
        what="pages and linear layers",
        fp8_pages=True,
        fp8_linear=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Of one engine, to all questions.

    Args:
        scored: the best items of each.
        seconds: of each.
        wall_s: of all.
    """

    scored: list[Scored]
    seconds: list[float]
    wall_s: float

    def hit_rate(self, wanted: Ints) -> float:
        """Share of the answers that have the item which came next."""
        pairs = zip(self.scored, wanted.tolist(), strict=True)
        return float(np.mean([item in answer.items for answer, item in pairs]))

    def spread_from(self, other: Answers) -> float:
        """Mean difference of the scores of items that both answers have, in their deviation."""
        differences, scores = [], []
        for mine, its in zip(self.scored, other.scored, strict=True):
            _, here, there = np.intersect1d(mine.items, its.items, return_indices=True)
            differences.append(mine.scores[here] - its.scores[there])
            scores.append(its.scores)
        spread = np.concatenate(scores).std()
        return float(np.abs(np.concatenate(differences)).mean() / spread)


def questions(artifact: Artifact, sequences: UserSequences, targets: Ints) -> list[RecommendCall]:
    """What would have been asked in the moment before each target, an index of an event."""
    calls = []
    for target in targets.tolist():
        user = int(np.searchsorted(sequences.offsets, target, side="right")) - 1
        seen = slice(int(sequences.offsets[user]), target)
        history = IndexedHistory(
            items=sequences.items[seen],
            actions=sequences.actions[seen],
            timestamps=sequences.timestamps[seen],
        )
        now = int(sequences.timestamps[target])
        calls.append(
            RecommendCall(
                rows=user_rows(history, artifact.config, now=now),
                now=now,
                k=K,
                exclude=np.unique(history.items)
                if artifact.dataset.spec.exclude_seen
                else np.empty(0, np.int64),
            )
        )
    return calls


async def answer(engine: ScoringEngine, calls: list[RecommendCall]) -> Answers:
    """Ask them all."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def ask(call: RecommendCall) -> tuple[Scored, float]:
        async with places:
            began = time.perf_counter()
            return await engine.recommend(call), time.perf_counter() - began

    began = time.perf_counter()
    found = await asyncio.gather(*map(ask, calls))
    return Answers(
        scored=[scored for scored, _ in found],
        seconds=[seconds for _, seconds in found],
        wall_s=time.perf_counter() - began,
    )


def compare(
    artifact: Artifact, features: Features, change: Change, *, targets: int, kv_cache_mb: int
) -> tuple[list[Record], float]:
    """Records of an engine without the change and one with it, and the share of hits that it loses.

    Raises:
        EngineError: vLLM cannot start or answer.
    """
    sequences = features.sequences(artifact.vocabulary)
    chosen = retrieval_targets(
        sequences,
        start=features.dataset.split.test,
        stop=np.iinfo(np.int64).max,
        limit=targets,
        seed=0,
    )
    calls = questions(artifact, sequences, chosen)
    cuda = torch.cuda.is_available()
    plain_options = VllmOptions(kv_cache_mb=kv_cache_mb, processes=1).for_device(cuda=cuda)
    plain_kind = str(plain_options.dtype)
    answers = {}
    fp8_options = replace(plain_options, fp8_pages=change.fp8_pages, fp8_linear=change.fp8_linear)
    for kind, options in ((plain_kind, plain_options), ("fp8", fp8_options)):
        engine = VllmProcesses(artifact, version="1", options=options)
        try:
            answers[kind] = asyncio.run(answer(engine, calls))
        finally:
            engine.close()
    wanted = sequences.items[chosen]
    plain = answers[plain_kind]
    rates = {kind: found.hit_rate(wanted) for kind, found in answers.items()}
    records = [
        Record(
            case=change.case,
            backend=f"vllm, {kind} {change.what}",
            dtype=kind,
            p50_ms=float(np.percentile(found.seconds, 50)) * 1e3,
            p95_ms=float(np.percentile(found.seconds, 95)) * 1e3,
            rate=len(calls) / found.wall_s,
            unit="requests/s",
            reference=f"{plain_kind} {change.what}",
            reference_ms=float(np.percentile(plain.seconds, 50)) * 1e3,
            error=found.spread_from(plain),
            gpu=torch.cuda.get_device_name() if cuda else f"CPU, {os.cpu_count()} cores",
            note=f"{artifact.dataset.spec.title}: {len(calls)} events of the test period, "
            f"HR@{K} {rates[kind]:.4f} ({rates[plain_kind]:.4f} with {plain_kind}), "
            f"{kv_cache_mb} MiB of pages; error: mean difference of scores in their deviation",
        )
        for kind, found in answers.items()
    ]
    return records, 1 - rates["fp8"] / max(rates[plain_kind], 1e-9)


def main(
    artifact: Annotated[Path, typer.Option(help="A trained model.")],
    features: Annotated[Path, typer.Option(help="Folder of the feature step, of its data set.")],
    narrow: Annotated[Narrow, typer.Option(help="What is in eight bits.")] = "pages",
    targets: Annotated[int, typer.Option(min=1, help="Events to predict.")] = 4000,
    kv_cache_mb: Annotated[int, typer.Option(min=1, help="Memory for pages, MiB.")] = 64,
    most_loss: Annotated[
        float, typer.Option(help="Share of the hit rate that may be lost.")
    ] = 0.005,
    records: Annotated[Path | None, typer.Option(help="CSV file to append to.")] = None,
) -> None:
    """Compare recommendations in the device's data type to those with something in eight bits."""
    change = CHANGES[narrow]
    rows, loss = compare(
        Artifact(artifact),
        Features.load(features),
        change,
        targets=targets,
        kv_cache_mb=kv_cache_mb,
    )
    for row in rows:
        typer.echo(f"{row.backend}: {row.rate:.1f} {row.unit}, {row.note}, error {row.error:.4f}")
    if records is not None:
        append(records, rows)
    if loss > most_loss:
        typer.echo(
            f"{change.what} in fp8 lose {loss:.2%} of HR@{K}, more than {most_loss:.2%}", err=True
        )
        raise typer.Exit(2)


if __name__ == "__main__":
    typer.run(main)
