"""Pages that leave vLLM's pool and come back from the host's memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from genrec_model.errors import ConfigError
from genrec_serving.engines.vllm_engine import host_transfer
from genrec_serving.engines.vllm_options import VllmOptions
from genrec_serving.vllm_plugin.host_copies import HostCopies
from genrec_serving.vllm_plugin.host_index import HostIndex, Measured, PageCosts

A, B, C, D = b"a", b"b", b"c", b"d"


def test_the_page_that_was_used_least_recently_leaves() -> None:
    index = HostIndex(2)
    assert (index.put(A), index.put(B), index.put(A)) == (0, 1, None)
    assert index.put(C) == 1  # A was used after B
    assert (index.use(A), index.use(B), index.use(C)) == (0, None, 1)
    assert (len(index), index.evictions) == (2, 1)


def test_a_prefix_ends_at_its_first_hole() -> None:
    index = HostIndex(3)
    for page in (A, B, D):
        index.put(page)
    assert index.count([A, B, C, D]) == 2
    assert index.count([C, D]) == 0
    assert index.count([]) == 0


def test_copying_pays_where_it_is_measured_to_be_quicker() -> None:
    costs = PageCosts(row_bytes=100)
    assert costs.copying_pays(10)  # nothing is known
    costs.learn(Measured(ms_per_row=0.01))
    assert costs.copying_pays(10)
    costs.learn(Measured(bytes_per_ms=20_000))  # a row in 5 us, where computing takes 10
    assert costs.copying_pays(10)
    for _ in range(30):
        costs.learn(Measured(ms_per_row=0.004))
    assert costs.ms_per_row == pytest.approx(0.004, rel=0.01)
    assert not costs.copying_pays(10)


def test_copies_go_where_they_belong_when_a_layer_asks() -> None:
    pool = {name: torch.arange(40.0).reshape(10, 4) + 100 * i for i, name in enumerate("xyz")}
    saved = {name: pages.clone() for name, pages in pool.items()}
    copies = HostCopies(pool, slots=5)
    copies.begin(3)
    copies.end([(0, 7), (1, 8), (4, 2), (3, 9)])
    for pages in pool.values():
        pages.zero_()
    copies.load([(4, 0), (0, 5), (1, 6), (3, 7)])
    copies.wait("y")
    assert not pool["x"].any()
    assert torch.equal(pool["y"][[0, 5, 6, 7]], saved["y"][[2, 7, 8, 9]])
    copies.wait_for_all()
    copies.wait("z")  # again does nothing
    for name, pages in pool.items():
        assert torch.equal(pages[[0, 5, 6, 7]], saved[name][[2, 7, 8, 9]])
        assert not pages[[1, 2, 3, 4, 8, 9]].any()
    measured = copies.measured()
    assert measured.ms_per_row is None  # the step was too small to tell
    assert measured.bytes_per_ms is not None
    assert copies.measured() == Measured()


def test_a_host_without_room_for_a_page_is_refused(served_artifact: Any) -> None:
    config = served_artifact.config
    options = VllmOptions(host_cache_mb=1).for_device(cuda=False)
    transfer = host_transfer(config, options)
    # Two layers, two heads, 16 wide, keys and values in float32, and a time.
    assert transfer is not None
    assert transfer.kv_connector_extra_config == {"slots": 126, "page_rows": 16, "row_bytes": 520}
    assert host_transfer(config, VllmOptions().for_device(cuda=False)) is None
    huge = SimpleNamespace(num_layers=1000, num_heads=100, head_dim=100)
    with pytest.raises(ConfigError, match="do not hold a page"):
        host_transfer(huge, options)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_returning_users_in_a_pool_of_few_pages(served_artifact: Any, runner: str) -> None:
    cases = Path(__file__).with_name("host_tier_cases.py")
    command = [sys.executable, str(cases), str(served_artifact.path), runner]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert "all cases hold" in ran.stdout
