"""Step: read a data set into the event table."""

from kfp import dsl

from genrec_components.base import component


@component
def ingest(
    dataset: str, path: str, columns: list[str], cache_key: str, data: dsl.Output[dsl.Dataset]
) -> None:
    """Read a data set by its adapter, check it and write its event table.

    `cache_key` changes with the source files and the program, which are no arguments themselves:
    with another key the step, and so every step after it, runs again.
    """
    from pathlib import Path

    from genrec_components.base import step
    from genrec_model.data.catalog import load_dataset
    from genrec_model.data.columns import ColumnMapping
    from genrec_model.data.stored import save_dataset

    with step("ingest", data):
        mapping = ColumnMapping.parse(columns) if columns else None
        loaded = load_dataset(dataset, path=Path(path) if path else None, mapping=mapping)
        save_dataset(loaded, Path(data.path))
        data.metadata["events"] = loaded.events.height
        data.metadata["cache_key"] = cache_key
