"""A data set in one folder: what the ingest step leaves for the steps after it.

::

    events.parquet    the event table
    items.parquet     item_id, title
    spec.json         specification
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from genrec_model.data.dataset import Dataset
from genrec_model.data.events import read_events, write_events
from genrec_model.data.spec import DatasetSpec
from genrec_model.errors import DataError
from genrec_model.files import read_json, replacing, write_json


def save_dataset(dataset: Dataset, folder: Path) -> None:
    """Write a data set, whole or not at all."""
    with replacing(folder) as temporary:
        temporary.mkdir()
        write_events(dataset.events, temporary / "events.parquet")
        dataset.items.write_parquet(temporary / "items.parquet")
        write_json(temporary / "spec.json", dataset.spec.to_dict())


def read_dataset(folder: Path) -> Dataset:
    """Read what `save_dataset` wrote.

    Raises:
        DataError: something is missing or broken.
    """
    try:
        spec = DatasetSpec.from_dict(read_json(folder / "spec.json"))
        items = pl.read_parquet(folder / "items.parquet")
    except (OSError, ValueError, KeyError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{folder}: not a data set written by the ingest step ({error})") from error
    return Dataset(spec=spec, events=read_events(folder / "events.parquet"), items=items)
