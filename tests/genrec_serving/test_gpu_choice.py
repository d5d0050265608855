"""Engines are spread over the GPUs that the server may use."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from genrec_serving.engines.vllm_environment import use_gpu
from genrec_serving.engines.vllm_processes import gpu_of_engine


@pytest.mark.parametrize("gpus", [0, 1])
def test_one_gpu_or_none_is_left_as_it_is(gpus: int) -> None:
    assert [gpu_of_engine(number, gpus) for number in range(3)] == [None] * 3


def test_engines_are_spread_evenly() -> None:
    chosen = Counter(gpu_of_engine(number, 3) for number in range(7))
    assert chosen == {0: 3, 1: 2, 2: 2}


@pytest.mark.parametrize(
    ("seen", "number", "left"),
    [(None, 1, "1"), ("", 1, "1"), ("4,6", 1, "6"), ("GPU-a, GPU-b", 1, "GPU-b")],
)
def test_a_worker_sees_its_own(
    monkeypatch: pytest.MonkeyPatch, seen: str | None, number: int, left: str
) -> None:
    if seen is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    use_gpu(number)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == left
