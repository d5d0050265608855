"""Ids of the benchmark follow the law that they are named after."""

from __future__ import annotations

import pytest
import torch

from genrec_cache.bench.zipf import Zipf


def test_draws_counts_and_shares_agree() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        zipf = Zipf(1000, 1.05, "cpu")
        drawn = zipf.draw(100_000)
        top, rest = zipf.draw(1000, last=50), zipf.draw(1000, first=50)
    hot = zipf.by_popularity[:50]
    assert float(torch.isin(drawn, hot).double().mean()) == pytest.approx(zipf.share(50), abs=0.01)
    assert bool(torch.isin(top, hot).all())
    assert not bool(torch.isin(rest, hot).any())
    counts = zipf.counts(10**6)
    assert counts[zipf.by_popularity[0]] == counts.max()
    assert int(counts[hot].sum()) / 10**6 == pytest.approx(zipf.share(50), abs=1e-3)
    assert sorted(zipf.by_popularity.tolist()) == list(range(1000))
