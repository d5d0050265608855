"""Keys and values in eight bits. What they cost a trained model, `bench.page_quality` tells."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from genrec_kernels.fp8_layout import LARGEST, LARGEST_BIAS, LEAST_PRODUCT, largest_factor
from genrec_kernels.fp8_pages import (
    FP8,
    narrow_factors,
    narrow_values,
    pages_of,
    qk_scale_for,
    scales_for,
)
from genrec_kernels.page_write import page_write
from genrec_kernels.paged_hstu_attention import paged_hstu_attention
from genrec_kernels.relative_bias import RelativeBias
from genrec_model.hstu import HSTUConfig
from genrec_model.hstu.layer import HSTULayer
from genrec_serving.engines.interface import RankCall, RecommendCall, ScoringEngine
from genrec_serving.engines.vllm_options import VllmOptions
from genrec_serving.vllm_plugin import attention_backend
from genrec_serving.vllm_plugin.fp8_pages import PageScales, page_scales
from genrec_serving.vllm_plugin.passes import PassInputs

NONE = np.empty(0, np.int64)


def test_a_number_comes_back_within_a_sixteenth() -> None:
    torch.manual_seed(0)
    k, v = torch.randn(16, 3, 8) * 5, torch.randn(16, 3, 8) / 50
    scales = scales_for(*(x.abs().amax(dim=(0, 2)) for x in (k, v)), 8)
    page = torch.zeros(1, 3, 16, 16).to(FP8)
    page_write(k, v, torch.arange(16), kv_pages=page, kv_scales=scales)
    back = pages_of(page, torch.tensor([0]), scales, torch.float32)[0].transpose(0, 1)
    for found, wanted, scale in zip(back.chunk(2, dim=-1), (k, v), scales, strict=True):
        # Very small ones are off by half of the smallest step.
        allowed = wanted.abs() / 16 + scale[:, None] * 2**-10
        assert ((found - wanted).abs() <= allowed).all()


def test_what_is_too_large_is_cut() -> None:
    scale = torch.ones(1)
    numbers = torch.zeros(1, 1, 128)
    numbers[..., 0], numbers[..., 1] = 1e9, -1e9
    assert narrow_values(numbers, scale).float()[0, 0, :3].tolist() == [LARGEST, -LARGEST, 0]
    assert narrow_factors(numbers, scale).float()[0, 0, :3].tolist() == [20, -20, 0]


@pytest.mark.parametrize("width", [64, 128, 256])
def test_no_score_leaves_half_precision(width: int) -> None:
    factor = largest_factor(width)
    assert width * factor**2 + LARGEST_BIAS <= torch.finfo(torch.float16).max
    assert float(torch.tensor(factor).to(FP8)) == factor


def test_the_scale_of_products_has_room_for_queries_a_bias_and_digits() -> None:
    scales = scales_for(torch.tensor([1.0, 3.0]), torch.ones(2), 128)
    queries = torch.tensor([8.0, 4.0])
    plain = qk_scale_for(queries, scales, 128, alpha=0.1)
    assert plain == pytest.approx(4 / 20 * 3 / 20)
    # The greatest queries of each head still fit.
    assert bool((queries <= plain / scales[0] * largest_factor(128) * 1.0001).all())
    boundaries = torch.zeros(1, dtype=torch.int64)
    bias = RelativeBias(torch.tensor([-50.0, 1.0]), torch.tensor([20.0]), boundaries)
    scale = qk_scale_for(queries / 1e4, scales, 128, alpha=0.1, bias=bias)
    assert scale * 0.1 * LARGEST_BIAS == pytest.approx(70)
    assert qk_scale_for(queries / 1e9, scales, 128, alpha=0.1) == LEAST_PRODUCT / 0.1


def test_pages_come_in_order() -> None:
    pages = torch.arange(6.0)[:, None, None, None].expand(6, 2, 16, 8).contiguous().to(FP8)
    found = pages_of(pages, torch.tensor([5, 2, 2]), 3 * torch.ones(2, 2), torch.float32)
    assert found[..., 0, 0, 0].tolist() == [15, 6, 6]


def test_keys_come_before_values_of_every_sixteen_permuted() -> None:
    k, v = torch.randn(2, 32, 1, 4).unbind()
    page = torch.zeros(1, 1, 32, 8).to(FP8)
    page_write(k, v, torch.arange(32), kv_pages=page, kv_scales=torch.ones(2, 1))
    keys, values = page.flatten().chunk(2)
    assert torch.equal(keys.float(), k.to(FP8).float().flatten())
    of_places = values.view(4, 2, 16)  # dimension, sixteen keys, place
    first = [of_places[0, 1, place].float() for place in range(6)]
    assert first == [v[16 + key, 0, 0].to(FP8).float() for key in (0, 1, 8, 9, 2, 3)]


@pytest.mark.parametrize(
    "pages",
    [
        torch.zeros(2, 3, 24, 16).to(FP8),  # 24 rows
        torch.zeros(2, 16, 3, 16).to(FP8).transpose(1, 2),  # heads beside rows
    ],
    ids=["rows", "heads"],
)
def test_pages_of_another_layout_are_refused(pages: torch.Tensor) -> None:
    k = torch.zeros(1, 3, 8)
    with pytest.raises(ValueError, match="multiple of 16 rows, those of a head without a gap"):
        page_write(k, k, torch.zeros(1, dtype=torch.int64), kv_pages=pages,
                   kv_scales=torch.ones(2, 3))  # fmt: skip


def test_the_twin_rounds_queries_and_weights_as_the_tensor_cores_do() -> None:
    torch.manual_seed(0)
    pages = torch.zeros(1, 2, 16, 16).to(FP8)
    k, v = torch.randn(2, 16, 2, 8).unbind()
    scales = scales_for(torch.full((2,), 4.0), torch.full((2,), 4.0), 8)
    page_write(k, v, torch.arange(16), kv_pages=pages, kv_scales=scales)
    q, own_k, own_v = torch.randn(3, 5, 2, 8).unbind()
    options = {
        "kv_pages": pages, "kv_scales": scales, "alpha": 0.3, "norm_length": 16,
        "timestamp_pages": torch.zeros(1, 16, dtype=torch.int64),
        "page_table": torch.zeros(1, 1, dtype=torch.int32),
        "row_offsets": torch.tensor([0, 5]), "key_limits": torch.full((5,), 16),
        "timestamps": torch.zeros(5, dtype=torch.int64),
    }  # fmt: skip
    exact = paged_hstu_attention(q, own_k, own_v, **options)
    qk_scale = qk_scale_for(torch.full((2,), 4.0), scales, 8, alpha=0.3)
    rounded = paged_hstu_attention(q, own_k, own_v, **options, qk_scale=qk_scale)
    error = float((rounded - exact).norm() / exact.norm())
    assert 1e-3 < error < 0.06
    with pytest.raises(
        ValueError, match=r"qk_scale \(1e-06\) times alpha \(0.3\) must be at least"
    ):
        paged_hstu_attention(q, own_k, own_v, **options, qk_scale=1e-6)


def test_scales_are_of_the_model_and_leave_room(served_artifact) -> None:
    model = served_artifact.load_model()
    first, again = page_scales(model), page_scales(model)
    assert list(first) == list(model.layers)
    for layer in model.layers:
        assert first[layer].kv.shape == (2, model.config.num_heads)
        assert (first[layer].kv > 0).all()
        assert torch.equal(first[layer].kv, again[layer].kv)
        assert first[layer].qk == again[layer].qk > 0


def test_a_layer_rounds_queries_as_it_writes_where_its_attention_takes_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = HSTUConfig(
        num_items=1, num_actions=1, tasks=(), hidden_size=32, num_layers=1, num_heads=2,
        head_dim=16, max_history=64, chunk_size=1, norm_length=64,
    )  # fmt: skip
    of_vllm = SimpleNamespace(compilation_config=SimpleNamespace(static_forward_context={}))
    monkeypatch.setattr(attention_backend, "get_current_vllm_config", lambda: of_vllm)
    paged = attention_backend.PagedHSTUAttention(config, FP8, prefix="layers.0.attention")
    paged.bind_kv_cache(torch.zeros(2, 2, 64, 32).to(FP8))
    paged.scales = PageScales(torch.full((2, 2), 0.25), 1.0)
    zeros, times = torch.zeros(3, dtype=torch.int64), torch.zeros(2, 64, dtype=torch.int64)
    rows = PassInputs(
        items=zeros, actions=zeros, limits=torch.arange(3), timestamps=zeros,
        slots=torch.tensor([64, 65, -1]), row_offsets=torch.tensor([0, 3]).int(),
        page_table=torch.tensor([[1]]).int(), max_new_rows=3, max_keys=3,
    )  # fmt: skip
    layer, (q, k, v) = HSTULayer(config), torch.randn(3, 3, 2, 16).bfloat16().unbind()
    assert paged.write(layer, q, k, v, rows, timestamp_pages=times) is None
    expected = paged.attend(layer, q, k, v, rows, times, None).parts
    asked = {}

    def takes(q: torch.Tensor, **call: object) -> bool:
        asked.update(call)
        return True

    monkeypatch.setattr(attention_backend, "takes_queries", takes)
    queries = paged.write(layer, q, k, v, rows, timestamp_pages=times)
    assert queries is not None
    assert torch.equal(queries.float(), narrow_factors(q, torch.full((2,), 4.0)).float())
    assert torch.equal(paged.attend(layer, q, k, v, rows, times, queries).parts, expected)
    assert asked["has_bias"] == (layer.bias is not None)
    assert (asked["qk_scale"], asked["max_new_rows"], asked["max_keys"]) == (1.0, 3, 3)


@pytest.fixture(scope="session")
def fp8_engine(odd_engine, served_artifact) -> Iterator[ScoringEngine]:
    """It asks for the other engines so that all are closed at the end: closing one ends all."""
    from genrec_serving.engines.vllm_engine import VllmEngine

    engine = VllmEngine(
        served_artifact, version="1", options=VllmOptions(kv_cache_mb=1, fp8_pages=True)
    )
    yield engine
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("events", [0, 15, 16, 47, 300])
async def test_scores_are_near_and_the_same_fresh_and_cached(fp8_engine, truth, events) -> None:
    candidates = np.arange(3, 53)
    for seed in range(3):
        rows = truth.rows(events, seed=seed)
        call = RankCall(rows=rows, now=truth.now, candidates=candidates)
        fresh, cached = await fp8_engine.rank(call), await fp8_engine.rank(call)
        assert cached.cached_rows == (len(rows.items) - 1) // 16 * 16
        truth.assert_same(cached, fresh)
        wanted = truth.rank(rows, candidates)
        for name in ("scores", "task_logits"):
            found, exact = getattr(fresh, name), getattr(wanted, name)
            assert np.abs(found - exact).mean() < 0.05 * exact.std()
        best = await fp8_engine.recommend(
            RecommendCall(rows=rows, now=truth.now, k=10, exclude=NONE)
        )
        assert len(set(best.items.tolist()) & set(truth.recommend(rows, 10).items.tolist())) >= 8


@pytest.mark.slow
def test_pages_are_a_quarter(fp8_engine, vllm_engine) -> None:
    pages = [
        engine._engine._core.engine_core.scheduler.kv_cache_manager.block_pool.num_gpu_blocks
        for engine in (fp8_engine, vllm_engine)
    ]
    assert pages[0] > 3.5 * pages[1]
    assert fp8_engine.current_statistics()["page_dtype"] == "float8_e4m3fn"
