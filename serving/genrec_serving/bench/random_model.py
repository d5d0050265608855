"""A model of random weights, as large as a benchmark wants it: only its speed means something.

``python -m genrec_serving.bench.random_model --out DIR --layers 4 --width 128 ...``
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
import typer

from genrec_model.artifact import Artifact, DatasetInfo
from genrec_model.data.spec import DatasetSpec, TaskRule, TaskSpec
from genrec_model.features.split import TimeSplit
from genrec_model.features.vocabulary import Vocabulary
from genrec_model.hstu import HSTU, HSTUConfig

_SPEC = DatasetSpec(
    name="random",
    title="Random weights",
    actions=("view", "buy"),
    tasks=(
        TaskSpec(
            name="engagement",
            rule=TaskRule(kind="action_in", actions=("buy",)),
            description="nothing: the weights are random",
        ),
    ),
    unlabelled=dict.fromkeys(("retention", "monetization"), "the weights are random"),
    exclude_seen=False,
    value_unit="none",
    licence="CC0",
)


def write_random_model(
    path: Path,
    *,
    items: int,
    layers: int,
    width: int,
    heads: int,
    max_history: int,
    chunk: int,
    onnx: bool = True,
    train_counts: npt.NDArray[np.int64] | None = None,
) -> Artifact:
    """An artifact of random weights with its ONNX graph.

    Args:
        path: folder to write.
        items: of the catalogue.
        layers, width, heads: of HSTU; the heads share the width.
        max_history: events that the model sees.
        chunk: events in which histories are cut.
        onnx: with its graph, which takes a large model minutes.
        train_counts: of each item, how often it was used in the training that never was; None for
            once each.

    Raises:
        ConfigError: no such model can be.
    """
    vocabulary = Vocabulary(
        pl.DataFrame(
            {
                "item_id": np.arange(items),
                "title": [f"item {i}" for i in range(items)],
                "train_count": np.ones(items, np.int64) if train_counts is None else train_counts,
            }
        ),
        _SPEC.actions,
    )
    config = HSTUConfig(
        num_items=vocabulary.num_items,
        num_actions=vocabulary.num_actions,
        tasks=_SPEC.task_names,
        hidden_size=width,
        num_layers=layers,
        num_heads=heads,
        head_dim=width // heads,
        max_history=max_history,
        chunk_size=chunk,
        norm_length=max_history + 1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HSTU(config).eval()
    artifact = Artifact.create(
        path,
        model=model,
        vocabulary=vocabulary,
        dataset=DatasetInfo(
            spec=_SPEC,
            digest="sha256:random",
            split=TimeSplit(validation=1, test=2),
            num_events=0,
            num_users=0,
        ),
        training={},
    )
    if onnx:
        from genrec_model.export.onnx_export import export_onnx

        (path / "onnx").mkdir(exist_ok=True)
        export_onnx(model, path / "onnx" / "model.onnx")
    return artifact


def main(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    items: Annotated[int, typer.Option(min=2, help="Of the catalogue.")] = 10_000,
    layers: Annotated[int, typer.Option(min=1, help="Of HSTU.")] = 4,
    width: Annotated[int, typer.Option(min=8, help="Of HSTU.")] = 128,
    heads: Annotated[int, typer.Option(min=1, help="That share the width.")] = 4,
    max_history: Annotated[int, typer.Option(min=1, help="Events that it sees.")] = 511,
    chunk: Annotated[int, typer.Option(min=1, help="Events in which histories are cut.")] = 64,
) -> None:
    """Write a model of random weights."""
    write_random_model(
        out,
        items=items,
        layers=layers,
        width=width,
        heads=heads,
        max_history=max_history,
        chunk=chunk,
    )
    typer.echo(f"wrote {out}")


if __name__ == "__main__":
    typer.run(main)
