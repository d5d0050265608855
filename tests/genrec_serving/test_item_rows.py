"""Layers that take their item rows from a hot cache see what the whole table gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn

from genrec_cache.host_rows import HostRows
from genrec_cache.stored_matrix import StoredMatrix
from genrec_model.artifact import Artifact
from genrec_model.errors import ConfigError
from genrec_model.hstu import HSTU
from genrec_serving.vllm_plugin import item_rows
from genrec_serving.vllm_plugin.compact_catalogue import CompactCatalogue
from genrec_serving.vllm_plugin.item_cache_options import ItemCacheOptions, all_item_caches
from genrec_serving.vllm_plugin.item_rows import CachedItems, ItemRows, popularity

CPU = torch.device("cpu")


def test_rows_are_the_embeddings(monkeypatch) -> None:
    monkeypatch.setattr(item_rows, "BATCH_IDS", 100)
    whole = nn.Embedding(50, 6)
    cached = CachedItems(HostRows(whole.weight.detach()), 5, CPU)
    for seed in range(10):
        items = torch.randint(0, 50, (40,), generator=torch.Generator().manual_seed(seed)) // 3
        with torch.inference_mode(), cached.pass_over(items):
            assert torch.equal(cached(items), whole(items))
            assert torch.equal(cached(items.view(8, 5)), whole(items.view(8, 5)))
    found = cached.statistics()
    # One pass is one lookup, however often its layers ask.
    assert (found["lookups"], found["accesses"], found["residents"]) == (10, 400, 5)
    assert found["hits"] > 0
    assert torch.equal(cached.weight, whole.weight)


def test_a_pass_that_fails_does_not_block_the_next() -> None:
    cached = CachedItems(HostRows(torch.zeros(9, 2)), 3, CPU)
    with pytest.raises(ZeroDivisionError), cached.pass_over(torch.tensor([1])):
        raise ZeroDivisionError
    with cached.pass_over(torch.tensor([1])):
        assert cached(torch.tensor([1])).shape == (1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_table_comes_from_the_file(tiny_artifact, dtype) -> None:
    expected = tiny_artifact.load_model().item_embedding.weight.to(dtype)
    for options in (on(tiny_artifact), ItemCacheOptions(mode="off")):
        model, rows = rows_of(tiny_artifact, options, dtype)
        items = torch.tensor([0, 7, 7, len(expected) - 1])
        with torch.inference_mode(), rows.pass_over(items):
            found = model.item_embedding(items)
        assert found.dtype == dtype
        assert torch.equal(found, expected[items])
        assert (rows.cached is None) == (options.mode == "off")
        rows.close()


def test_what_is_cached() -> None:
    auto = ItemCacheOptions()
    assert auto.why_not(1600, 4 * 1599) is None
    assert auto.why_not(1600, 6400) == "the table takes 25.0% of the GPU's memory only"
    assert "CPU" in str(auto.why_not(10**12, None))
    assert ItemCacheOptions(mode="on").why_not(1, None) is None
    assert ItemCacheOptions(mode="off").why_not(10**12, 1) == "it is switched off"


def test_what_may_be_asked_for() -> None:
    assert ItemCacheOptions.parse("auto") == ItemCacheOptions()
    assert ItemCacheOptions.parse("off").mode == "off"
    assert ItemCacheOptions.parse("0.3") == ItemCacheOptions(mode="on", slots=0.3)
    for wrong in ("0", "1.5", "-1", "nan", "10%", ""):
        with pytest.raises(ConfigError, match=r"item cache .*: use auto, on, off, or a share"):
            ItemCacheOptions.parse(wrong)
    assert ItemCacheOptions.parse("auto,compact") == ItemCacheOptions(search="compact")
    assert ItemCacheOptions.parse("0.3,stream") == ItemCacheOptions(
        mode="on", slots=0.3, search="stream"
    )
    for wrong in ("on,", "on,whole", "0.3,stream,stream"):
        with pytest.raises(ConfigError, match="after the comma use one of auto, compact, stream"):
            ItemCacheOptions.parse(wrong)
    for change in (
        *({"slots": 0.0}, {"above": 1.5}, {"slot_bytes": 0}, {"mode": "maybe"}),
        *({"search": "whole"}, {"search_share": -0.1}, {"search_share": 1.1}),
    ):
        with pytest.raises(ConfigError, match="item cache"):
            ItemCacheOptions(**change)


def test_where_retrieval_has_a_copy() -> None:
    auto = ItemCacheOptions()
    assert auto.why_no_copy(1600, 6400) is None
    assert "25.0% of the GPU's memory, more than 25.0%" in str(auto.why_no_copy(1601, 6400))
    assert "CPU" in str(auto.why_no_copy(1, None))
    assert ItemCacheOptions(search="compact").why_no_copy(10**12, None) is None
    assert ItemCacheOptions(search="stream").why_no_copy(1, 10**12) is not None


def test_how_many_slots() -> None:
    assert ItemCacheOptions(slots=0.1).num_slots(1000, 8) == 100
    assert ItemCacheOptions(slots=0.1).num_slots(3, 8) == 1
    assert ItemCacheOptions(slot_bytes=81).num_slots(1000, 8) == 10
    assert ItemCacheOptions(slot_bytes=10**9).num_slots(1000, 8) == 1000


def test_options_go_through_vllms_configuration() -> None:
    options = ItemCacheOptions(mode="on", slots=0.2, artifact="a", snapshot="s")
    assert ItemCacheOptions.from_config({"dtype": "float32", **options.as_config()}) == options
    assert ItemCacheOptions.from_config({}) == ItemCacheOptions()


def on(artifact: Artifact, snapshot: Path | None = None) -> ItemCacheOptions:
    return ItemCacheOptions(
        mode="on",
        slots=0.1,
        artifact=str(artifact.path),
        snapshot=None if snapshot is None else str(snapshot),
    )


def rows_of(
    artifact: Artifact, options: ItemCacheOptions, dtype: torch.dtype = torch.float32
) -> tuple[HSTU, ItemRows]:
    """A model without its table, and what gives it one."""
    config = artifact.config
    absent = nn.Embedding(config.num_items, config.hidden_size, device="meta")
    model = HSTU(config, item_embedding=absent)
    table = StoredMatrix.find(artifact.path / "model.safetensors", "item_embedding.weight")
    return model, ItemRows(model, table, options, dtype=dtype, device=CPU)


def ask(rows: ItemRows, items: list[int]) -> None:
    with rows.pass_over(torch.tensor(items)):
        pass


def test_a_new_cache_starts_with_the_most_popular_items(tiny_artifact) -> None:
    model, rows = rows_of(tiny_artifact, on(tiny_artifact))
    assert rows.cached is not None
    assert model.item_embedding is rows.cached
    counts = tiny_artifact.vocabulary.train_counts
    hot = rows.cached.cache.residents
    assert len(hot) == round(0.1 * len(counts))
    assert counts[hot].min() >= np.delete(counts, hot).max()
    assert rows.statistics()["start"] == "popularity"


def test_the_next_cache_starts_where_the_last_one_ended(tiny_artifact, tmp_path) -> None:
    file = tmp_path / "state" / "item-cache.npz"
    _, first = rows_of(tiny_artifact, on(tiny_artifact, file))
    rare = [30, 31, 32, 33]
    for _ in range(40):
        ask(first, rare * (item_rows.BATCH_IDS // len(rare)))
    first.close()
    assert first.cached is not None
    _, second = rows_of(tiny_artifact, on(tiny_artifact, file))
    assert second.cached is not None
    assert second.statistics()["start"] == "snapshot"
    assert second.cached.cache.residents.tolist() == first.cached.cache.residents.tolist()
    assert set(rare) & set(second.cached.cache.residents.tolist())
    second.close()


def test_a_snapshot_of_another_table_is_not_used(tiny_artifact, tmp_path, caplog) -> None:
    file = tmp_path / "item-cache.npz"
    file.write_bytes(b"no snapshot")
    _, rows = rows_of(tiny_artifact, on(tiny_artifact, file))
    assert rows.statistics()["start"] == "popularity"
    assert "does not start from its snapshot" in caplog.text
    rows.close()


def test_popularity_that_does_not_fit_is_not_used(tiny_artifact, tmp_path, caplog) -> None:
    table_rows = tiny_artifact.config.num_items
    known = popularity(tiny_artifact.path, table_rows)
    assert known is not None
    assert known.tolist() == tiny_artifact.vocabulary.train_counts.tolist()
    assert popularity(tiny_artifact.path, table_rows + 1) is None
    assert popularity(tmp_path, table_rows) is None
    assert caplog.text.count("starts cold") == 2


def test_a_cache_that_cannot_be_made_leaves_the_whole_table(tiny_artifact, caplog) -> None:
    class Full(CachedItems):
        def __init__(self, *arguments: object) -> None:
            raise RuntimeError("out of memory")

    with patch.object(item_rows, "CachedItems", Full):
        model, rows = rows_of(tiny_artifact, on(tiny_artifact))
    whole = tiny_artifact.load_model().item_embedding.weight
    assert torch.equal(model.item_embedding.weight, whole)
    shown = rows.statistics()
    assert shown["state"] == "failed"
    assert shown["problem"] == "no cache of the item table: out of memory"
    assert "goes to the device as a whole" in caplog.text
    ask(rows, [1])
    rows.close()


@pytest.mark.parametrize("search", ["auto", "stream", "compact"])
def test_how_retrieval_searches_is_shown(tiny_artifact, caplog, search) -> None:
    caplog.set_level("INFO")
    _, rows = rows_of(tiny_artifact, replace(on(tiny_artifact), search=search))
    shown = rows.statistics()
    compact = search == "compact"
    assert isinstance(rows.catalogue, CompactCatalogue) == compact
    assert shown["search"] == ("compact" if compact else "stream")
    assert bool(shown["search_why"]) != compact
    config = tiny_artifact.config
    size = config.num_items * (config.hidden_size + 8)
    assert shown["search_bytes"] == (size if compact else 0)
    assert caplog.text.count("retrieval searches a copy") == compact
    assert caplog.text.count("retrieval reads the whole item table") == (not compact)
    rows.close()


def test_a_copy_that_cannot_be_made_leaves_the_stream(tiny_artifact, caplog) -> None:
    class Full(CompactCatalogue):
        def __init__(self, *arguments: object) -> None:
            raise RuntimeError("out of memory")

    with patch.object(item_rows, "CompactCatalogue", Full):
        _, rows = rows_of(tiny_artifact, replace(on(tiny_artifact), search="compact"))
    shown = rows.statistics()
    assert (shown["state"], shown["search"], shown["problem"]) == ("on", "stream", "")
    assert shown["search_why"] == "no copy in eight bits: out of memory"
    assert "out of memory" in caplog.text
    rows.close()


def test_several_engines_are_shown_as_one(tiny_artifact) -> None:
    engines = [rows_of(tiny_artifact, on(tiny_artifact))[1] for _ in range(2)]
    for rows in engines:
        ask(rows, [5, 5, 6])
    parts = [{"item_cache": rows.statistics()} for rows in engines]
    found = all_item_caches(parts)
    assert (found["state"], found["accesses"], found["unique"]) == ("on", 6, 4)
    for rows in engines:
        assert rows.catalogue is not None
        user = torch.zeros(1, rows.catalogue._table.width)
        every = torch.ones(rows.catalogue.num_rows, dtype=torch.bool)
        rows.catalogue.search(user, 2, exclude=None, allow=every)
    both = all_item_caches([{"item_cache": rows.statistics()} for rows in engines])
    assert (both["search"], both["searches"], both["search_streams"]) == ("stream", 2, 2)
    off = {"item_cache": rows_of(tiny_artifact, ItemCacheOptions())[1].statistics()}
    assert all_item_caches([off, off])["state"] == "off"
    failed = {"item_cache": {"state": "failed", "why": "", "problem": "full"}}
    mixed = all_item_caches([*parts, failed])
    assert (mixed["state"], mixed["problem"], mixed["accesses"]) == ("failed", "full", 6)
