"""Data sets by name."""

from __future__ import annotations

from pathlib import Path

from genrec_model.data.columns import ColumnMapping, load_columns
from genrec_model.data.dataset import Dataset
from genrec_model.data.events import check_events
from genrec_model.data.kuairand import load_kuairand
from genrec_model.data.movielens import load_movielens, load_movielens_100k
from genrec_model.data.online_retail import load_online_retail
from genrec_model.errors import ConfigError

DATASETS: dict[str, str] = {
    "movielens-100k": "MovieLens-100K, fetched by `make data`",
    "movielens": "any MovieLens release: a folder or zip file",
    "kuairand": "KuaiRand logs: a file, folder or zip file",
    "online-retail": "Online Retail II: a folder with events.parquet and items.parquet",
    "columns": "any Parquet, CSV or TSV file, with a column mapping",
}


def load_dataset(
    name: str, *, path: Path | None = None, mapping: ColumnMapping | None = None
) -> Dataset:
    """Load a data set and check its events.

    Args:
        name: one of :data:`DATASETS`.
        path: where its files are; only ``movielens-100k`` has a place of its own.
        mapping: for ``columns``, which column means what.

    Raises:
        ConfigError: the name is unknown, or an option is missing or out of place.
        DataError: the files are missing or broken, or their events cannot be used.
    """
    if name not in DATASETS:
        raise ConfigError(f"data set {name!r} is unknown: use one of {', '.join(DATASETS)}")
    if (mapping is not None) != (name == "columns"):
        raise ConfigError(
            "data set columns: a column mapping is needed (user=…, item=…, timestamp=…)"
            if name == "columns"
            else f"data set {name}: a column mapping is only for `columns`: leave it out"
        )
    dataset = _load(name, path, mapping)
    check_events(dataset.events, dataset.spec)
    return dataset


def _load(name: str, path: Path | None, mapping: ColumnMapping | None) -> Dataset:
    if name == "movielens-100k":
        return load_movielens_100k(path)
    if path is None:
        raise ConfigError(f"data set {name}: a path is needed: say where its files are")
    if mapping is not None:
        return load_columns(path, mapping)
    readers = {
        "movielens": load_movielens,
        "kuairand": load_kuairand,
        "online-retail": load_online_retail,
    }
    return readers[name](path)
