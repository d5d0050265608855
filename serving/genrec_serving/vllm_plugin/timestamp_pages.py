"""Timestamps of the history rows, in vLLM's own pages.

The time bias needs the time of every key. Kept as one more "layer" of the KV cache, these times
are shared, evicted and restored with the keys that they belong to: chunked prefill, prefix
caching and preemption need no word about them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.v1.kv_cache_interface import FullAttentionSpec

from genrec_serving.vllm_plugin.attention_backend import PagedLayer


class TimestampPages(PagedLayer):
    """Int64 unix seconds of every cached row.

    To vLLM it is a layer with one head of width 1 in int32: its "key" and its "value" are the two
    halves of the number.
    """

    def get_kv_cache_spec(self, vllm_config: VllmConfig) -> FullAttentionSpec:
        """Eight bytes a row."""
        return FullAttentionSpec(
            block_size=vllm_config.cache_config.block_size,
            num_kv_heads=1,
            head_size=1,
            dtype=torch.int32,
        )

    @property
    def times(self) -> Tensor:
        """int64 [P, S], a view of the pages."""
        return self.pages.view(torch.int64)[:, 0, :, 0]
