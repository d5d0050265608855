"""Engines for a benchmark: a model of random weights, and an engine that serves it."""

from __future__ import annotations

from pathlib import Path

import torch

from genrec_model.artifact import Artifact
from genrec_serving.bench.engine_users import Preset
from genrec_serving.bench.item_popularity import ItemPopularity
from genrec_serving.bench.random_model import write_random_model
from genrec_serving.engines.interface import ScoringEngine
from genrec_serving.engines.vllm_engine import VllmEngine
from genrec_serving.engines.vllm_options import VllmOptions
from genrec_serving.engines.vllm_processes import VllmProcesses

#: Events of the training that the model never had: what the items' popularity is known from.
_TRAINING_EVENTS = 10_000_000


def write_model(preset: Preset, folder: Path, items: ItemPopularity) -> Artifact:
    """The preset's model, with random weights; it knows how popular the items are."""
    return write_random_model(
        folder, items=preset.items, layers=preset.layers, width=preset.width, heads=preset.heads,
        max_history=preset.max_history, chunk=min(256, preset.max_history), onnx=False,
        train_counts=items.expected(_TRAINING_EVENTS),
    )  # fmt: skip


def engine_options(
    preset: Preset,
    *,
    dtype: str | None,
    processes: int,
    item_cache: str,
    fp8_pages: bool = False,
    fp8_linear: bool = False,
) -> VllmOptions:
    """Of an engine of the preset on this device."""
    return VllmOptions(
        kv_cache_mb=preset.kv_cache_mb,
        max_requests=128,
        max_step_rows=8192,
        dtype=dtype,
        processes=processes,
        item_cache=item_cache,
        fp8_pages=fp8_pages,
        fp8_linear=fp8_linear,
    ).for_device(cuda=torch.cuda.is_available())


def start_engine(artifact: Artifact, options: VllmOptions) -> ScoringEngine:
    """In this process, or in processes of its own."""
    start = VllmProcesses if options.processes else VllmEngine
    return start(artifact, version="1", options=options)
