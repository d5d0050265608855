"""A digest of a data set that any machine computes alike."""

from __future__ import annotations

import hashlib
import json

import polars as pl

from genrec_model.data.spec import DatasetSpec


def dataset_digest(events: pl.DataFrame, spec: DatasetSpec) -> str:
    """``sha256:`` of the events and of how they are labelled.

    Column names, types and values count, the file format does not.
    """
    digest = hashlib.sha256(json.dumps(spec.to_dict(), sort_keys=True).encode())
    for column in events.columns:
        values = events[column]
        digest.update(f"{column}:{values.dtype}:{len(values)};".encode())
        if values.dtype == pl.String:
            for value in values.to_list():
                digest.update(repr(value).encode())
        else:
            digest.update(values.to_numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
