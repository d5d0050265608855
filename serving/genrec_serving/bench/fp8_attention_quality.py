"""What attention in eight bits costs a trained model:
``python -m genrec_serving.bench.fp8_attention_quality``.

Both kinds of attention rank the same events of the test period. Without a Hopper GPU the plain twin
of the kernel runs, which rounds the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from genrec_model.artifact import Artifact
from genrec_model.evaluation.retrieval import evaluate_retrieval, retrieval_targets
from genrec_model.features.prepare import Features
from genrec_model.hstu.fp8 import run_in_fp8

METRICS = ("hr_10", "ndcg_10", "hr_50")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Metrics of both, by name.

    Args:
        full: with the attention that the model was trained with.
        fp8: in eight bits.
        moved: share of the targets whose rank differs.
    """

    full: dict[str, float]
    fp8: dict[str, float]
    moved: float

    @property
    def lost(self) -> float:
        """Share of HR@10 that eight bits lose; negative where they win."""
        return 1 - self.fp8["hr_10"] / max(self.full["hr_10"], 1e-9)


def compare(artifact: Artifact, features: Features, *, targets: int) -> Comparison:
    """Rank events of the test period with both.

    Raises:
        ConfigError: the model has a relative bias.
    """
    sequences = features.sequences(artifact.vocabulary)
    chosen = retrieval_targets(
        sequences,
        start=features.dataset.split.test,
        stop=np.iinfo(np.int64).max,
        limit=targets,
        seed=0,
    )
    model = artifact.load_model()
    exclude_seen = artifact.dataset.spec.exclude_seen
    full = evaluate_retrieval(model, sequences, chosen, exclude_seen=exclude_seen)
    fp8 = evaluate_retrieval(
        model, sequences, chosen, exclude_seen=exclude_seen, run=partial(run_in_fp8, model)
    )
    return Comparison(
        full=full.metrics, fp8=fp8.metrics, moved=float(np.mean(full.ranks != fp8.ranks))
    )


def main(
    artifact: Annotated[Path, typer.Option(help="A trained model without relative bias.")],
    features: Annotated[Path, typer.Option(help="Folder of the feature step, of its data set.")],
    targets: Annotated[int, typer.Option(min=1, help="Events to predict.")] = 20_000,
    most_loss: Annotated[
        float, typer.Option(help="Share of the hit rate that may be lost.")
    ] = 0.005,
) -> None:
    """Compare what a model ranks with attention in eight bits and without."""
    found = compare(Artifact(artifact), Features.load(features), targets=targets)
    for name in METRICS:
        typer.echo(f"{name}: {found.fp8[name]:.4f} in eight bits, {found.full[name]:.4f} without")
    typer.echo(f"{found.full['targets']:.0f} events, {found.moved:.1%} of the ranks differ")
    if found.lost > most_loss:
        typer.echo(
            f"attention in eight bits loses {found.lost:.2%} of HR@10, more than {most_loss:.2%}",
            err=True,
        )
        raise typer.Exit(2)


if __name__ == "__main__":
    typer.run(main)
