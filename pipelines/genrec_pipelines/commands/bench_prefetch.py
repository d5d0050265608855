"""`genrec bench prefetch`: whether rows that a model expects are worth copying ahead.

Letters in shapes: E events of the test period, k items of a prediction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from genrec_cache.prefetch_replay import prefetch_hits
from genrec_cache.replay import BatchHits
from genrec_model.artifact import Artifact
from genrec_model.data.catalog import load_dataset
from genrec_model.errors import ConfigError
from genrec_model.evaluation.retrieval import BATCH_ROWS
from genrec_model.evaluation.windows import batched, target_windows, window_rows
from genrec_model.features.rows import collate
from genrec_model.features.sequences import UserSequences
from genrec_model.hstu import HSTU
from genrec_pipelines.commands.bench_cache import parse_sizes
from genrec_pipelines.commands.csv_records import append_rows

Ints = NDArray[np.int64]

#: Items that a visit is shown, and so looks up; predictions are the first of them.
SHOWN = 20
TOPS = (0, 1, 5, 20)
#: Visits of a batch.
BATCH = 128
_COLUMNS = (
    *("dataset", "hr", "lookups", "size", "look_ahead", "top", "batches"),
    *("unique_hit_rate", "copies_per_batch"),
)


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What a model expects at each visit of the time after its training.

    Args:
        before: row of the user's event before the visit, the one that is new to the engine, [E].
        shown: rows of the best items, best first, [E, k].
        popularity: training events of each row.
        hits: share of the visits whose next event is among them.
    """

    before: Ints
    shown: Ints
    popularity: Ints
    hits: float


def prefetch(
    artifact: Annotated[Path, typer.Option("--artifact", help="A trained model.")],
    dataset: Annotated[str, typer.Option("--dataset", help="Data set that it was trained on.")],
    path: Annotated[Path | None, typer.Option("--path", help="Its files: folder or zip.")] = None,
    sizes: Annotated[str, typer.Option("--sizes", help="Slots as shares of the items.")] = (
        "0.1,0.3"
    ),
    records: Annotated[Path, typer.Option("--records", help="CSV file to append to.")] = Path(
        "cache/bench/prefetch.csv"
    ),
) -> None:
    """Replay visits after a model's training, with the rows that it expects copied ahead."""
    shares = parse_sizes(sizes)
    model = Artifact(artifact)
    if model.dataset.spec.name != load_dataset(dataset, path=path).spec.name:
        raise ConfigError(f"{artifact} was trained on {model.dataset.spec.name}, not {dataset}")
    found = predict(model, dataset, path)
    batches = len(found.before) // BATCH
    if not batches:
        raise ConfigError(f"{dataset}: fewer than {BATCH} visits after the training")
    console, table = Console(), Table("lookups", "slots", "queue", "top", "hits", "copies/batch")
    rows: list[tuple[object, ...]] = []
    for share in shares:
        for lookups, look_ahead, top, hits in _replays(found, batches, share):
            figures = f"{hits.unique_hit_rate:.4f}", f"{hits.copies_per_batch:.1f}"
            setting = (lookups, share, int(look_ahead), top)
            rows.append((dataset, f"{found.hits:.4f}", *setting, batches, *figures))
            table.add_row(*map(str, setting), *figures)
    append_rows(records, _COLUMNS, rows)
    console.print(table)
    console.print(f"hit rate of the first {SHOWN} predictions {found.hits:.1%}")
    console.print(f"appended to {records}")


@torch.inference_mode()
def predict(artifact: Artifact, dataset: str, path: Path | None) -> Predicted:
    """A trained model's predictions at each visit after its training: one before each event."""
    events = load_dataset(dataset, path=path).events
    sequences = UserSequences.encode(events, artifact.vocabulary, ())
    model = artifact.load_model()
    late = np.flatnonzero(sequences.timestamps >= artifact.dataset.split.validation)
    has_past = late > sequences.offsets[_users(sequences, late)]
    late = late[has_past]
    shown = np.zeros((len(sequences.items), SHOWN), np.int64)
    exclude_seen = artifact.dataset.spec.exclude_seen
    for batch in batched(target_windows(sequences, late, artifact.config), BATCH_ROWS):
        targets = np.concatenate([window.targets for window in batch])
        rows = collate([window_rows(sequences, window) for window in batch])
        places = np.concatenate(
            [
                offset + window.targets - window.first
                for offset, window in zip(rows.layout.offsets.tolist(), batch, strict=False)
            ]
        )
        scores = _scores(model, model(rows).index_select(0, torch.from_numpy(places)))
        if exclude_seen:
            begins = sequences.offsets[_users(sequences, targets)]
            for row, (begin, target) in enumerate(zip(begins, targets, strict=True)):
                scores[row, torch.from_numpy(sequences.items[begin:target])] = -torch.inf
        shown[targets] = scores.topk(SHOWN).indices.numpy()
    order = late[np.argsort(sequences.timestamps[late], kind="stable")]
    right = (shown[order] == sequences.items[order, None]).any(axis=1)
    return Predicted(
        before=sequences.items[order - 1],
        shown=shown[order],
        popularity=artifact.vocabulary.train_counts,
        hits=float(right.mean()),
    )


def _replays(
    found: Predicted, batches: int, share: float
) -> Iterator[tuple[str, bool, int, BatchHits]]:
    """Lookups of new events alone, and with the items that are shown."""
    capacity = max(1, round(share * len(found.popularity)))
    parts = [slice(n * BATCH, (n + 1) * BATCH) for n in range(batches)]
    new = [np.unique(found.before[part]) for part in parts]
    both = [
        np.union1d(ids, found.shown[part].ravel()) for ids, part in zip(new, parts, strict=True)
    ]
    for lookups, ids in (("new", new), ("new and shown", both)):
        for look_ahead in (False, True):
            for top in TOPS:
                predicted = [found.shown[part, :top].ravel() for part in parts]
                hits = prefetch_hits(
                    ids, predicted, found.popularity, capacity, look_ahead=look_ahead
                )
                yield lookups, look_ahead, top, hits


def _scores(model: HSTU, hidden: torch.Tensor) -> torch.Tensor:
    return model.catalogue_scores(model.user_embedding(hidden))


def _users(sequences: UserSequences, events: Ints) -> Ints:
    users: Ints = np.searchsorted(sequences.offsets, events, side="right") - 1
    return users
